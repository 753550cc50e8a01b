"""Does aggregation help at equal parameters, at equal capacity and at equal compute?

    python experiments/compare.py                            # networks of the talk, matched networks, three seeds
    python experiments/compare.py --dataset cifar10
    python experiments/compare.py --models seanet20_small senet20 --limit-train 20000 --epochs 10 --decay-every 4

Flags apply to all networks. Whatever no flag sets, each network takes from its own recipe. The command resumes after
a kill, and concurrent copies that share the folder, on several cores, GPUs or machines, split the runs.

Cost: 33 runs of 200 epochs, and 9 runs of 600 epochs for the EncapNets, which have a recipe of their own. This needs
GPUs; docs/results.md gives a lower bound. The third command is 6 runs of 10 epochs, each a quarter of an hour on one
core of a desktop.

Result: table.md, table.csv and tests.csv in the folder of the study, beside a folder for each run.
"""

from seanet_jax.commands.compare import main

if __name__ == "__main__":
    main(__doc__)
