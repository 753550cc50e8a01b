"""Does aggregation help at equal parameters, at equal capacity and at equal compute?

    python experiments/compare.py                            # the networks of the talk and SEANet's equals, three seeds
    python experiments/compare.py --dataset cifar10
    python experiments/compare.py --models seanet20_small senet20 --limit-train 20000 --epochs 10 --decay-every 4

Cost: 33 runs of 200 epochs and, of the EncapNets, which have a recipe of their own, 9 of 600; they want GPUs, and
docs/results.md has a bound. A flag that is given is for all networks, what no flag says is each one's own. The third
command is 6 runs of 10 epochs, a quarter of an hour each on one core of a desktop. Started twice, on two cores, GPUs
or machines that share the folder, it shares the runs out; killed and started again, it goes on.

Result: table.md, table.csv and tests.csv in the study's folder, beside a folder for each run.
"""

from seanet_jax.commands.compare import main

if __name__ == "__main__":
    main(__doc__)
