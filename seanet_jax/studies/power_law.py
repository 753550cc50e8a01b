"""Curves of error against compute, and how far apart two of them are at equal error.

Two arms of a study, such as networks with and without aggregation, are trained at several sizes. Each arm gets a power
law, ``error = scale * compute ** exponent``, which is how test errors fall with compute in the range where a network
learns at all (Hestness et al., arXiv:1712.00409). It is a line in the logarithms, has few parameters and never falls
below zero. A third one, the error that no compute removes, cannot be told from the exponent by three sizes. Both arms
share the exponent, so that their distance in compute is the same at every error: one number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seanet_jax.errors import InputError

_RESAMPLES = 10_000


class Network(NamedTuple):
    """A network of an arm.

    Attributes:
        compute: The multiply-adds for one image, or any other cost.
        errors: The test error in percent, by seed.
    """

    compute: float
    errors: Mapping[int, float]


class EqualError(NamedTuple):
    """How much compute one arm needs at the error of another.

    Attributes:
        factor: The compute of the first arm over that of the second at equal error; None if the errors do not fall with
            compute.
        low: The lower end of its 95 % bootstrap interval over the seeds: 0 if it has no bound, None for a single seed.
        high: The upper end: infinity if it has no bound, None for a single seed.
        exponent: The exponent that both power laws share.
        scales: The scale of the first and of the second arm, in percent.
        exponents: The exponent of each arm alone, which is near the shared one if one number describes the distance.
        is_reached: Whether some error lies between the smallest and the largest error of both arms. If not, the factor
            is an extrapolation.
        seeds: The number of seeds.
    """

    factor: float | None
    low: float | None
    high: float | None
    exponent: float
    scales: tuple[float, float]
    exponents: tuple[float, float]
    is_reached: bool
    seeds: int


def equal_error(first: Sequence[Network], second: Sequence[Network]) -> EqualError:
    """Fits a power law to each of two arms, and measures their distance in compute at equal error.

    The fit is least squares of the logarithm of the error over the runs. The interval is that of the percentiles of the
    bootstrap (Efron, 1979): seeds are drawn with replacement, together for all networks, since runs of one seed share
    the order and the augmentation of the images. Draws in which errors do not fall with compute widen it at both ends.
    With three seeds, as few values are drawn from, it is narrower than its name.

    Args:
        first: The networks of the first arm, at least two.
        second: The networks of the second arm, at least two.

    Raises:
        InputError: If an arm has fewer than two different costs, the networks have no seed in common, or a number is
            out of range.
    """
    arms = (first, second)
    for arm in arms:
        if len({network.compute for network in arm}) < 2:
            raise InputError(f"an arm has {len(arm)} networks; give at least two of different compute")
    seeds = sorted(set.intersection(*(set(network.errors) for arm in arms for network in arm)))
    if not seeds:
        raise InputError("the networks have no seed in common; give runs of the same seeds")
    for network in (*first, *second):
        if not 0 < network.compute < math.inf:
            raise InputError(f"a network has a compute of {network.compute}; give a positive number")
        for error in network.errors.values():
            if not 0 < error <= 100:
                raise InputError(f"a network has an error of {error} %; a power law has only errors above 0, up to 100")
    costs = [np.log([network.compute for network in arm]) for arm in arms]
    errors = [np.log([[network.errors[seed] for seed in seeds] for network in arm]) for arm in arms]
    (exponent,), (logarithm,), scales = _fit(costs, [of_arm.mean(1, keepdims=True) for of_arm in errors])
    low, high = _interval(costs, errors) if len(seeds) > 1 else (None, None)
    alone = [_fit([cost], [of_arm.mean(1, keepdims=True)])[0] for cost, of_arm in zip(costs, errors, strict=True)]
    ends = [np.sort(of_arm.mean(1))[[0, -1]] for of_arm in errors]
    return EqualError(
        None if math.isnan(logarithm) else math.exp(logarithm),
        low,
        high,
        float(exponent),
        (math.exp(scales[0][0]), math.exp(scales[1][0])),
        (float(alone[0][0]), float(alone[1][0])),
        bool(max(ends[0][0], ends[1][0]) <= min(ends[0][1], ends[1][1])),
        len(seeds),
    )


def _fit(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Fits lines of one slope to the logarithms of several arms, for many samples at once.

    Args:
        costs: For each arm, the logarithm of the compute of its networks, ``[W]``.
        errors: For each arm, the logarithm of the error of its networks in each sample, ``[W, R]``.

    Returns:
        The slope ``[R]``, the distance along the axis of compute of the first arm from the last one ``[R]``, NaN where
        the slope is not negative, and the intercept of each arm ``[R]``.
    """
    centered = [cost - cost.mean() for cost in costs]
    rise = sum(cost @ error for cost, error in zip(centered, errors, strict=True))
    slope = rise / sum(cost @ cost for cost in centered)
    intercepts = [error.mean(0) - slope * cost.mean() for cost, error in zip(costs, errors, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(slope < 0, (intercepts[0] - intercepts[-1]) / -slope, np.nan)
    return slope, distance, intercepts


def _interval(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the ends of the bootstrap interval of the factor.

    Args:
        costs: For each arm, the logarithm of the compute of its networks, ``[W]``.
        errors: For each arm, the logarithm of the error of its networks, by seed, ``[W, S]``.
    """
    seeds = errors[0].shape[1]
    drawn = np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))
    _, distances, _ = _fit(costs, [of_arm[:, drawn].mean(-1) for of_arm in errors])
    ends = (
        np.quantile(np.nan_to_num(distances, nan=bound), share, method="inverted_cdf")
        for bound, share in ((-np.inf, 0.025), (np.inf, 0.975))
    )
    low, high = (float(np.exp(end)) for end in ends)
    return low, high
