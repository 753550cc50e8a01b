import pytest

from seanet_jax.errors import InputError, RunError, check_positive_integers, is_integer


def test_each_exception_is_caught_as_its_built_in_kind():
    assert issubclass(InputError, ValueError) and issubclass(RunError, RuntimeError)
    assert not issubclass(RunError, InputError) and not issubclass(InputError, RunError)


@pytest.mark.parametrize(
    ("value", "minimum", "expected"),
    [(3, 1, True), (1, 1, True), (0, 1, False), (0, 0, True), (-1, -1, True), (2**70, 1, True)]
    + [(value, 0, False) for value in (True, False, 1.0, "1", None, float("nan"))],
)
def test_an_integer_is_an_int_of_at_least_the_minimum_and_no_bool(value, minimum, expected):
    assert is_integer(value, minimum=minimum) is expected


def test_positive_integers_pass():
    check_positive_integers("Conv", channels=3, stride=1)
    check_positive_integers("Conv")


@pytest.mark.parametrize("wrong", [0, -2, 1.5, True, None, "3"])
def test_the_first_value_that_is_no_positive_integer_is_named(wrong):
    with pytest.raises(InputError) as caught:
        check_positive_integers("Conv", channels=3, stride=wrong, groups=0)
    assert str(caught.value) == f"Conv: stride is {wrong!r}; it must be a positive integer"
