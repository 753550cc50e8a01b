"""Networks against each other under one recipe: one table of what they cost and reach, one of which differences hold.

``parameters`` and ``multiply_adds`` are counted from the model, ``images_per_second`` is measured on the machine that
finished the study, in turns; errors are in percent, of the test images. "Best epoch" is the talk's way of reading a
run, the smallest error on the very images it is reported for; the last epoch chooses nothing.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from seanet_jax.data import image_spec, load
from seanet_jax.files import write_whole
from seanet_jax.models import NetworkConfig, SEANetConfig
from seanet_jax.models.multiply_adds import multiply_adds, parameters
from seanet_jax.studies.speed import training_speeds
from seanet_jax.studies.statistics import PairedDifference, format_summary, holm, paired_difference, summarize
from seanet_jax.studies.study import Run, Study
from seanet_jax.training import sharding
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.progress import say

# Classification error in percent, SEANet talk (MIND 2019): the best epoch on the test images, one run each.
TALK = {
    "cifar10": {
        **{"seanet20": 4.3, "resnet20": 8.6, "resnet32": 7.68, "resnet44": 6.43, "resnet56": 6.84, "resnet110": 6.34},
        **{"senet20": 7.17, "encapnet": 4.55, "encapnet_plus": 3.13, "encapnet_plus_plus": 3.10},
    },
    "cifar100": {
        **{"seanet20": 21.33, "resnet20": 32.63, "resnet32": 30.2, "resnet44": 26.85, "resnet56": 26.2},
        **{"resnet110": 26.67, "senet20": 30.45},
        **{"encapnet": 26.77, "encapnet_plus": 24.01, "encapnet_plus_plus": 24.18},
    },
}

# Networks are equals if their parameters differ by no more than this share.
EQUAL_WITHIN = 0.1

# Fewer pairs give no test that could tell a difference from noise.
_PAIRS_FOR_A_TEST = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """A network of a study.

    Attributes:
        model: its name.
        aggregates: whether it does.
        parameters: trained ones.
        multiply_adds: of one image.
        images_per_second: in training, once a round; empty if not measured yet.
        learning_rate: of its runs; None while it is being chosen, and if it diverged at every rate.
        last_errors: in percent, at the last epoch, by seed.
        best_errors: in percent, at the epoch where each run's is smallest, by seed.
        talk_error: in percent, as the talk gives it; None if it does not.
    """

    model: str
    aggregates: bool
    parameters: int
    multiply_adds: int
    images_per_second: tuple[float, ...]
    learning_rate: float | None
    last_errors: Mapping[int, float]
    best_errors: Mapping[int, float]
    talk_error: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An aggregated network and an equal of it, on the same seeds.

    Attributes:
        aggregated: name of the first.
        equal: name of the second.
        difference: of their last epochs' errors, first minus second, in percentage points.
        adjusted_p_value: after Holm, for all comparisons of the study.
    """

    aggregated: str
    equal: str
    difference: PairedDifference
    adjusted_p_value: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.adjusted_p_value >= 0.05:
            return "not told from noise"
        return "aggregation is better" if self.difference.mean < 0 else "aggregation is worse"


def conduct(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains what the study lacks, measures speeds, writes ``table.md``, ``table.csv`` and ``tests.csv``.

    Args:
        command: models, seeds, recipe and folder.
        compiler_options: of XLA, for the runs.

    Raises:
        InputError: RunError: StoppedError: as ``Study.run``.
    """
    folder = command.config.out or Path("runs") / f"compare-{command.config.dataset}"
    variants = {model: {"model": model, **own} for model, own in command.models.items()}
    study = Study(folder, command.config, variants, command.seeds, command.learning_rates)
    study.run(compiler_options)
    study = Study.read(folder)
    _measure_speeds(study, compiler_options)
    with study.locked():
        write_tables(study)
    say(f"{folder / 'table.md'}:\n\n{(folder / 'table.md').read_text()}")


def _measure_speeds(study: Study, compiler_options: Mapping[str, str]) -> None:
    """Writes ``speed.json``, unless all networks are in it."""
    path = study.folder / "speed.json"
    with filelock.FileLock(study.folder / "speed.lock"):
        known = json.loads(path.read_text())["images_per_second"] if path.exists() else {}
        if known.keys() >= study.variants.keys():
            return
        say("measuring how fast each network trains, in turns")
        dataset = load(study.base.dataset, data_dir=study.base.data_dir)
        configs = {variant: study.config(Run(variant, study.rates(variant)[0], 0)) for variant in study.variants}
        rates = training_speeds(configs, dataset, compiler_options)
        about = {"device": sharding.describe_devices(), "images_per_second": rates}
        write_whole(path, json.dumps(about, indent=2) + "\n")


def network(study: Study, variant: str) -> NetworkConfig:
    """The network of a variant, for the study's data set."""
    config = study.config(Run(variant, study.rates(variant)[0], 0))
    return config.model_config(num_classes=image_spec(config.dataset).num_classes)


def rows(study: Study) -> list[Row]:
    """One for each network, as far as it is trained."""
    path = study.folder / "speed.json"
    speeds = json.loads(path.read_text())["images_per_second"] if path.exists() else {}
    made = []
    for variant in study.variants:
        config, results = network(study, variant), study.results(variant)
        errors = {seed: [100 * (1 - record["test_accuracy"]) for record in found] for seed, found in results.items()}
        made.append(
            Row(
                model=variant,
                aggregates=isinstance(config, SEANetConfig) and config.aggregate_placement != "none",
                parameters=parameters(config),
                multiply_adds=multiply_adds(config),
                images_per_second=tuple(speeds.get(variant, ())),
                learning_rate=study.chosen_rate(variant),
                last_errors={seed: found[-1] for seed, found in errors.items()},
                best_errors={seed: min(found) for seed, found in errors.items()},
                talk_error=TALK.get(study.base.dataset, {}).get(variant),
            )
        )
    return made


def comparisons(table: list[Row]) -> list[Comparison]:
    """Every aggregated network against every other that is its equal in parameters, where three seeds allow a test."""
    found = []
    for row, other in _equals(table):
        seeds = sorted(row.last_errors.keys() & other.last_errors.keys())
        if len(seeds) >= _PAIRS_FOR_A_TEST:
            pair = [row.last_errors[seed] for seed in seeds], [other.last_errors[seed] for seed in seeds]
            found.append((row.model, other.model, paired_difference(*pair)))
    adjusted = holm([difference.p_value for _, _, difference in found])
    return [Comparison(*one, p_value) for one, p_value in zip(found, adjusted, strict=True)]


def _equals(table: list[Row]) -> Iterator[tuple[Row, Row]]:
    for row in table:
        for other in table:
            near = abs(row.parameters / other.parameters - 1) <= EQUAL_WITHIN
            if row.aggregates and not other.aggregates and near:
                yield row, other


_HEADER = (
    "network",
    "parameters",
    "multiply-adds, M",
    "images/s in training",
    "learning rate",
    "error, last epoch, %",
    "error, best epoch, %",
    "the talk, %",
    "seeds",
)


def markdown(study: Study) -> str:
    """Both tables."""
    table = rows(study)
    lines = [f"| {' | '.join(_HEADER)} |", "|---" + "|---:" * (len(_HEADER) - 1) + "|"]
    for row in table:
        speed = f"{np.median(row.images_per_second):.0f}" if row.images_per_second else "—"
        cells = (
            row.model,
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e6:,.1f}",
            speed,
            "—" if row.learning_rate is None else f"{row.learning_rate:g}",
            _summary(row.last_errors),
            _summary(row.best_errors),
            "—" if row.talk_error is None else f"{row.talk_error:.2f}",
            str(len(row.last_errors)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Errors are means ± standard deviations over the seeds.", "", *_own_recipes(study)]
    tested = comparisons(table)
    if not tested:
        return "\n".join([*lines, "No two equals have three seeds in common: nothing is tested.", ""])
    lines += [
        "| aggregated | its equal | difference of errors, points | 95 % interval | p | p after Holm | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for one in tested:
        d = one.difference
        lines.append(
            f"| {one.aggregated} | {one.equal} | {d.mean:+.2f} | {d.low:+.2f} to {d.high:+.2f} | {d.p_value:.3f} | "
            f"{one.adjusted_p_value:.3f} | {one.verdict} |"
        )
    lines += [
        "",
        f"Paired t-tests over the seeds, of last epochs, of networks whose parameters are within {EQUAL_WITHIN:.0%}; "
        "negative is better for aggregation.",
    ]
    return "\n".join([*lines, ""])


def _own_recipes(study: Study) -> list[str]:
    """A paragraph that says which networks are trained in another way than the others."""
    own = []
    for variant, fields in study.variants.items():
        said = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "model")
        own += [f"{variant}: {said}"] if said else []
    return [f"By a recipe of their own: {'; '.join(own)}.", ""] if own else []


def _summary(errors: Mapping[int, float]) -> str:
    return format_summary(summarize(list(errors.values()))) if errors else "—"


def write_tables(study: Study) -> None:
    """Writes ``table.md``, ``table.csv`` and ``tests.csv`` into the study's folder."""
    table = rows(study)
    write_whole(study.folder / "table.md", markdown(study))
    write_whole(study.folder / "table.csv", _csv([_flat(row) for row in table]))
    tests = [
        {"aggregated": one.aggregated, "equal": one.equal}
        | one.difference._asdict()
        | {"adjusted_p_value": one.adjusted_p_value, "verdict": one.verdict}
        for one in comparisons(table)
    ]
    write_whole(study.folder / "tests.csv", _csv(tests))


def _flat(row: Row) -> dict[str, Any]:
    """Numbers unrounded; a cell per seed would make the columns depend on the study, so seeds share one."""
    cells = dataclasses.asdict(row)
    cells["images_per_second"] = float(np.median(row.images_per_second)) if row.images_per_second else None
    for name in ("last", "best"):
        errors = cells.pop(f"{name}_errors")
        summary = summarize(list(errors.values())) if errors else None
        cells[f"{name}_error_mean"] = summary and summary.mean
        cells[f"{name}_error_deviation"] = summary and summary.deviation
        cells[f"{name}_errors_by_seed"] = " ".join(f"{errors[seed]:.2f}" for seed in sorted(errors))
    return cells


def _csv(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return text.getvalue()
