r"""What do the design choices of SEANet contribute: operation, factor, placement, reduction, squeeze-excitation?

    python experiments/ablate.py
    python experiments/ablate.py --models seanet20_narrow --learning-rates 0.1 0.03 --seeds 1 --limit-train 20000 \
        --epochs 5 --decay-every 2

The ablation changes one choice at a time of the network that --models names. Every variant is trained at each learning
rate and keeps the one with the best accuracy on the validation images, the last tenth of the training images. A single
rate would be unfair: a sum of k rectified maps is larger than their mean, so the best rate depends on the operation.
The command resumes after a kill, and concurrent copies that share the folder split the runs.

Cost: 30 runs of 200 epochs, and 10 more for each seed after the first. This needs GPUs. The second command is the study
in docs/results.md: 20 runs of 5 epochs, each a quarter of an hour on one core of a desktop.

Result: table.md and table.csv in the folder of the study, beside a folder for each run.
"""

from seanet_jax.commands.ablate import main

if __name__ == "__main__":
    main(__doc__)
