"""Compares networks under one recipe: their costs, their test errors, and which differences are significant.

``parameters`` and ``multiply_adds`` are counted from the model. ``images_per_second`` is measured on the machine that
finishes the study. Errors are in percent of the test images. The SEANet talk reports the best epoch of a run, which it
selects on the test images themselves. The error at the last epoch has no such selection.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from seanet_jax.data import find_source
from seanet_jax.image_spec import ImageSpec
from seanet_jax.json_files import checked, read_json
from seanet_jax.models import NetworkConfig, SEANetConfig
from seanet_jax.models.multiply_adds import features, multiply_adds, parameters
from seanet_jax.paths import exists
from seanet_jax.studies.statistics import PairedDifference, detectable_difference, holm, paired_difference
from seanet_jax.studies.study import Run, Study
from seanet_jax.studies.talk_errors import TALK_ERRORS
from seanet_jax.training.images import read_dataset
from seanet_jax.training.records import Record, is_evaluated
from seanet_jax.training.run_folder import RunFolder

# A baseline is parameter-matched if its number of parameters differs by at most this share.
MATCHED_WITHIN = 0.1

CONTROLS = ("learned", "dense", "drop")
"""The aggregates that reduce channels without combining them by a fixed rule. They are controls of those that do."""

LEVEL = 0.05
"""The level of significance of all tests of a study together."""

POWER = 0.8
"""The probability with which a study is to find a difference, for the smallest one that it could have found."""

# With fewer pairs a paired t-test has too few degrees of freedom to be of use.
_PAIRS_FOR_A_TEST = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """The costs and the errors of one network of a study.

    Attributes:
        model: The name of the network in the study.
        aggregates: Whether the network combines the channels of a group by a fixed rule, as the published one does. A
            network that learns how to reduce channels, or drops some, does not: it is a baseline.
        parameters: The number of trained parameters.
        multiply_adds: The number of multiply-adds for one image.
        features: The number of features of an image that the classifier sees.
        images_per_second: The training speed in each round of the measurement; empty if it is not measured yet.
        learning_rate: The chosen learning rate, or None if it is not chosen yet or every rate diverged.
        last_errors: The test error at the last epoch in percent, by seed.
        best_errors: The smallest test error of all evaluated epochs in percent, by seed.
        average_errors: The test error of the moving average at the last epoch in percent, by seed; empty if the recipe
            keeps none.
        talk_error: The error that the talk reports in percent, or None if it reports none.
    """

    model: str
    aggregates: bool
    parameters: int
    multiply_adds: int
    features: int
    images_per_second: tuple[float, ...]
    learning_rate: float | None
    last_errors: Mapping[int, float]
    best_errors: Mapping[int, float]
    average_errors: Mapping[int, float]
    talk_error: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A paired test of an aggregated network against a parameter-matched baseline, over the same seeds.

    Attributes:
        aggregated: The name of the aggregated network.
        baseline: The name of the baseline, which learns how to reduce channels, drops some, or keeps them all.
        difference: The difference of the errors at the last epoch, aggregated minus baseline, in percentage points.
        adjusted_p_value: The p-value, adjusted by Holm's method for all comparisons of the study.
        detectable: The smallest difference that the test finds with the probability ``POWER``, in percentage points, at
            ``LEVEL`` over the number of comparisons. Holm's method asks this level of the smallest p-value. The spread
            of the differences over the seeds stands for the true one.
    """

    aggregated: str
    baseline: str
    difference: PairedDifference
    adjusted_p_value: float
    detectable: float

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant at ``LEVEL``, among all comparisons of the study."""
        return self.adjusted_p_value < LEVEL

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.is_significant:
            return "no significant difference"
        return "aggregation is better" if self.difference.mean < 0 else "aggregation is worse"


def network(study: Study, variant: str) -> NetworkConfig:
    """Returns the configuration of a variant's network for the data set of the study."""
    return _network(study, variant, _images(study))


def _network(study: Study, variant: str, images: ImageSpec) -> NetworkConfig:
    config = study.config(Run(variant, study.rates(variant)[0], 0))
    return config.model_config(images.num_classes, in_channels=images.channels, image_size=images.height)


def _images(study: Study) -> ImageSpec:
    """Returns the specification of the images of a study. It reads the data set only if nothing else tells."""
    if (known := find_source(study.base.dataset).image_spec) is not None:
        return known
    for run in (run for variant in study.variants for run in study.runs_of(variant)):
        folder = RunFolder(study.folder / run.name)
        if exists(folder.path / "config.json") and (images := folder.read().images) is not None:
            return images
    return read_dataset(study.base).image_spec


def rows(study: Study) -> list[Row]:
    """Returns a row for each network. Networks that are not trained yet have no errors."""
    speeds, images = measured_speeds(study), _images(study)
    made = []
    for variant in study.variants:
        config, results = _network(study, variant, images), study.results(variant)
        errors = {
            seed: [100 * (1 - record["test_accuracy"]) for record in found if is_evaluated(record)]
            for seed, found in results.items()
        }
        averages = {seed: found[-1]["ema_test_accuracy"] for seed, found in results.items() if _has_average(found)}
        made.append(
            Row(
                model=variant,
                aggregates=_aggregates(config),
                parameters=parameters(config),
                multiply_adds=multiply_adds(config, images.height, images.width),
                features=features(config),
                images_per_second=tuple(speeds.get(variant, ())),
                learning_rate=study.chosen_rate(variant),
                last_errors={seed: found[-1] for seed, found in errors.items()},
                best_errors={seed: min(found) for seed, found in errors.items()},
                average_errors={seed: 100 * (1 - accuracy) for seed, accuracy in averages.items()},
                talk_error=TALK_ERRORS.get(study.base.dataset, {}).get(variant),
            )
        )
    return made


def _aggregates(config: NetworkConfig) -> bool:
    if not isinstance(config, SEANetConfig) or config.aggregate_placement == "none":
        return False
    return config.aggregate_op not in CONTROLS


def _has_average(records: Sequence[Record]) -> bool:
    return "ema_test_accuracy" in records[-1]


def measured_speeds(study: Study) -> dict[str, list[float]]:
    """Returns the training speeds that ``speed.json`` holds, by variant; none if they are not measured yet.

    Raises:
        InputError: If the file is damaged.
    """
    path, remedy = study.folder / "speed.json", "delete it and repeat the command of the study"
    if not exists(path):
        return {}
    return checked(read_json(path, remedy=remedy), _SpeedFile, where=str(path), remedy=remedy)["images_per_second"]


class _SpeedFile(TypedDict):
    images_per_second: dict[str, list[float]]


def comparisons(table: list[Row]) -> list[Comparison]:
    """Tests every aggregated network against each parameter-matched baseline that has three seeds in common with it."""
    found = []
    for row, other in _matched_pairs(table):
        seeds = sorted(row.last_errors.keys() & other.last_errors.keys())
        if len(seeds) >= _PAIRS_FOR_A_TEST:
            pair = [row.last_errors[seed] for seed in seeds], [other.last_errors[seed] for seed in seeds]
            found.append((row.model, other.model, paired_difference(*pair)))
    adjusted = holm([difference.p_value for _, _, difference in found])
    return [
        Comparison(*one, p_value, _detectable(one[2], LEVEL / len(found)))
        for one, p_value in zip(found, adjusted, strict=True)
    ]


def _detectable(difference: PairedDifference, level: float) -> float:
    return detectable_difference(difference.standard_error, difference.pairs - 1, level=level, power=POWER)


def _matched_pairs(table: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Yields each aggregated network with each of its parameter-matched baselines."""
    for row in table:
        for other in table:
            matched = abs(row.parameters / other.parameters - 1) <= MATCHED_WITHIN
            if row.aggregates and not other.aggregates and matched:
                yield row, other
