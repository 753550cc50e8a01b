"""The comparison of recipes: trains the same networks by several recipes, and tabulates their accuracies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seanet_jax.durable import write_together
from seanet_jax.errors import InputError
from seanet_jax.printable import csv_text
from seanet_jax.studies.statistics import Summary, format_summary, summarize
from seanet_jax.studies.study import Study
from seanet_jax.studies.tables import markdown_text
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.progress import print_once
from seanet_jax.training.recipe_presets import recipe

NAMES = ("published", "fast", "modern")
"""The recipes that are compared. The first one is the baseline."""

# Shares of the epochs after which the shrunk published recipe divides its learning rate by ten. In the published run,
# they are 40 % and 80 % of 200 epochs.
_DECAYS = (0.4, 0.8)


def run_recipes(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains the missing runs, and writes ``recipes.md`` and ``recipes.csv``.

    Args:
        command: The networks, seeds, number of epochs and folder of the study.
        compiler_options: The options of XLA for the runs.

    Raises:
        InputError: If ``Study.run`` does, or a network cannot be trained by one of the recipes.
        RunError: If ``Study.run`` does.
        StoppedError: If ``Study.run`` does.
    """
    folder = command.config.out or Path("runs") / f"recipes-{command.config.data_name}"
    found = variants(tuple(command.models), command.config.epochs)
    # Each recipe has one learning rate, so the study refuses to extend them.
    study = Study(folder, command.config, found, command.seeds, extend_rates=command.extend_rates)
    study.run(compiler_options, command=command.command_line)
    study = Study.read(folder, data_dir=command.config.data_dir)
    with study.locked():
        write_tables(study)
    print_once(f"{folder / 'recipes.md'}:\n\n{(folder / 'recipes.md').read_text()}")


def variants(models: Sequence[str], epochs: int) -> dict[str, dict[str, Any]]:
    """Returns the variants of the study: each network by each recipe, for the same number of epochs.

    Args:
        models: Presets of the networks.
        epochs: Number of epochs.

    Raises:
        InputError: If the epochs are too few for the decays of the published recipe.
    """
    decays = tuple(round(share * epochs) for share in _DECAYS)
    if not 0 < decays[0] < decays[1]:
        raise InputError(f"epochs is {epochs}; give at least 2, so that the published recipe has its two decays")
    shrunk = {"published": {"decay_every": None, "decay_at": decays}}
    return {
        f"{model}-{name}": {"model": model, **recipe(name, epochs=epochs, **shrunk.get(name, {}))}
        for name in NAMES
        for model in models
    }


class Row(NamedTuple):
    """What a network reaches by a recipe. Accuracies are in percent of the test images, at the last epoch.

    Attributes:
        model: The preset of the network.
        recipe: The name of the recipe.
        accuracy: Accuracy over the seeds.
        average: Accuracy of the moving average over the seeds; None if the recipe keeps none.
        gain: Mean difference of the better of both from the first recipe, in points; None for the first recipe itself,
            or if it has no finished run.
        hours: Mean hours of training of a run.
    """

    model: str
    recipe: str
    accuracy: Summary
    average: Summary | None
    gain: float | None
    hours: float


def rows(study: Study) -> list[Row]:
    """Returns the rows of the table: the networks in the order of the study, each by all recipes with finished runs."""
    found: list[Row] = []
    for model in dict.fromkeys(str(fields["model"]) for fields in study.variants.values()):
        baseline = None
        for name in NAMES:
            variant = f"{model}-{name}"
            runs = list(study.results(variant).values()) if variant in study.variants else []
            if not runs:
                continue
            plain = summarize([100 * run[-1]["test_accuracy"] for run in runs])
            averages = [100 * run[-1]["ema_test_accuracy"] for run in runs if "ema_test_accuracy" in run[-1]]
            average = summarize(averages) if averages else None
            best = max(plain.mean, average.mean if average else 0.0)
            hours = sum(record["seconds"] for run in runs for record in run) / len(runs) / 3600
            found.append(Row(model, name, plain, average, None if baseline is None else best - baseline, hours))
            if name == NAMES[0]:
                baseline = best
    return found


def markdown(study: Study) -> str:
    """Returns the table as Markdown."""
    header = ["network", "recipe", "test accuracy, %", "of the moving average, %", "gain, points", "hours of a run"]
    lines = [f"| {' | '.join(header)} |", "|---|---" + "|---:" * (len(header) - 2) + "|"]
    for row in rows(study):
        cells = [
            *(markdown_text(row.model), row.recipe, format_summary(row.accuracy)),
            "" if row.average is None else format_summary(row.average),
            "" if row.gain is None else f"{row.gain:+.2f}",
            f"{row.hours:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Accuracies are those of the last epoch, mean ± standard deviation over {study.seeds} seeds. The gain is over "
        f"the recipe {NAMES[0]}, of the better of both accuracies.",
    ]
    return "\n".join([*lines, ""])


def write_tables(study: Study) -> None:
    """Writes ``recipes.md`` and ``recipes.csv`` into the folder of the study."""
    cells = []
    for row in rows(study):
        of_average = row.average or Summary(float("nan"), None, 0)
        cells.append(
            {
                **{"model": row.model, "recipe": row.recipe, "seeds": row.accuracy.size},
                **{"accuracy": f"{row.accuracy.mean:.4f}", "accuracy_sd": _number(row.accuracy.deviation)},
                **{"average": _number(of_average.mean), "average_sd": _number(of_average.deviation)},
                **{"gain": _number(row.gain), "hours": f"{row.hours:.4f}"},
            }
        )
    write_together(study.folder, {"recipes.md": markdown(study), "recipes.csv": csv_text(cells)})


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4f}"
