"""Every kind of aggregate equals a loop over its groups, and its gradient is the one derived by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from module_fixtures import normal

from seanet_jax import Aggregate, InputError
from seanet_jax.layers.aggregates import (
    AGGREGATE_KINDS,
    DenseAggregate,
    LearnedAggregate,
    RandomAggregate,
    kind_of,
    make_aggregate,
    random_order,
)
from seanet_jax.layers.functional import AGGREGATE_OPS
from seanet_jax.layers.modules import BatchNorm, Conv

kinds = pytest.mark.parametrize("kind", AGGREGATE_KINDS)
CHANNELS, FACTOR = 6, 3
X, COTANGENT = normal(0, 2, 3, 2, CHANNELS), normal(1, 2, 3, 2, CHANNELS // FACTOR)


def made(kind, **options):
    """Returns an aggregate of six channels whose weights, if it has any, are random."""
    aggregate = make_aggregate(kind, CHANNELS, FACTOR, rngs=nnx.Rngs(0), **options)
    if hasattr(aggregate, "conv"):
        aggregate.conv.kernel[...] = jnp.asarray(normal(2, *aggregate.conv.kernel.shape))
    return aggregate


def matrix(aggregate):
    """Returns the matrix ``[C, C / k]`` of a linear aggregate, written by a loop over its output channels."""
    found = np.zeros((CHANNELS, CHANNELS // FACTOR))
    for group in range(CHANNELS // FACTOR):
        for place in range(FACTOR):
            channel = group * FACTOR + place
            if isinstance(aggregate, RandomAggregate):
                found[aggregate.order[channel], group] = 1
            elif isinstance(aggregate, LearnedAggregate):
                found[channel, group] = aggregate.conv.kernel[0, 0, place, group]
            elif isinstance(aggregate, DenseAggregate):
                found[:, group] = aggregate.conv.kernel[0, 0, :, group]
            else:
                weights = {"sum": 1, "mean": 1 / 3, "normalized_sum": 3**-0.5, "drop": place == 0}
                found[channel, group] = weights[aggregate.op]
    return found


LINEAR = [kind for kind in AGGREGATE_KINDS if kind != "max"]
WAYS = [(kind, "auto") for kind in LINEAR] + [(k, m) for k in ("learned", "dense") for m in ("lax", "patches")]


@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_a_linear_aggregate_and_its_gradient_are_those_of_a_loop(kind, method):
    aggregate = made(kind, method=method)
    expected = np.zeros(COTANGENT.shape)
    for group in range(CHANNELS // FACTOR):
        for channel in range(CHANNELS):
            expected[..., group] += X[..., channel] * matrix(aggregate)[channel, group]
    graphdef, params = nnx.split(aggregate, nnx.Param)
    y, pull_back = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x), params, jnp.asarray(X))
    of_params, of_x = pull_back(jnp.asarray(COTANGENT))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x, COTANGENT @ matrix(aggregate).T, rtol=1e-5, atol=1e-5)
    products = np.einsum("nhwc,nhwg->cg", X, COTANGENT)
    if kind == "learned":
        # A weight's gradient is the sum of its channel times the output's, over all pixels.
        own = [[products[group * FACTOR + place, group] for group in range(2)] for place in range(FACTOR)]
        np.testing.assert_allclose(of_params["conv"]["kernel"][...], np.array(own)[None, None], rtol=1e-5, atol=1e-5)
    elif kind == "dense":
        np.testing.assert_allclose(of_params["conv"]["kernel"][...], products[None, None], rtol=1e-5, atol=1e-5)
    else:
        assert not jax.tree.leaves(params)


@pytest.mark.parametrize("kind", ["sum", "random", "learned", "dense"])
def test_an_aggregate_says_its_groups_and_their_weights(kind):
    aggregate = made(kind)
    found = np.zeros((CHANNELS, CHANNELS // FACTOR))
    for group, channels in enumerate(aggregate.groups(CHANNELS)):
        found[channels, group] = aggregate.weights()[group] if kind in ("learned", "dense") else 1
    np.testing.assert_array_equal(found, matrix(aggregate))


@kinds
def test_an_aggregate_says_its_kind(kind):
    assert kind_of(made(kind)) == kind


def test_the_weights_are_counted_per_channel_or_per_pair():
    shapes = {kind: made(kind).conv.kernel.shape for kind in ("learned", "dense")}
    assert shapes == {"learned": (1, 1, 3, 2), "dense": (1, 1, 6, 2)}


def test_a_learned_aggregate_starts_as_the_sum():
    np.testing.assert_allclose(LearnedAggregate(6, 3)(X), Aggregate(3)(jnp.asarray(X)), rtol=1e-6, atol=1e-6)


def test_a_dense_aggregate_starts_as_a_convolution_and_leaves_its_source_as_it_was():
    rngs, untouched = nnx.Rngs(0), nnx.Rngs(0)
    kernel = DenseAggregate(128, 4, rngs=rngs).conv.kernel[...]
    assert float(kernel.std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    after = Conv(128, 32, 1, rngs=rngs).kernel[...]
    np.testing.assert_array_equal(after, Conv(128, 32, 1, rngs=untouched).kernel[...])
    # Nor are the weights those of the layer that draws from the source next.
    assert abs(np.corrcoef(kernel.ravel(), after.ravel())[0, 1]) < 0.05
    assert (DenseAggregate(128, 4, rngs=rngs).conv.kernel[...] != kernel).any()


def test_the_groups_are_those_of_the_seed_in_every_version():
    # A network on disk names its seed alone.
    assert random_order(8, 0) == (6, 2, 1, 7, 3, 0, 5, 4)
    assert random_order(8, 1) == (7, 2, 1, 6, 0, 4, 3, 5)
    assert sorted(random_order(512, 3)) == list(range(512))
    np.testing.assert_array_equal(RandomAggregate(8, 4)(jnp.arange(8.0)), [6 + 2 + 1 + 7, 3 + 0 + 5 + 4])
    np.testing.assert_array_equal(RandomAggregate(8, 2, seed=1)(jnp.arange(8.0)), [9, 7, 4, 8])


@kinds
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_map_keeps_its_dtype_and_weights_are_float32(kind, norm, dtype):
    def run(x):
        aggregate = made(kind, norm=BatchNorm(CHANNELS // FACTOR) if norm else None)
        return aggregate(x), nnx.state(aggregate, nnx.Any(nnx.Param, nnx.BatchStat))

    y, state = jax.eval_shape(run, jax.ShapeDtypeStruct(X.shape, dtype))
    chex.assert_shape(y, COTANGENT.shape)
    assert y.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype("float32")}


@pytest.mark.parametrize("kind", ["sum", "random", "dense"])
def test_a_normalization_follows_the_reduction(kind):
    plain, normalized = made(kind), made(kind, norm=BatchNorm(CHANNELS // FACTOR))
    reduced = plain(jnp.asarray(X))
    np.testing.assert_array_equal(normalized.reduce(jnp.asarray(X)), reduced)
    expected = (reduced - reduced.mean((0, 1, 2))) / np.sqrt(reduced.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(normalized(jnp.asarray(X)), expected, rtol=1e-4, atol=1e-4)
    normalized.eval()
    moved = 0.9 + 0.1 * reduced.var((0, 1, 2), ddof=1)
    expected = (reduced - 0.1 * reduced.mean((0, 1, 2))) / np.sqrt(moved + 1e-5)
    np.testing.assert_allclose(normalized(jnp.asarray(X)), expected, rtol=1e-4, atol=1e-4)


SIZED = {
    "RandomAggregate": lambda channels, factor: RandomAggregate(channels, factor),
    "LearnedAggregate": lambda channels, factor: LearnedAggregate(channels, factor),
    "DenseAggregate": lambda channels, factor: DenseAggregate(channels, factor, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(
    ("channels", "factor", "message"),
    [
        (6, 4, "factor is 4; it must divide the 6 channels"),
        (6, 0, "factor is 0; it must be a positive integer"),
        (6, 2.0, "factor is 2.0; it must be a positive integer"),
        (6, True, "factor is True; it must be a positive integer"),
        (0, 2, "channels is 0; it must be a positive integer"),
    ],
)
def test_sizes_that_cannot_be_grouped_are_named(name, channels, factor, message):
    with pytest.raises(InputError, match=f"{name}: {message}"):
        SIZED[name](channels, factor)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, True, "0", None])
def test_an_impossible_seed_is_named(seed):
    with pytest.raises(InputError, match=r"seed is .*; it must be an integer from 0 to 2,147,483,647"):
        RandomAggregate(4, 2, seed=seed)


def test_other_channels_than_those_it_was_made_for_are_refused():
    with pytest.raises(InputError, match=r"RandomAggregate: x has shape \(2, 8\); it must be \[..., 6\]"):
        RandomAggregate(6, 3)(jnp.ones((2, 8)))
    with pytest.raises(InputError, match=r"conv2d: x \(2, 2, 2, 9\) and kernel"):
        LearnedAggregate(6, 3)(jnp.ones((2, 2, 2, 9)))


def test_the_kinds_are_the_operations_and_the_classes():
    assert (*AGGREGATE_OPS, "random", "learned", "dense") == AGGREGATE_KINDS
    with pytest.raises(InputError, match="op is 'median'; it must be one of sum"):
        make_aggregate("median", 6, 3, rngs=nnx.Rngs(0))
    assert make_aggregate("random", 6, 3, seed=5, rngs=nnx.Rngs(0)).order == random_order(6, 5)
