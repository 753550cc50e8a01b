"""Against textbooks and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seanet_jax.errors import InputError
from seanet_jax.studies.statistics import (
    check_percentage,
    detectable_difference,
    format_summary,
    holm,
    paired_difference,
    summarize,
)

# Student (1908): hours of sleep gained with two drugs by ten patients.
SLEEP_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SLEEP_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
PERCENT = st.floats(0, 100).map(lambda value: round(value, 2))
PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


def test_students_own_data():
    found = paired_difference(SLEEP_1, SLEEP_2)
    assert found == pytest.approx((-1.58, -2.4598858, -0.7001142, 0.00283289, 10, 0.3889587), abs=1e-6)
    # t, from the interval, whose half width is 2.262157 standard errors with 9 degrees of freedom.
    assert found.mean / ((found.high - found.low) / 2 / 2.262157) == pytest.approx(-4.0621, abs=1e-4)


def test_mean_and_deviation():
    assert summarize((2, 4, 4, 4, 5, 5, 7, 9)) == pytest.approx((5, 32**0.5 / 7**0.5, 8))
    assert summarize([3.0]) == (3.0, None, 1)
    assert format_summary(summarize((71.0, 71.5, 72.0))) == "71.50 ± 0.50"
    assert format_summary(summarize([71.0])) == "71.00"
    with pytest.raises(InputError, match="no values"):
        summarize([])


VARYING = st.lists(st.tuples(PERCENT, PERCENT), min_size=3, max_size=6).filter(
    lambda pairs: len({round(a - b, 2) for a, b in pairs}) > 1
)


@given(VARYING)
def test_paired_differences_are_scipys_of_one_sample(pairs):
    first, second = zip(*pairs, strict=True)
    found = paired_difference(first, second)
    expected = stats.ttest_1samp([a - b for a, b in pairs], 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.low <= found.mean <= found.high
    turned = paired_difference(second, first)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_equal_differences_leave_no_noise_to_compare_with():
    assert paired_difference((1, 2, 3), (1, 2, 3)) == (0, 0, 0, 1, 3, 0)
    assert paired_difference((2, 3, 4), (1, 2, 3)) == (1, 1, 1, 0, 3, 0)
    # Each difference is 0.1 and a rounding error of its own.
    found = paired_difference((71.3, 71.4, 71.5), (71.2, 71.3, 71.4))
    assert found == (found.mean, found.mean, found.mean, 0, 3, 0)
    assert paired_difference((0.1 + 0.2, 0.3, 0.3), (0.3, 0.3, 0.3)).p_value == 1


@given(st.lists(PERCENT, min_size=3, max_size=6), st.integers(-5000, 5000))
def test_a_constant_difference_is_certain_however_it_rounds(values, hundredths):
    shifted = [value + hundredths / 100 for value in values]
    found = paired_difference(shifted, values)
    assert found.p_value == (1 if hundredths == 0 else 0)
    assert found.low == found.mean == found.high == pytest.approx(hundredths / 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value):
    with pytest.raises(InputError, match="give only the pairs whose values are finite"):
        paired_difference((1, 2, value), (1, 2, 4))


@pytest.mark.parametrize(("first", "second"), [((1, 2), (2, 3)), ((1, 2, 3), (1, 2))])
def test_too_few_pairs_are_named(first, second):
    with pytest.raises(InputError, match="a paired test needs as many of each, and at least 3"):
        paired_difference(first, second)


def test_the_sizes_of_samples_that_textbooks_ask_for_detect_their_effects():
    # Cohen (1988), tables 2.4.1: 80 % power at 5 %. Pairs: 34 for an effect of 0.5 deviations of the differences.
    assert detectable_difference(1 / 34**0.5, 33) < 0.5 < detectable_difference(1 / 33**0.5, 32)
    # Two samples: 26 each for 0.8 deviations, 64 each for 0.5.
    for size, effect in ((26, 0.8), (64, 0.5)):
        enough, few = (detectable_difference((2 / n) ** 0.5, 2 * n - 2) for n in (size, size - 1))
        assert enough < effect < few


@pytest.mark.parametrize(("size", "level"), [(3, 0.05), (3, 0.0125), (10, 0.05)])
def test_simulated_studies_find_the_detectable_difference_four_times_of_five(size, level):
    difference = detectable_difference(2 / math.sqrt(size), size - 1, level=level)
    samples = np.random.default_rng(0).normal(difference, 2, (40_000, size))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < level
    # Three standard errors of the share.
    assert found.mean() == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / len(samples)))


@given(st.integers(1, 30), st.floats(0.001, 0.1), st.floats(0.2, 0.95))
def test_the_power_at_the_detectable_difference_is_that_of_the_noncentral_t(freedom, level, power):
    noncentrality = detectable_difference(1, freedom, level=level, power=power)
    found = stats.nct.sf(stats.t.isf(level / 2, freedom), freedom, noncentrality)
    # The other tail holds less than half of the level.
    assert power - level / 2 <= found + 1e-6 and found <= power + 1e-6


def test_the_detectable_difference_has_the_unit_of_the_standard_error():
    assert detectable_difference(3, 2) == pytest.approx(3 * detectable_difference(1, 2))
    assert detectable_difference(0, 2) == 0
    for arguments, message in (
        ((-1, 2, 0.05, 0.8), "standard_error is -1; it must be finite"),
        ((math.nan, 2, 0.05, 0.8), "standard_error is nan"),
        ((1, 0, 0.05, 0.8), "degrees_of_freedom"),
        ((1, 2, 0.9, 0.8), "level is 0.9 and power is 0.8; they must be 0 < level < power < 1"),
    ):
        error, freedom, level, power = arguments
        with pytest.raises(InputError, match=message):
            detectable_difference(error, freedom, level=level, power=power)


def test_holm_by_hand():
    # 4 x 0.01; 3 x 0.02; 2 x 0.03, as much as the one before; 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.02, 0.011]) == pytest.approx([0.022, 0.022])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(PROBABILITIES)
def test_holm_keeps_order_and_lies_between_the_p_value_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p_value, found in zip(p_values, adjusted, strict=True):
        assert p_value <= found <= min(1, len(p_values) * p_value)
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [found for _, found in ranked] == sorted(adjusted)


@pytest.mark.parametrize("error", [-0.1, 100.1, float("nan")])
def test_an_error_that_is_no_percentage_is_named(error):
    check_percentage("resnet20", 0)
    check_percentage("resnet20", 100)
    with pytest.raises(InputError, match=r"resnet20 has an error of .* %; give one from 0 to 100"):
        check_percentage("resnet20", error)
