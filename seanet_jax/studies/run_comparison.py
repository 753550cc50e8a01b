"""Compares finished runs of any origin: what differs in their settings, what they reach, and their curves.

Runs that differ in nothing but their seeds are one row, with the mean and the spread over the seeds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.inference.html_page import embedded_svg, render
from seanet_jax.paths import UserPath
from seanet_jax.printable import aligned, short_repr, shortened
from seanet_jax.studies.run_curves import curves_of
from seanet_jax.studies.statistics import Summary, format_summary, summarize
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.records import Record, best_record
from seanet_jax.training.run_folder import RunFolder

# What does not make a run another one: where it is, where its images are, and how it was started.
_PLACES: dict[str, Any] = {"out": None, "data_dir": None, "resume": False}
# Characters of a cell on a terminal.
_LONGEST = 40


class ComparedRun(NamedTuple):
    """A run that is compared.

    Attributes:
        name: The name of its folder.
        config: Its configuration.
        records: Its records, one for each epoch.
        parameters: Number of trained parameters.
        hours: Hours of training.
    """

    name: str
    config: TrainConfig
    records: Sequence[Record]
    parameters: int
    hours: float


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds.

    Attributes:
        name: The name of the first folder, without its seed if there are several.
        runs: The runs, in the order in which they were given.
    """

    name: str
    runs: Sequence[ComparedRun]

    @property
    def config(self) -> TrainConfig:
        """The configuration of the first run."""
        return self.runs[0].config

    def summary(self, quantity: str) -> Summary | None:
        """Returns a quantity at the last epoch over the seeds; None if a run does not record it.

        Args:
            quantity: A key of a record, for example "test_accuracy".
        """
        found = [run.records[-1].get(quantity) for run in self.runs]
        return None if None in found else summarize([float(value) for value in found if value is not None])

    def best(self) -> Summary:
        """Returns the test accuracy at the best epoch over the seeds."""
        return summarize([float((best_record(run.records) or run.records[-1])["test_accuracy"]) for run in self.runs])


def read_groups(folders: Sequence[UserPath]) -> list[Group]:
    """Reads finished runs, and groups those that differ in nothing but their seeds.

    Args:
        folders: The folders of the runs.

    Raises:
        InputError: If there are fewer than two folders, a folder is given twice, or one holds no finished run.
    """
    runs = [_read(folder) for folder in folders]
    if len(runs) < 2:
        raise InputError("one run has nothing to be compared with; name at least two")
    paths = [RunFolder(folder).path.resolve() for folder in folders]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise InputError(f"{twice} is named twice; name each run once")
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(repr(dataclasses.replace(run.config, seed=0)), []).append(run)
    return [Group(_name(members), members) for members in groups.values()]


def _read(folder: UserPath) -> ComparedRun:
    run = RunFolder(folder)
    config = dataclasses.replace(run.read_config(), **_PLACES)
    summary, records = run.read_summary(), run.read_records()
    if summary is None or not summary["finished"] or not records:
        raise InputError(f"{run.path} is not finished; finish it with --resume, or leave it out")
    hours = float(summary["training_seconds"]) / 3600
    return ComparedRun(run.path.resolve().name, config, records, summary["parameters"], hours)


def _name(runs: Sequence[ComparedRun]) -> str:
    if len(runs) == 1:
        return runs[0].name
    return runs[0].name.removesuffix(f"-seed{runs[0].config.seed}")


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Returns the settings in which the groups differ, by name, each with its value in every group.

    The seed is not among them.

    Args:
        groups: The groups.
    """
    found = [group.config.to_json() for group in groups]
    names = [name for name in found[0] if name != "seed" and any(one[name] != found[0][name] for one in found)]
    return {name: [_shown(one[name]) for one in found] for name in names}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else short_repr(value)


def notes(groups: Sequence[Group]) -> list[str]:
    """Returns what a reader of the comparison has to know.

    Args:
        groups: The groups.
    """
    found = []
    if len({group.config.dataset for group in groups}) > 1:
        found.append("The runs are of different data sets, so their accuracies cannot be compared.")
    elif len({group.config.limit_test for group in groups}) > 1:
        found.append("The runs are tested on different numbers of images.")
    if any(len(group.runs) == 1 for group in groups):
        found.append(
            "A difference between single runs may be that of their seeds; several seeds show how large that is."
        )
    if not all(group.config.validation_fraction for group in groups):
        found.append("A best epoch that is chosen on the test images is optimistic; the last epoch is not.")
    return found


_BEST = "best test accuracy, %"
_HEADER = ("run", "network", "parameters", "epochs", "test accuracy, %", _BEST, "training hours", "seeds")


def rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Returns the table of the results, with its header: a row for each group, with means and spreads over its seeds.

    Accuracies are those of the test images, in percent. Those of a moving average have a column if a run keeps one.

    Args:
        groups: The groups.
    """
    averages = [group.summary("ema_test_accuracy") for group in groups]
    has_average = any(average is not None for average in averages)
    at = _HEADER.index(_BEST)
    header = (*_HEADER[:at], "EMA test accuracy, %", *_HEADER[at:]) if has_average else _HEADER
    found = [header]
    for group, average in zip(groups, averages, strict=True):
        first = group.runs[0]
        cells = [group.name, group.config.model, f"{first.parameters:,}", f"{first.records[-1]['epoch']:g}"]
        cells.append(_percent(group.summary("test_accuracy")))
        if has_average:
            cells.append(_percent(average))
        cells += [_percent(group.best()), f"{sum(run.hours for run in group.runs) / len(group.runs):.2f}"]
        found.append((*cells, str(len(group.runs))))
    return found


def _percent(summary: Summary | None) -> str:
    if summary is None:
        return "—"
    deviation = None if summary.deviation is None else 100 * summary.deviation
    return format_summary(Summary(100 * summary.mean, deviation, summary.size))


def text(groups: Sequence[Group]) -> str:
    """Returns the comparison for a terminal: the settings that differ, the results, and notes.

    Args:
        groups: The groups.
    """
    names = [shortened(group.name, _LONGEST) for group in groups]
    settings = [("hyperparameter", *names)]
    settings += [
        (name, *(shortened(value, _LONGEST) for value in values)) for name, values in differing_settings(groups).items()
    ]
    parts = [aligned(settings)] if len(settings) > 1 else ["The runs differ in their seeds alone."]
    parts.append(aligned([[shortened(cell, _LONGEST) for cell in row] for row in rows(groups)]))
    return "\n\n".join([*parts, *notes(groups)])


def page(groups: Sequence[Group], command: str) -> str:
    """Returns the comparison as one HTML page, which needs no other file. It has the look of a run's report.

    Args:
        groups: The groups.
        command: The command line that makes the page.
    """
    curves = {group.name: [run.records for run in group.runs] for group in groups}
    return render(
        "runs.html.jinja",
        loader=jinja2.PackageLoader("seanet_jax.studies", ""),
        settings=differing_settings(groups),
        names=[group.name for group in groups],
        count=sum(len(group.runs) for group in groups),
        rows=rows(groups),
        notes=notes(groups),
        curves=[
            embedded_svg(style.svg(curves_of(curves, quantity, label)), f"{label} by epoch")
            for quantity, label in (("test_accuracy", "test error (%)"), ("train_loss", "training loss"))
        ],
        command=command,
    )
