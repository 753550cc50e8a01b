"""The study of widths: what aggregation costs or saves in compute, at equal error.

It trains networks of several widths, each with and without its aggregates. Two curves of error against multiply-adds
follow, and their distance along the axis of multiply-adds; see ``power_law.py``.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seanet_jax import style
from seanet_jax.durable import write_together
from seanet_jax.errors import InputError
from seanet_jax.models import SEANetConfig
from seanet_jax.printable import csv_text
from seanet_jax.studies import comparison
from seanet_jax.studies.power_law import EqualError, Network, equal_error
from seanet_jax.studies.statistics import format_summary, summarize
from seanet_jax.studies.study import Study
from seanet_jax.studies.tables import markdown_text
from seanet_jax.studies.widths_figure import widths_figure
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.progress import print_once

PLAIN = "-plain"
"""The end of the name of a network without its aggregates."""


def run_widths(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains the missing runs, and writes ``widths.md``, ``widths.csv`` and the figure ``widths``.

    Args:
        command: The networks, seeds, learning rates, recipe and folder of the study.
        compiler_options: The options of XLA for the runs.

    Raises:
        InputError: If there are fewer than two networks, one of them does not aggregate, or ``Study.run`` does.
        RunError: If ``Study.run`` does.
        StoppedError: If ``Study.run`` does.
    """
    folder = command.config.out or Path("runs") / f"widths-{command.config.data_name}"
    variants = {
        model + end: {"model": model, **own, **fields}
        for model, own in command.models.items()
        for end, fields in (("", {}), (PLAIN, {"aggregate_placement": "none"}))
    }
    study = Study(folder, command.config, variants, command.seeds, command.learning_rates, command.extend_rates)
    if len(command.models) < 2:
        raise InputError("--models names 1 network; name at least two of different width, better three")
    for model in command.models:
        network = comparison.network(study, model)
        if not isinstance(network, SEANetConfig) or network.aggregate_placement == "none":
            raise InputError(f"--models names {model}, which does not aggregate; name networks that do")
    study.run(compiler_options, command=command.command_line)
    study = Study.read(folder, data_dir=command.config.data_dir)
    with study.locked():
        write_tables(study)
        draw(study)
    print_once(f"{folder / 'widths.md'}:\n\n{(folder / 'widths.md').read_text()}")


class Arms(NamedTuple):
    """The rows of a study of widths that have finished runs, by ascending multiply-adds.

    Attributes:
        aggregated: Those of the networks with their aggregates.
        plain: Those of the same networks without them.
    """

    aggregated: list[comparison.Row]
    plain: list[comparison.Row]


def arms(study: Study) -> Arms:
    """Returns the rows of the networks of a study of widths."""
    rows = sorted((row for row in comparison.rows(study) if row.last_errors), key=lambda row: row.multiply_adds)
    plain = [row for row in rows if row.model.endswith(PLAIN)]
    return Arms([row for row in rows if row not in plain], plain)


def distance(found: Arms) -> EqualError | str:
    """Returns how much compute aggregation needs at equal error, or why this cannot be said."""
    first, second = ([Network(row.multiply_adds, row.last_errors) for row in arm] for arm in found)
    try:
        return equal_error(first, second)
    except InputError as error:
        return str(error)


def sentences(found: EqualError | str) -> str:
    """Returns the distance at equal error in words."""
    if isinstance(found, str):
        return f"No distance at equal error: {found}."
    if found.factor is None:
        return "No distance at equal error: the errors do not fall with the multiply-adds."
    change = found.factor - 1
    said = [
        f"At equal error, aggregation needs {found.factor:.2f} times the multiply-adds"
        f"{_interval(found)}: it {'costs' if change >= 0 else 'saves'} {abs(change):.0%}."
    ]
    if found.low is not None and found.high is not None and found.low <= 1 <= found.high:
        said.append("The interval holds 1, so the runs do not tell whether it costs or saves.")
    if not found.is_reached:
        said.append("No error is within reach of both curves, so the factor is an extrapolation.")
    return " ".join(said)


def _interval(found: EqualError) -> str:
    if found.low is None or found.high is None:
        return " (one seed, so without an interval)"
    high = f"to {found.high:.2f}" if found.high < math.inf else "without an upper end"
    return f" (95 % bootstrap interval over {found.seeds} seeds: {found.low:.2f} {high})"


def markdown(found: Arms) -> str:
    """Returns the table of the networks and the distance at equal error as Markdown."""
    header = ["network", "aggregates", "multiply-adds, M", "parameters", "learning rate", "test error, %", "seeds"]
    lines = [f"| {' | '.join(header)} |", "|---|---" + "|---:" * (len(header) - 2) + "|"]
    for row in (*found.aggregated, *found.plain):
        cells = [
            markdown_text(row.model.removesuffix(PLAIN)),
            "yes" if row in found.aggregated else "no",
            f"{row.multiply_adds / 1e6:,.1f}",
            f"{row.parameters:,}",
            f"{row.learning_rate:g}",
            format_summary(summarize(list(row.last_errors.values()))),
            str(len(row.last_errors)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    far = distance(found)
    lines += ["", f"Errors are those of the last epoch, mean ± standard deviation over the seeds. {sentences(far)}"]
    if isinstance(far, EqualError):
        lines += [
            "",
            f"Each curve is a power law, error = scale x multiply-adds^exponent, with one exponent for both: "
            f"{far.exponent:.3f}. Alone, that of the networks with aggregates is {far.exponents[0]:.3f}, and that of "
            f"those without {far.exponents[1]:.3f}.",
        ]
    return "\n".join([*lines, ""])


def write_tables(study: Study) -> None:
    """Writes ``widths.md`` and ``widths.csv`` into the folder of the study."""
    found = arms(study)
    cells: list[dict[str, Any]] = [
        {
            "model": row.model.removesuffix(PLAIN),
            "aggregates": row in found.aggregated,
            "multiply_adds": row.multiply_adds,
            "parameters": row.parameters,
            "learning_rate": row.learning_rate,
            "errors_by_seed": " ".join(f"{row.last_errors[seed]:.2f}" for seed in sorted(row.last_errors)),
        }
        for row in (*found.aggregated, *found.plain)
    ]
    write_together(study.folder, {"widths.md": markdown(found), "widths.csv": csv_text(cells)})


def draw(study: Study) -> None:
    """Draws the figure ``widths`` into the folder of the study, if there are finished runs."""
    found = arms(study)
    aggregated, plain = (
        [(float(row.multiply_adds), summarize(list(row.last_errors.values()))) for row in arm] for arm in found
    )
    far = distance(found)
    if aggregated or plain:
        fit = far if isinstance(far, EqualError) else None
        style.save(widths_figure(aggregated, plain, fit), study.folder / "widths")
