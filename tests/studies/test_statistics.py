"""Against textbooks and scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seanet_jax.errors import InputError
from seanet_jax.studies.statistics import check_percentage, format_summary, holm, paired_difference, summarize

# Student (1908): hours of sleep gained with two drugs by ten patients.
SLEEP_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SLEEP_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
PERCENT = st.floats(0, 100).map(lambda value: round(value, 2))
PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


def test_students_own_data():
    found = paired_difference(SLEEP_1, SLEEP_2)
    assert found == pytest.approx((-1.58, -2.4598858, -0.7001142, 0.00283289, 10), abs=1e-6)
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
    assert paired_difference((1, 2, 3), (1, 2, 3)) == (0, 0, 0, 1, 3)
    assert paired_difference((2, 3, 4), (1, 2, 3)) == (1, 1, 1, 0, 3)
    # Each difference is 0.1 and a rounding error of its own.
    found = paired_difference((71.3, 71.4, 71.5), (71.2, 71.3, 71.4))
    assert found == (found.mean, found.mean, found.mean, 0, 3)
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
