"""One choice of SEANet changed at a time: operation, factor, placement, reduction, squeeze-excitation."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seanet_jax.errors import InputError
from seanet_jax.files import write_whole
from seanet_jax.studies.statistics import format_summary, summarize
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.progress import say

# By axis: each value's name and the variant that has it. A factor of 1 is no aggregation.
AXES: dict[str, dict[str, str]] = {
    "operation": {"sum": "base", "mean": "mean", "max": "max", "none": "none"},
    "factor": {"1": "none", "2": "factor2", "4": "base", "8": "factor8"},
    "placement": {"stage": "base", "block": "block"},
    "reduction": {"4": "reduction4", "8": "base", "16": "reduction16"},
    "squeeze-excitation": {"on": "base", "off": "no_se"},
}

# The base's value of each axis.
BASE_VALUES = {axis: next(value for value, name in values.items() if name == "base") for axis, values in AXES.items()}

# What is changed of the base, which is SEANet as published: a sum of 4 after each stage, reduction 8.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "mean": {"aggregate_op": "mean"},
    "max": {"aggregate_op": "max"},
    "none": {"aggregate_placement": "none"},
    "factor2": {"aggregate_factor": 2},
    "factor8": {"aggregate_factor": 8},
    "block": {"aggregate_placement": "block"},
    "reduction4": {"reduction": 4},
    "reduction16": {"reduction": 16},
    "no_se": {"squeeze_excite": False},
}


def conduct(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains what the study lacks and writes ``table.md`` and ``table.csv``.

    Args:
        command: the model that is changed, seeds, rates, recipe and folder.
        compiler_options: of XLA, for the runs.

    Raises:
        InputError: not one model is named, or the model's own choices are not the base's; or as ``Study.run``.
        RunError: StoppedError: as ``Study.run``.
    """
    if len(command.models) != 1:
        raise InputError(f"--models names {len(command.models)} networks; name the one whose choices are changed")
    (model,) = command.models
    folder = command.config.out or Path("runs") / f"ablate-{command.config.dataset}-{model}"
    variants = {name: {"model": model} | fields for name, fields in VARIANTS.items()}
    study = Study(folder, command.config, variants, command.seeds, command.learning_rates)
    _check_base(study)
    study.run(compiler_options)
    study = Study.read(folder)
    with study.locked():
        write_tables(study)
    say(f"{folder / 'table.md'}:\n\n{(folder / 'table.md').read_text()}")


def _check_base(study: Study) -> None:
    """The names of the values are true of this base alone."""
    base = study.config(Run("base", study.learning_rates[0], 0)).model_config(num_classes=10)
    fields = ("aggregate_op", "aggregate_factor", "aggregate_placement", "reduction", "squeeze_excite")
    if [getattr(base, field, None) for field in fields] != ["sum", 4, "stage", 8, True]:
        raise InputError(
            f"--models {base_name(study)} is not a base for the ablation; name a preset with squeeze-excitation of "
            "reduction 8 and a sum of 4 channels after each stage, for example seanet20_narrow, and override nothing"
        )


def base_name(study: Study) -> str:
    """The preset that is changed."""
    return str(study.variants["base"]["model"])


def table(study: Study) -> list[dict[str, Any]]:
    """A row for each value of each axis, the base in every axis; errors in percent.

    Returns:
        Rows of ``axis``, ``value``, ``variant``, ``learning_rate`` (None while it is chosen, and where every rate
        diverged), ``validation_errors`` by rate ("diverged" for one that did), and ``test_errors`` of the last epoch
        at the chosen rate, by seed.
    """
    made = []
    for axis, values in AXES.items():
        for value, variant in values.items():
            tried = {
                run.learning_rate: _validation_error(study, run)
                for run in study.runs_of(variant)
                if run.seed == 0 and study.outcome(run)
            }
            tests = {seed: 100 * (1 - found[-1]["test_accuracy"]) for seed, found in study.results(variant).items()}
            made.append(
                {
                    **{"axis": axis, "value": value, "variant": variant},
                    "learning_rate": study.chosen_rate(variant),
                    "validation_errors": tried,
                    "test_errors": tests,
                }
            )
    return made


def _validation_error(study: Study, run: Run) -> float | str | None:
    if study.outcome(run) == "diverged":
        return "diverged"
    accuracy = study.records(run)[-1].get("val_accuracy")
    return None if accuracy is None else 100 * (1 - accuracy)


def markdown(study: Study) -> str:
    """The table."""
    rates = study.learning_rates
    header = ["choice", "value", *(f"validation error at {rate:g}, %" for rate in rates), "rate", "test error, %"]
    lines = [f"| {' | '.join(header)} |", "|---|---" + "|---:" * (len(header) - 2) + "|"]
    for row in table(study):
        tried = [row["validation_errors"].get(rate) for rate in rates]
        errors = list(row["test_errors"].values())
        cells = [
            row["axis"],
            f"**{row['value']}**" if row["variant"] == "base" else row["value"],
            *("—" if error is None else error if isinstance(error, str) else f"{error:.2f}" for error in tried),
            "—" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
            format_summary(summarize(errors)) if errors else "—",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    spread = (
        "mean ± standard deviation over the seeds"
        if any(len(row["test_errors"]) > 1 for row in table(study))
        else "of one run each, so that the spread is not known"
    )
    lines += [
        "",
        f"{base_name(study)}, bold, with one choice changed at a time. The rate is the one with the smallest "
        f"validation error of seed 0; the test error is that of the last epoch at that rate, {spread}.",
    ]
    return "\n".join([*lines, ""])


def write_tables(study: Study) -> None:
    """Writes ``table.md`` and ``table.csv`` into the study's folder."""
    write_whole(study.folder / "table.md", markdown(study))
    text = io.StringIO()
    names = ("axis", "value", "variant", "learning_rate", "validation_errors", "test_errors")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in table(study):
        for name in ("validation_errors", "test_errors"):
            row[name] = " ".join(f"{key:g}:{_rounded(value)}" for key, value in row[name].items())
        writer.writerow(row)
    write_whole(study.folder / "table.csv", text.getvalue())


def _rounded(value: float | str | None) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
