"""Do the talk's claims about aggregation hold: fewer redundant maps, more gradient, a global representation?

    python experiments/analyze.py RUN_THAT_AGGREGATES RUN_THAT_DOES_NOT --out runs/analysis

Both are folders of runs of the same widths, with their checkpoints: seanet20_narrow and narrow_senet20, for example.

Cost: four short trainings, twenty minutes on two cores with the narrow networks.

Result: analysis.json with the numbers, a sentence and a figure for each claim.
"""

from seanet_jax.commands.analyze import main

if __name__ == "__main__":
    main(__doc__)
