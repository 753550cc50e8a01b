"""The distance of two curves at equal error, on made errors whose distance is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seanet_jax.errors import InputError
from seanet_jax.studies.power_law import Network, equal_error

COSTS = (40, 160, 2400)


def arm(costs, scale, exponent, noise=None):
    """Makes networks on a power law. Noise is that of the logarithm of the error, by network and seed."""
    noise = np.zeros((len(costs), 3)) if noise is None else noise
    return [
        Network(cost, dict(enumerate(scale * cost**exponent * np.exp(of_network))))
        for cost, of_network in zip(costs, noise, strict=True)
    ]


@given(st.floats(0.2, 5), st.floats(-0.5, -0.05))
def test_on_exact_power_laws_the_factor_is_that_of_their_compute(factor, exponent):
    plain = arm(COSTS, 90, exponent)
    # Its compute is larger by the factor at every error, and its networks cost a little less.
    aggregated = arm([0.95 * cost for cost in COSTS], 90 * factor**-exponent, exponent)
    found = equal_error(aggregated, plain)
    assert found.factor == pytest.approx(factor) and found.exponent == pytest.approx(exponent)
    assert (found.low, found.high) == pytest.approx((factor, factor))
    assert found.scales == pytest.approx((90 * factor**-exponent, 90))
    assert found.exponents == pytest.approx((exponent, exponent))
    turned = equal_error(plain, aggregated)
    assert turned.factor == pytest.approx(1 / factor)


def test_a_fit_by_hand():
    # In the logarithms: errors 3, 2 and 4, 3 at costs 0, 1. The slope is -1, and the distance 1.
    found = equal_error(
        *([Network(math.exp(cost), {0: math.exp(start - cost)}) for cost in (0, 1)] for start in (4, 3))
    )
    assert (found.exponent, found.factor) == (pytest.approx(-1), pytest.approx(math.e))
    assert (found.low, found.high, found.seeds) == (None, None, 1)


def test_the_interval_of_many_seeds_covers_the_truth_as_often_as_it_says():
    source = np.random.default_rng(1)
    covered = []
    for _ in range(100):
        noise = source.normal(0, 0.02, (2, 3, 20)) + source.normal(0, 0.02, 20)  # what runs of a seed share
        found = equal_error(arm(COSTS, 96, -0.1, noise[0]), arm(COSTS, 80, -0.1, noise[1]))
        covered.append(found.low < (96 / 80) ** 10 < found.high)
    # Three standard errors of the share around 95 %, and some for 20 seeds.
    assert np.mean(covered) >= 0.85


def test_what_runs_of_a_seed_share_does_not_widen_the_interval():
    shared = np.random.default_rng(2).normal(0, 0.05, (3, 20))
    paired = equal_error(arm(COSTS, 96, -0.1, shared), arm(COSTS, 80, -0.1, shared))
    apart = equal_error(arm(COSTS, 96, -0.1, shared), arm(COSTS, 80, -0.1, shared[:, ::-1]))
    assert math.log(paired.high / paired.low) < 0.7 * math.log(apart.high / apart.low)


def test_errors_that_do_not_fall_with_compute_have_no_factor_and_no_bound():
    found = equal_error(arm(COSTS, 10, 0.1), arm(COSTS, 10, 0.1))
    assert found.factor is None and (found.low, found.high) == (0, math.inf)
    # One seed of three in which they rise: a draw of this seed alone has no factor.
    noise = np.zeros((3, 3))
    noise[:, 0] = (0, 0.2, 0.6)
    found = equal_error(arm(COSTS, 80, -0.1, noise), arm(COSTS, 80, -0.1, noise))
    assert found.factor == pytest.approx(1) and (found.low, found.high) == (0, math.inf)


def test_curves_without_a_common_error_are_an_extrapolation():
    assert equal_error(arm(COSTS, 80, -0.1), arm(COSTS, 75, -0.1)).is_reached
    assert not equal_error(arm(COSTS, 80, -0.1), arm(COSTS, 40, -0.1)).is_reached


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ([Network(1, {0: 50})], "an arm has 1 networks; give at least two of different compute"),
        ([Network(1, {0: 50}), Network(1, {0: 50})], "an arm has 2 networks"),
        ([Network(1, {1: 50}), Network(2, {1: 40})], "no seed in common"),
        ([Network(0, {0: 50}), Network(2, {0: 40})], "a compute of 0; give a positive number"),
        ([Network(1, {0: 0}), Network(2, {0: 40})], "an error of 0 %; a power law has only errors above 0"),
    ],
)
def test_arms_that_cannot_be_fitted_are_named(first, message):
    with pytest.raises(InputError, match=message):
        equal_error(first, [Network(1, {0: 50}), Network(2, {0: 40})])
