"""What a few runs can say: means, deviations and paired differences with their p-values."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from seanet_jax.errors import InputError

# Differences that vary by less than this share of the values vary by rounding alone.
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """Of some values.

    Attributes:
        mean: of all.
        deviation: sample standard deviation (n - 1); None for a single value.
        size: how many.
    """

    mean: float
    deviation: float | None
    size: int


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation.

    Raises:
        InputError: there are no values.
    """
    if not values:
        raise InputError("there are no values to summarize; give at least one")
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def format_summary(summary: Summary) -> str:
    """Such as ``71.30 ± 0.25``, or ``71.30`` for a single value."""
    return f"{summary.mean:.2f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.2f}")


class PairedDifference(NamedTuple):
    """How much one of two is larger, over pairs.

    Attributes:
        mean: of the differences, first minus second.
        low: lower end of the 95 % confidence interval of the mean.
        high: its upper end.
        p_value: two-sided.
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    p_value: float
    pairs: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Student's paired t-test, two-sided.

    Args:
        first: values, one a seed.
        second: of the same seeds in the same order.

    Returns:
        Where all differences are equal but for rounding, which leaves no noise to compare with, p is 1 if they are 0
        and else 0.

    Raises:
        InputError: the numbers of values differ, there are fewer than three pairs, or a value is not finite.
    """
    if len(first) != len(second) or len(first) < 3:
        raise InputError(
            f"{len(first)} and {len(second)} values were given; a paired test needs as many of each, 3 or more"
        )
    if not all(map(math.isfinite, (*first, *second))):
        raise InputError("a value of the pairs is infinite or not a number; give the pairs that have finite values")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.fmean(differences)
    rounding = _ROUNDING * max(map(abs, (*first, *second)))
    if max(differences) - min(differences) <= rounding:
        return PairedDifference(mean, mean, mean, 1.0 if abs(mean) <= rounding else 0.0, len(differences))
    from scipy import stats

    result = stats.ttest_rel(first, second)
    low, high = result.confidence_interval(0.95)
    return PairedDifference(mean, float(low), float(high), float(result.pvalue), len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the share of studies with any false discovery stays below the level (Holm, 1979).

    Args:
        p_values: of all tests of the study.

    Returns:
        One for each, in the same order, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
