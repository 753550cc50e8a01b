r"""What do the choices of SEANet contribute: operation, factor, placement, reduction, squeeze-excitation?

    python experiments/ablate.py
    python experiments/ablate.py --models seanet20_narrow --learning-rates 0.1 0.03 --seeds 1 --limit-train 20000 \
        --epochs 5 --decay-every 2

One choice at a time is changed. Every variant is given the same learning rates and keeps the one that is best on
the last tenth of the training images: a sum of k rectified maps is larger than their mean, and at one rate for all a
comparison of operations would compare rates. --models names the network that is changed.

Cost: 30 runs of 200 epochs and, for each seed after the first, 10 more, which want GPUs. The second command is the
study in docs/results.md: 20 runs of 5 epochs, a quarter of an hour each on one core of a desktop. Started twice it
shares the runs out; killed and started again, it goes on.

Result: table.md and table.csv in the study's folder, beside a folder for each run.
"""

from seanet_jax.commands.ablate import main

if __name__ == "__main__":
    main(__doc__)
