"""Statistics of a few runs: means, standard deviations, paired t-tests with corrected p-values, and their power."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from seanet_jax.errors import InputError, positive_integers

# If paired differences vary by less than this share of the values, only rounding tells them apart.
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """The summary of a sample.

    Attributes:
        mean: The mean of the values.
        deviation: The sample standard deviation (n - 1), or None for a single value.
        size: The number of values.
    """

    mean: float
    deviation: float | None
    size: int


def summarize(values: Sequence[float]) -> Summary:
    """Returns the mean and the sample standard deviation of some values.

    Raises:
        InputError: If there are no values.
    """
    if not values:
        raise InputError("there are no values to summarize; give at least one")
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def format_summary(summary: Summary) -> str:
    """Formats a summary as ``71.30 ± 0.25``, or as ``71.30`` if it has a single value."""
    return f"{summary.mean:.2f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.2f}")


def check_percentage(name: str, error: float) -> None:
    """Checks that an error is a percentage.

    Args:
        name: The name of what has the error, for the message.
        error: The error in percent.

    Raises:
        InputError: If the error is not from 0 to 100.
    """
    if not 0 <= error <= 100:
        raise InputError(f"{name} has an error of {error} %; give one from 0 to 100")


class PairedDifference(NamedTuple):
    """The result of a paired t-test.

    Attributes:
        mean: The mean of the differences, first minus second.
        low: The lower end of the 95 % confidence interval of the mean.
        high: The upper end of the interval.
        p_value: The two-sided p-value.
        pairs: The number of pairs.
        standard_error: The standard error of the mean: the deviation of the differences over the root of their number.
    """

    mean: float
    low: float
    high: float
    p_value: float
    pairs: int
    standard_error: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Applies Student's two-sided paired t-test.

    Args:
        first: One value for each seed.
        second: The values to compare with, for the same seeds in the same order.

    Returns:
        The difference and its p-value. If all differences are equal up to rounding, the test is undefined; p is then 1
        if the differences are 0, and 0 otherwise.

    Raises:
        InputError: If the numbers of values differ, there are fewer than three pairs, or a value is not finite.
    """
    if len(first) != len(second) or len(first) < 3:
        raise InputError(
            f"there are {len(first)} and {len(second)} values; a paired test needs as many of each, and at least 3"
        )
    if not all(map(math.isfinite, (*first, *second))):
        raise InputError("a value is NaN or infinite; give only the pairs whose values are finite")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.fmean(differences)
    rounding = _ROUNDING * max(map(abs, (*first, *second)))
    if max(differences) - min(differences) <= rounding:
        return PairedDifference(mean, mean, mean, 1.0 if abs(mean) <= rounding else 0.0, len(differences), 0.0)
    from scipy import stats

    result = stats.ttest_rel(first, second)
    low, high = result.confidence_interval(0.95)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return PairedDifference(mean, float(low), float(high), float(result.pvalue), len(differences), error)


def detectable_difference(
    standard_error: float, degrees_of_freedom: int, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Returns the smallest true difference that a two-sided t-test finds significant with a given probability.

    The statistic of the test then follows the noncentral t distribution, whose noncentrality is the difference over its
    standard error (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2).

    Args:
        standard_error: The standard error of the measured difference. For n pairs whose differences have the deviation
            s, it is s / sqrt(n). For two independent samples of the sizes n and m and the pooled deviation s, it is
            s sqrt(1 / n + 1 / m).
        degrees_of_freedom: n - 1 for pairs, and n + m - 2 for two samples.
        level: The level of significance.
        power: The probability with which the difference is found.

    Returns:
        The absolute difference, in the unit of the standard error.

    Raises:
        InputError: If the standard error is negative or not finite, there are no degrees of freedom, or level and power
            are not 0 < level < power < 1.
    """
    if not 0 <= standard_error < math.inf:
        raise InputError(f"standard_error is {standard_error}; it must be finite and not negative")
    (degrees_of_freedom,) = positive_integers("detectable_difference", degrees_of_freedom=degrees_of_freedom)
    if not 0 < level < power < 1:
        raise InputError(f"level is {level} and power is {power}; they must be 0 < level < power < 1")
    from scipy import optimize, stats

    critical = stats.t.isf(level / 2, degrees_of_freedom)

    def lacking(noncentrality: float) -> float:
        # Both tails at once: the square of the statistic follows the noncentral F distribution.
        return float(stats.ncf.sf(critical**2, 1, degrees_of_freedom, noncentrality**2)) - power

    highest = critical
    while lacking(highest) < 0:
        highest *= 2
    return standard_error * float(optimize.brentq(lacking, 0, highest))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for multiple tests by Holm's method, which controls the family-wise error rate (Holm, 1979).

    Args:
        p_values: The p-values of all tests of the study.

    Returns:
        The adjusted p-values, in the same order, each at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
