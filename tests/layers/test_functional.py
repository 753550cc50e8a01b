import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from module_fixtures import normal

from seanet_jax import InputError, aggregate, squeeze_excite
from seanet_jax.layers import capsules, functional, transport
from seanet_jax.layers.functional import AGGREGATE_OPS, batch_norm, batch_statistics

# Derandomized, so that a test passes or fails alike everywhere, and leaves no database behind.
property_test = settings(max_examples=10, deadline=None, derandomize=True)
# Few examples, because every new shape is compiled: once if jitted, once for each operation if not.
jitted_aggregate = jax.jit(aggregate, static_argnames=("factor", "op"))
jitted_squeeze_excite = jax.jit(squeeze_excite)
all_ops = jax.jit(lambda x, factor: {op: aggregate(x, factor, op) for op in AGGREGATE_OPS}, static_argnums=1)
NUMPY_OPS = {
    **{"sum": np.sum, "mean": np.mean, "max": np.max},
    "normalized_sum": lambda group, axis: group.sum(axis) / np.sqrt(group.shape[axis]),
    "drop": lambda group, axis: group.take(0, axis),
}
ops = pytest.mark.parametrize("op", AGGREGATE_OPS)


@st.composite
def grouped_maps(draw):
    """A map of rank 1 to 5 and a factor that divides its channels."""
    factor, groups = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    leading = draw(st.lists(st.integers(1, 3), max_size=4))
    return normal(draw(st.integers(0, 2**32 - 1)), *leading, factor * groups), factor


def aggregate_by_loop(x, factor, op):
    groups = [x[..., start : start + factor] for start in range(0, x.shape[-1], factor)]
    return np.stack([NUMPY_OPS[op](group.astype(np.float64), axis=-1) for group in groups], axis=-1)


@property_test
@given(case=grouped_maps())
def test_aggregate_equals_a_loop_over_groups_for_any_rank(case):
    x, factor = case
    for op, y in all_ops(x, factor).items():
        chex.assert_shape(y, (*x.shape[:-1], x.shape[-1] // factor))
        np.testing.assert_allclose(y, aggregate_by_loop(x, factor, op), rtol=1e-5, atol=1e-6, err_msg=op)


@property_test
@given(case=grouped_maps(), a=st.floats(-3, 3, width=32), b=st.floats(-3, 3, width=32))
def test_sum_is_linear(case, a, b):
    x, factor = case
    y = normal(1, *x.shape)
    together = jitted_aggregate(a * x + b * y, factor)
    apart = a * np.asarray(jitted_aggregate(x, factor)) + b * np.asarray(jitted_aggregate(y, factor))
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-4)


@property_test
@given(case=grouped_maps())
def test_gradient_of_sum_repeats_the_cotangent_over_the_group(case):
    x, factor = case
    cotangent = normal(2, *x.shape[:-1], x.shape[-1] // factor)

    @jax.jit
    def pull_back(x, cotangent):
        return jax.vjp(lambda x: aggregate(x, factor), x)[1](cotangent)[0]

    np.testing.assert_array_equal(pull_back(x, np.ones_like(cotangent)), np.ones_like(x))
    np.testing.assert_array_equal(pull_back(x, cotangent), np.repeat(cotangent, factor, axis=-1))


def test_gradient_of_mean_is_one_over_the_factor():
    gradient = jax.grad(lambda x: aggregate(x, 4, "mean").sum())(jnp.asarray(normal(0, 2, 8)))
    np.testing.assert_array_equal(gradient, np.full((2, 8), 0.25))


def test_gradient_of_normalized_sum_is_one_over_the_root_of_the_factor():
    gradient = jax.grad(lambda x: aggregate(x, 4, "normalized_sum").sum())(jnp.asarray(normal(0, 2, 8)))
    np.testing.assert_array_equal(gradient, np.full((2, 8), 0.5))


def test_gradient_of_drop_goes_to_the_first_of_the_group():
    gradient = jax.grad(lambda x: aggregate(x, 3, "drop").sum())(jnp.asarray(normal(0, 6)))
    np.testing.assert_array_equal(gradient, [1, 0, 0, 1, 0, 0])


def test_gradient_of_max_goes_to_the_largest_of_the_group():
    x = jnp.asarray([1.0, 5.0, 2.0, -1.0, -3.0, -2.0])
    np.testing.assert_array_equal(jax.grad(lambda x: aggregate(x, 3, "max").sum())(x), [0, 1, 0, 1, 0, 0])


def test_groups_are_adjacent_channels():
    x = jnp.arange(8.0)
    np.testing.assert_array_equal(aggregate(x, 4, "sum"), [0 + 1 + 2 + 3, 4 + 5 + 6 + 7])
    np.testing.assert_array_equal(aggregate(x, 2, "mean"), [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_array_equal(aggregate(x, 4, "max"), [3, 7])
    np.testing.assert_array_equal(aggregate(x, 4, "normalized_sum"), [3, 11])
    np.testing.assert_array_equal(aggregate(x, 4, "drop"), [0, 4])


def test_default_is_the_sum_of_four():
    x = jnp.asarray(normal(0, 2, 3, 3, 8))
    np.testing.assert_array_equal(aggregate(x), aggregate(x, 4, "sum"))


@ops
def test_factor_one_is_the_identity(op):
    x = jnp.asarray(normal(0, 2, 3, 5))
    np.testing.assert_array_equal(aggregate(x, 1, op), x)


@ops
def test_factor_of_all_channels_leaves_one(op):
    x = normal(0, 2, 3, 5)
    y = aggregate(jnp.asarray(x), 5, op)
    chex.assert_shape(y, (2, 3, 1))
    np.testing.assert_allclose(y[..., 0], NUMPY_OPS[op](x, axis=-1), rtol=1e-5, atol=1e-6)


@ops
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_aggregate_keeps_the_dtype(op, dtype):
    chex.assert_type(aggregate(jnp.ones((2, 8), dtype), 4, op), jnp.dtype(dtype))


@ops
def test_aggregate_works_under_jit_vmap_and_grad(op):
    x = jnp.asarray(normal(0, 3, 2, 2, 8))

    def f(x):
        return aggregate(x, 4, op)

    expected = f(x)
    np.testing.assert_allclose(jax.jit(f)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(f)(x), expected, rtol=1e-6)
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: f(x).sum())))(x)
    # All ops are positively homogeneous of degree one, so Euler's theorem gives the value back.
    np.testing.assert_allclose((gradient * x).sum(), expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("factor", [3, 16, 0, -4, True, False, 4.0, "4", None])
def test_aggregate_names_a_wrong_factor_and_what_is_allowed(factor):
    with pytest.raises(InputError) as caught:
        aggregate(jnp.ones((2, 8)), factor)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert f"factor is {factor!r}" in message
    assert "positive integer that divides the 8 channels" in message


@pytest.mark.parametrize("op", ["median", "", None, "SUM"])
def test_aggregate_names_an_unknown_op_and_those_there_are(op):
    with pytest.raises(InputError) as caught:
        aggregate(jnp.ones((2, 8)), 4, op)
    assert isinstance(caught.value, ValueError)
    assert f"op is {op!r}" in str(caught.value)
    assert "sum, mean, max" in str(caught.value)


def test_aggregate_rejects_a_scalar():
    with pytest.raises(InputError, match="x is a scalar; it needs a last axis of channels"):
        aggregate(jnp.float32(1))


def test_aggregate_checks_while_tracing():
    with pytest.raises(InputError, match="divides the 6 channels"):
        jax.eval_shape(aggregate, jax.ShapeDtypeStruct((2, 6), jnp.float32))


def squeeze_excite_parameters(channels, hidden, seed=0):
    shapes = ((channels, hidden), (hidden,), (hidden, channels), (channels,))
    return [normal(seed + index, *shape) for index, shape in enumerate(shapes)]


def squeeze_excite_numpy(x, *parameters):
    x, w1, b1, w2, b2 = (np.asarray(array, np.float64) for array in (x, *parameters))
    if x.ndim > 3:
        return np.stack([squeeze_excite_numpy(part, *parameters) for part in x])
    squeezed = x.mean(axis=(0, 1))
    hidden = np.maximum(squeezed @ w1 + b1, 0)
    return x / (1 + np.exp(-(hidden @ w2 + b2)))


@pytest.mark.parametrize("shape", [(3, 5, 4, 8), (2, 7, 8), (1, 1, 8), (2, 2, 3, 2, 8)])
def test_squeeze_excite_equals_numpy(shape):
    x, parameters = normal(9, *shape), squeeze_excite_parameters(8, 3)
    y = jitted_squeeze_excite(jnp.asarray(x), *map(jnp.asarray, parameters))
    chex.assert_shape(y, shape)
    np.testing.assert_allclose(y, squeeze_excite_numpy(x, *parameters), rtol=2e-5, atol=1e-6)
    # The weights depend on the averages alone.
    averages = jnp.broadcast_to(x.mean((-3, -2), keepdims=True), shape)
    weights = functional.squeeze_excite_weights(averages, *map(jnp.asarray, parameters))
    chex.assert_shape(weights, (*shape[:-3], 8))
    np.testing.assert_allclose(x * weights[..., None, None, :], y, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_squeeze_excite_keeps_shape_and_dtype(dtype):
    x = jnp.asarray(normal(9, 2, 4, 4, 8), dtype)
    parameters = squeeze_excite_parameters(8, 2)
    y = jitted_squeeze_excite(x, *map(jnp.asarray, parameters))
    chex.assert_shape(y, x.shape)
    chex.assert_type(y, jnp.dtype(dtype))
    tolerance = 1e-5 if dtype == "float32" else 0.1
    np.testing.assert_allclose(y.astype(jnp.float32), squeeze_excite_numpy(x, *parameters), atol=tolerance)


def test_squeeze_excite_averages_bfloat16_maps_in_float32():
    # A running sum of ones in bfloat16 stops at 256, where 1 is below half a unit in the last place.
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    one = jnp.ones((1, 1), jnp.float32)
    y = jitted_squeeze_excite(x, one, jnp.zeros(1), one, jnp.zeros(1))
    np.testing.assert_allclose(y.astype(jnp.float32), 1 / (1 + np.exp(-1)), rtol=1e-2)


def test_squeeze_excite_of_zeros_is_zero():
    parameters = map(jnp.asarray, squeeze_excite_parameters(8, 2))
    np.testing.assert_array_equal(squeeze_excite(jnp.zeros((2, 4, 4, 8)), *parameters), np.zeros((2, 4, 4, 8)))


@pytest.mark.parametrize("magnitude", [1e6, -1e6, 1e30])
def test_squeeze_excite_saturates_but_stays_finite(magnitude):
    x = jnp.full((2, 4, 4, 8), magnitude)
    parameters = list(map(jnp.asarray, squeeze_excite_parameters(8, 2)))
    y = np.asarray(jitted_squeeze_excite(x, *parameters))
    gradient = jax.jit(jax.grad(lambda x: squeeze_excite(x, *parameters).sum()))(x)
    assert np.isfinite(y).all()
    assert np.isfinite(gradient).all()
    assert (np.abs(y) <= abs(magnitude) * (1 + 1e-6)).all()


def test_squeeze_excite_with_zero_weights_halves():
    x = jnp.asarray(normal(0, 2, 3, 3, 8))
    y = jitted_squeeze_excite(x, jnp.zeros((8, 2)), jnp.zeros(2), jnp.zeros((2, 8)), jnp.zeros(8))
    np.testing.assert_allclose(y, x / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("index", "name", "shape"),
    [(0, "reduce_kernel", (7, 2)), (1, "reduce_bias", (3,)), (2, "expand_kernel", (8, 2)), (3, "expand_bias", (1,))],
)
def test_squeeze_excite_names_the_parameter_of_a_wrong_shape(index, name, shape):
    parameters = list(map(jnp.asarray, squeeze_excite_parameters(8, 2)))
    right = parameters[index].shape
    parameters[index] = jnp.zeros(shape)
    with pytest.raises(InputError) as caught:
        squeeze_excite(jnp.zeros((1, 2, 2, 8)), *parameters)
    assert f"{name} has shape {shape}" in str(caught.value)
    assert f"must be {right}" in str(caught.value)


@pytest.mark.parametrize("shape", [(8,), (4, 8)])
def test_squeeze_excite_needs_a_map(shape):
    with pytest.raises(
        InputError, match=rf"x is float32 {re.escape(str(shape))}; it must be floating point \[\.\.\., H"
    ):
        squeeze_excite(jnp.zeros(shape), *map(jnp.asarray, squeeze_excite_parameters(8, 2)))


# Operations of maps with any number of leading axes, and the shape of one map.
OF_ANY_RANK = {
    "aggregate": (aggregate, (8,)),
    "squeeze_excite": (lambda x: squeeze_excite(x, *squeeze_excite_parameters(8, 2)), (3, 5, 8)),
    "batch_norm": (lambda x: functional.batch_norm(x, *np.abs(normal(1, 4, 8))), (8,)),
    "squash": (lambda x: capsules.squash(x, 4), (8,)),
    "route": (lambda x: capsules.route(x, x + 1, x[..., :2], x[..., 2:4]), (8,)),
    "euclidean_norm": (capsules.euclidean_norm, (8,)),
}


@pytest.mark.parametrize("name", OF_ANY_RANK)
def test_leading_axes_are_those_of_vmap(name):
    function, shape = OF_ANY_RANK[name]
    x = jnp.asarray(normal(3, 2, 3, *shape))
    whole = function(x)
    for mapped, expected in ((jax.vmap(jax.vmap(function)), whole), (jax.vmap(function), whole)):
        np.testing.assert_allclose(mapped(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(function(x[1, 2]), whole[1, 2], rtol=1e-5, atol=1e-6)


# Operations of maps of one rank, whose other ranks are errors, and a map that fits.
OF_ONE_RANK = {
    "conv2d": (lambda x: functional.conv2d(x, jnp.ones((3, 3, 8, 8))), (2, 4, 4, 8)),
    "conv_transpose2d": (lambda x: functional.conv_transpose2d(x, jnp.ones((3, 3, 8, 8))), (2, 4, 4, 8)),
    "flatten_capsules": (lambda x: capsules.flatten_capsules(x, 4), (2, 4, 4, 8)),
    "class_capsules": (lambda x: capsules.class_capsules(x, jnp.ones((8, 4, 3))), (2, 4, 8)),
    "pairwise_distances": (lambda x: transport.pairwise_distances(x, x), (4, 8)),
    "sinkhorn": (transport.sinkhorn, (4, 8)),
}


@pytest.mark.parametrize("name", OF_ONE_RANK)
def test_other_ranks_are_errors_where_a_function_takes_one(name):
    function, shape = OF_ONE_RANK[name]
    x = jnp.asarray(normal(3, 3, *shape))
    expected = np.stack([function(part) for part in x])
    np.testing.assert_allclose(jax.vmap(function)(x), expected, rtol=1e-4, atol=1e-4)
    for wrong in (x, x[0, 0]):
        with pytest.raises(InputError, match="must be"):
            function(wrong)


@pytest.mark.parametrize("name", OF_ANY_RANK)
def test_a_call_outside_jit_sends_nothing_to_the_device(name):
    function, shape = OF_ANY_RANK[name]
    if name in ("squeeze_excite", "batch_norm"):
        arrays = jax.device_put(squeeze_excite_parameters(8, 2) if name == "squeeze_excite" else [jnp.ones(8)] * 4)
        function = functools.partial(lambda f, x: f(x, *arrays), getattr(functional, name))
    elif name == "route":
        function = lambda x: capsules.route(x, x, *coefficients)  # noqa: E731
        coefficients = [jnp.ones((2, 3, 2))] * 2
    x = jnp.asarray(normal(3, 2, 3, *shape))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(function(x))


def test_batch_statistics_are_over_all_leading_axes():
    x = normal(3, 2, 3, 5, 8)
    for actual, expected in zip(functional.batch_statistics(x), (x.mean((0, 1, 2)), x.var((0, 1, 2))), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 3), (4, 5, 6, 3), (9, 7, 2)])
def test_batch_statistics_equal_numpy(shape):
    x = normal(0, *shape)
    mean, var = batch_statistics(jnp.asarray(x))
    chex.assert_shape([mean, var], shape[-1:])
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(mean, x.mean(axes, dtype=np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, x.var(axes, dtype=np.float64), rtol=1e-5)


def test_the_gradient_of_the_variance_sums_to_zero_far_from_zero():
    """The mean is rounded, so that the deviations from it do not sum to zero.

    A gradient without the term of their sum would be faster, and off by five parts in ten thousand here.
    """
    x = jnp.asarray(normal(0, 4096, 4) * 1e-2 + np.float32(100))
    gradient = np.asarray(jax.grad(lambda x: batch_statistics(x)[1].sum())(x), np.float64)
    assert np.abs(gradient.sum(0)).max() < 1e-4 * np.abs(gradient).sum(0).min()


def test_variance_is_accurate_far_from_zero():
    # E[x^2] - E[x]^2 in float32 would be wrong by up to 0.1 here.
    x = normal(0, 64, 8, 8, 4) + np.float32(1e3)
    mean, var = batch_statistics(jnp.asarray(x))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var((0, 1, 2), dtype=np.float64), rtol=1e-4)


def test_statistics_of_bfloat16_are_float32_and_accurate():
    x = jnp.asarray(normal(0, 64, 16, 16, 4) + 2, jnp.bfloat16)
    mean, var = batch_statistics(x)
    chex.assert_type([mean, var], jnp.float32)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norm_equals_numpy(dtype):
    x = jnp.asarray(normal(0, 4, 3, 3, 5), dtype)
    mean, scale, bias = normal(1, 5), normal(2, 5), normal(3, 5)
    var = np.square(normal(4, 5)) + 0.1
    y = batch_norm(x, *map(jnp.asarray, (mean, var, scale, bias)), epsilon=1e-3)
    chex.assert_shape(y, x.shape)
    chex.assert_type(y, jnp.dtype(dtype))
    expected = (np.asarray(x, np.float64) - mean) / np.sqrt(var.astype(np.float64) + 1e-3) * scale + bias
    rtol = 1e-4 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=rtol, atol=1e-5)


def test_batch_norm_of_a_constant_channel_is_its_bias():
    x = jnp.full((8, 2, 2, 3), 7.0)
    bias = jnp.asarray([1.0, -2.0, 0.0])
    y = batch_norm(x, *batch_statistics(x), jnp.ones(3), bias)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, x.shape))


def test_batch_norm_keeps_its_precision_far_from_zero():
    x = normal(0, 64, 8, 8, 2) + np.float32(1e3)
    y = batch_norm(jnp.asarray(x), *batch_statistics(jnp.asarray(x)), jnp.ones(2), jnp.zeros(2))
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(y, expected, atol=1e-3)
