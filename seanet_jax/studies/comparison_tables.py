"""The tables of a comparison, as Markdown (``table.md``) and as CSV (``table.csv``, ``tests.csv``).

``table.csv`` and ``tests.csv`` hold the same numbers as ``table.md``, unrounded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from seanet_jax.durable import write_together
from seanet_jax.printable import csv_text
from seanet_jax.studies.comparison import LEVEL, MATCHED_WITHIN, POWER, Row, comparisons, rows
from seanet_jax.studies.statistics import format_summary, summarize
from seanet_jax.studies.study import Study
from seanet_jax.studies.tables import markdown_text

_HEADER = (
    "network",
    "parameters",
    "multiply-adds, M",
    "features",
    "images/s in training",
    "learning rate",
    "error, last epoch, %",
    "error, best epoch, %",
    "the talk, %",
    "seeds",
)
# A column of networks whose recipe keeps a moving average.
_AVERAGE = "error of the moving average, last epoch, %"


def markdown(study: Study) -> str:
    """Returns the table of networks and the table of tests as Markdown."""
    table = rows(study)
    average = [_AVERAGE] if any(row.average_errors for row in table) else []
    header = [*_HEADER[:-2], *average, *_HEADER[-2:]]
    lines = [f"| {' | '.join(header)} |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for row in table:
        speed = f"{np.median(row.images_per_second):.0f}" if row.images_per_second else "—"
        cells = (
            markdown_text(row.model),
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e6:,.1f}",
            str(row.features),
            speed,
            "—" if row.learning_rate is None else f"{row.learning_rate:g}",
            _summary(row.last_errors),
            _summary(row.best_errors),
            *(_summary(row.average_errors) for _ in average),
            "—" if row.talk_error is None else f"{row.talk_error:.2f}",
            str(len(row.last_errors)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Errors are means ± standard deviations over the seeds. The features are those of an image that the "
        "classifier sees.",
        "",
        *_recipe_exceptions(study),
    ]
    tested = comparisons(table)
    if not tested:
        reason = "No test: no aggregated network has three seeds in common with a parameter-matched baseline."
        return "\n".join([*lines, reason, ""])
    lines += [
        "| aggregated network | baseline | parameters | multiply-adds | error difference, points | 95 % interval | p "
        "| p (Holm) | smallest detectable, points | result |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    by_name = {row.model: row for row in table}
    for one in tested:
        d, ours, theirs = one.difference, by_name[one.aggregated], by_name[one.baseline]
        lines.append(
            f"| {markdown_text(one.aggregated)} | {markdown_text(one.baseline)} | "
            f"{ours.parameters / theirs.parameters - 1:+.1%} | {ours.multiply_adds / theirs.multiply_adds - 1:+.1%} | "
            f"{d.mean:+.2f} | "
            f"{d.low:+.2f} to {d.high:+.2f} | {d.p_value:.3f} | "
            f"{one.adjusted_p_value:.3f} | {one.detectable:.2f} | {one.verdict} |"
        )
    lines += [
        "",
        "Paired t-tests over the seeds, of the errors at the last epoch. A baseline combines no channels by a fixed "
        "rule: it keeps them all, drops some, or learns how to reduce them. Its number of parameters is within "
        f"{MATCHED_WITHIN:.0%} of the aggregated network's. All differences are aggregated network less baseline, so "
        "a negative one favors aggregation. The smallest detectable difference is the one "
        f"that a test finds with {POWER:.0%} power at a level of {LEVEL:.0%} over the number of tests, if the spread "
        "over the seeds is the true one. A few seeds give this spread only roughly.",
    ]
    return "\n".join([*lines, ""])


def _recipe_exceptions(study: Study) -> list[str]:
    """Returns a paragraph on the networks that are trained by a recipe of their own, if there are any."""
    own = []
    for variant, fields in study.variants.items():
        differences = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "model")
        own += [f"{markdown_text(variant)}: {differences}"] if differences else []
    return [f"Networks with a recipe of their own: {'; '.join(own)}.", ""] if own else []


def _summary(errors: Mapping[int, float]) -> str:
    return format_summary(summarize(list(errors.values()))) if errors else "—"


def write_tables(study: Study) -> None:
    """Writes ``table.md``, ``table.csv`` and ``tests.csv`` into the folder of the study."""
    table = rows(study)
    tests = [
        {"aggregated": one.aggregated, "baseline": one.baseline}
        | one.difference._asdict()
        | {"adjusted_p_value": one.adjusted_p_value, "detectable": one.detectable, "verdict": one.verdict}
        for one in comparisons(table)
    ]
    csvs = {"table.csv": csv_text([_csv_row(row) for row in table]), "tests.csv": csv_text(tests)}
    write_together(study.folder, {"table.md": markdown(study), **csvs})


def _csv_row(row: Row) -> dict[str, Any]:
    """Returns the cells of a row, unrounded except for the errors by seed."""
    cells = dataclasses.asdict(row)
    cells["images_per_second"] = float(np.median(row.images_per_second)) if row.images_per_second else None
    for name in ("last", "best", "average"):
        errors = cells.pop(f"{name}_errors")
        summary = summarize(list(errors.values())) if errors else None
        cells[f"{name}_error_mean"] = summary and summary.mean
        cells[f"{name}_error_deviation"] = summary and summary.deviation
        # One column holds all seeds, so that the columns do not depend on the study.
        cells[f"{name}_errors_by_seed"] = " ".join(f"{errors[seed]:.2f}" for seed in sorted(errors))
    return cells
