"""Do the talk's claims about aggregation hold: fewer redundant maps, more gradient, a global representation?

    python experiments/analyze.py AGGREGATED_RUN BASELINE_RUN --out runs/analysis

Both arguments are folders of runs, with their checkpoints, of networks of the same widths: for example one of
seanet20_narrow, which aggregates, and one of narrow_senet20, which does not.

Cost: four short trainings; with the narrow networks twenty minutes on two cores.

Result: analysis.json with the numbers, and a sentence and a figure for each claim.
"""

from seanet_jax.commands.analyze import main

if __name__ == "__main__":
    main(__doc__)
