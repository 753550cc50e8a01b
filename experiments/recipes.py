"""Which recipe trains best in a short budget?

    python experiments/recipes.py
    python experiments/recipes.py --models resnet20 --epochs 10 --seeds 1

Trains each network by the recipes published, fast and modern, for the same number of epochs, on all training images.
The published recipe is shrunk to that number: its learning rate is divided by ten after 40 % and after 80 % of the
epochs. The command resumes after a kill, and concurrent copies that share the folder split the runs.

Cost: 12 runs of 30 epochs, each one to four hours on two cores of a desktop.

Result: recipes.md and recipes.csv in the folder of the study, beside a folder for each run.
"""

from typing import Any

from seanet_jax.commands.study import study


def run_recipes(command: Any, compiler_options: Any) -> None:
    """Imports and calls the function of the same name in ``seanet_jax.studies.recipes``."""
    from seanet_jax.studies import recipes

    recipes.run_recipes(command, compiler_options)


if __name__ == "__main__":
    study(str(__doc__), run_recipes, ("seanet20_narrow", "narrow_senet20"), (0.1,), epochs=30)
