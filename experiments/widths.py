"""What does aggregation cost or save in compute, at equal error?

    python experiments/widths.py
    python experiments/widths.py --models seanet20_small seanet20_narrow seanet20 --recipe fast --epochs 30

Trains each network with its aggregates and without them, and fits a curve of error against multiply-adds to both. The
distance of the curves is the compute that aggregation costs or saves. The command resumes after a kill, and concurrent
copies that share the folder split the runs.

Cost: 18 runs of 200 epochs, which need a GPU. A run of seanet20 takes nearly all of the time: it has 16 times the
multiply-adds of seanet20_narrow, and 58 times those of seanet20_small.

Result: widths.md, widths.csv and the figure widths.svg in the folder of the study, beside a folder for each run.
"""

from typing import Any

from seanet_jax.commands.study import study


def run_widths(command: Any, compiler_options: Any) -> None:
    """Imports and calls the function of the same name in ``seanet_jax.studies.widths``."""
    from seanet_jax.studies import widths

    widths.run_widths(command, compiler_options)


if __name__ == "__main__":
    study(str(__doc__), run_widths, ("seanet20_small", "seanet20_narrow", "seanet20"), (0.1,))
