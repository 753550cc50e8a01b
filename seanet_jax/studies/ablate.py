"""The ablation: changes one design choice of SEANet at a time, and tabulates the errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seanet_jax.durable import write_together
from seanet_jax.errors import InputError
from seanet_jax.printable import csv_text
from seanet_jax.studies.statistics import format_summary, summarize
from seanet_jax.studies.study import Run, Study
from seanet_jax.studies.tables import markdown_text
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.progress import print_once

# For each choice, the name of every value and the variant that has it. A factor of 1 is no aggregation.
AXES: dict[str, dict[str, str]] = {
    "operation": {"sum": "base", "mean": "mean", "max": "max", "none": "none"},
    "factor": {"1": "none", "2": "factor2", "4": "base", "8": "factor8"},
    "placement": {"stage": "base", "block": "block"},
    "reduction": {"4": "reduction4", "8": "base", "16": "reduction16"},
    "squeeze-excitation": {"on": "base", "off": "no_se"},
}

# For each choice, the value that the base network has.
BASE_VALUES = {axis: next(value for value, name in values.items() if name == "base") for axis, values in AXES.items()}

# For each variant, what differs from the base. The base is SEANet as published: sums of 4 channels after each stage and
# a squeeze-excitation of reduction 8.
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


def run_ablation(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains the missing runs, and writes ``table.md`` and ``table.csv``.

    Args:
        command: The base network, seeds, learning rates, recipe and folder of the study.
        compiler_options: The options of XLA for the runs.

    Raises:
        InputError: If the command does not name exactly one model, the model's choices are not those of the base, or
            ``Study.run`` does.
        RunError: If ``Study.run`` does.
        StoppedError: If ``Study.run`` does.
    """
    if len(command.models) != 1:
        raise InputError(f"--models names {len(command.models)} networks; name the one that the ablation changes")
    (model,) = command.models
    folder = command.config.out or Path("runs") / f"ablate-{command.config.data_name}-{model}"
    variants = {name: {"model": model} | fields for name, fields in VARIANTS.items()}
    study = Study(folder, command.config, variants, command.seeds, command.learning_rates, command.extend_rates)
    _check_base(study)
    study.run(compiler_options, command=command.command_line)
    study = Study.read(folder)
    with study.locked():
        write_tables(study)
    print_once(f"{folder / 'table.md'}:\n\n{(folder / 'table.md').read_text()}")


def _check_base(study: Study) -> None:
    """Checks that the base has the choices that the table says it has.

    Raises:
        InputError: If it does not.
    """
    base = study.config(Run("base", study.learning_rates[0], 0)).model_config(num_classes=10)
    fields = [f"aggregate_{name}" for name in ("op", "factor", "placement", "stages", "norm")]
    fields += ["reduction", "squeeze_excite"]
    if [getattr(base, field, None) for field in fields] != ["sum", 4, "stage", None, False, 8, True]:
        raise InputError(
            f"--models {base_name(study)} is not a base for the ablation; name a preset with squeeze-excitation of "
            "reduction 8 and sums of 4 channels after each stage, for example seanet20_narrow, and override neither"
        )


def base_name(study: Study) -> str:
    """Returns the name of the preset that the ablation changes."""
    return str(study.variants["base"]["model"])


def table(study: Study) -> list[dict[str, Any]]:
    """Returns a row for each value of each choice. The base is in the rows of every choice.

    Returns:
        Rows with the keys ``axis`` (the choice), ``value``, ``variant``, ``learning_rate`` (None if it is not chosen
        yet or every rate diverged), ``validation_errors`` in percent by learning rate ("diverged" for one that did),
        and ``test_errors`` in percent at the last epoch of the runs at the chosen rate, by seed.
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
    """Returns the table as Markdown."""
    rates = study.tried_rates()
    validation = [f"validation error at {rate:g}, %" for rate in rates]
    header = ["choice", "value", *validation, "learning rate", "test error, %"]
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
        "It is the mean ± standard deviation over the seeds."
        if any(len(row["test_errors"]) > 1 for row in table(study))
        else "It is from one run for each row, so its spread is unknown."
    )
    lines += [
        "",
        f"The base network, {markdown_text(base_name(study))}, has the values in bold; the other rows change one "
        "choice. The learning rate is the one with the smallest validation error in the run from seed 0. The test "
        f"error is from the last epoch at that learning rate. {spread}",
    ]
    return "\n".join([*lines, ""])


def write_tables(study: Study) -> None:
    """Writes ``table.md`` and ``table.csv`` into the folder of the study."""
    rows = table(study)
    for row in rows:
        for name in ("validation_errors", "test_errors"):
            row[name] = " ".join(f"{key:g}:{_rounded(value)}" for key, value in row[name].items())
    write_together(study.folder, {"table.md": markdown(study), "table.csv": csv_text(rows)})


def _rounded(value: float | str | None) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
