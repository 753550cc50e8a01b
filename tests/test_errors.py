import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seanet_jax.errors import (
    MOST_VALUES,
    InputError,
    RunError,
    check_array_size,
    did_you_mean,
    finite_numbers,
    is_integer,
    is_number,
    plain,
    positive_integers,
    store_plain,
)


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
    assert positive_integers("Conv", channels=3, stride=1) == (3, 1)
    assert positive_integers("Conv") == ()


@pytest.mark.parametrize("wrong", [0, -2, 1.5, True, None, "3"])
def test_the_first_value_that_is_no_positive_integer_is_named(wrong):
    with pytest.raises(InputError) as caught:
        positive_integers("Conv", channels=3, stride=wrong, groups=0)
    assert str(caught.value) == f"Conv: stride is {wrong!r}; it must be a positive integer"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.int64(3), 3), (np.uint8(3), 3), (np.array(3), 3), (jnp.int32(3), 3), (np.float32(0.5), 0.5)]
    + [(np.float64(0.1), 0.1), (jnp.float32(0.5), 0.5), (jnp.bfloat16(0.5), 0.5), (np.bool_(True), True)]
    + [(np.str_("sum"), "sum"), ((np.int32(1), (np.int32(2), 3)), (1, (2, 3)))]
    + [(value, value) for value in (3, 0.1, True, "sum", None, (), np.float32)],
)
def test_scalars_of_numpy_and_jax_become_plain(value, expected):
    found = plain(value)
    assert found == expected and type(found) is type(expected)


def test_arrays_and_what_has_no_value_yet_stay_as_they_are():
    array = np.ones(1)
    assert plain(array) is array
    unchanged = []
    jax.jit(lambda traced: unchanged.append(plain(traced) is traced))(1)
    assert unchanged == [True]


def test_the_fields_of_a_frozen_dataclass_become_plain():
    @dataclasses.dataclass(frozen=True)
    class Sizes:
        width: int
        rates: tuple[float, ...]

        def __post_init__(self):
            store_plain(self)

    sizes = Sizes(np.int64(8), (np.float32(0.5), 1))
    assert type(sizes.width) is int and type(sizes.rates[0]) is float and sizes == Sizes(8, (0.5, 1))


@pytest.mark.parametrize("value", [0, -1, 0.5, 2**70])
def test_a_number_is_finite(value):
    assert is_number(value)
    assert finite_numbers("BatchNorm", momentum=np.float64(value)) == (float(value),)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), True, None, "1", 10**400, np.float32("nan")])
def test_a_value_that_is_no_finite_number_is_named(wrong):
    assert not is_number(wrong)
    with pytest.raises(InputError) as caught:
        finite_numbers("BatchNorm", momentum=0.9, epsilon=wrong)
    assert str(caught.value) == f"BatchNorm: epsilon is {wrong!r}; it must be a finite number"


def test_positive_integers_of_numpy_become_ints():
    found = positive_integers("Conv", channels=np.int64(3), stride=jnp.int32(1))
    assert found == (3, 1) and [type(value) for value in found] == [int, int]


@pytest.mark.parametrize("error", [InputError, RunError])
def test_a_message_with_the_names_of_others_is_one_printable_line(error):
    assert str(error("the field \x1b[31mred\n\u202eé is unknown")) == "the field \\x1b[31mred\\n\\u202eé is unknown"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("seanet21", "did you mean seanet20?"),
        ("resnet20", "did you mean resnet20?"),
        ("something", ""),
        ("", ""),
        (7, ""),
    ],
)
def test_the_most_similar_name_is_suggested_and_of_equals_the_first(word, hint):
    assert did_you_mean(word, ["seanet20", "seanet32", "resnet20"]) == hint


def test_without_names_none_is_suggested():
    assert did_you_mean("seanet20", []) == ""


def test_an_array_of_more_values_than_32_bits_count_is_refused():
    check_array_size("f", ())
    check_array_size("f", (MOST_VALUES, 1))
    for shape in [(MOST_VALUES + 1,), (2**16, 2**16), (10**400, 3)]:
        with pytest.raises(InputError, match=r"^f: these sizes give an array of more than 2,147,483,647 values"):
            check_array_size("f", shape)
