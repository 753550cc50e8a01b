"""Batch normalization in training and in evaluation: every switch between them, and statistics over a mapped axis."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from module_fixtures import abstract, normal, run

from seanet_jax import ResidualBlock
from seanet_jax.layers.modules import BatchNorm


def test_modules_start_in_training_mode_and_switch_between_the_modes():
    x = normal(0, 16, 4) * 3 + 7
    bn = BatchNorm(4)
    trained = np.asarray(run(bn, x))
    np.testing.assert_allclose(trained.mean(0), 0, atol=1e-5)

    bn.eval()
    mean, var = np.asarray(bn.mean[...]), np.asarray(bn.var[...])
    np.testing.assert_allclose(run(bn, x), (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4)
    np.testing.assert_array_equal(bn.mean[...], mean)
    np.testing.assert_array_equal(bn.var[...], var)

    bn.train()
    np.testing.assert_array_equal(run(bn, x), trained)
    assert (bn.mean[...] != mean).all()


def test_every_batch_norm_of_a_block_switches():
    block = abstract(ResidualBlock, 4, 8, reduction=2)
    norms = [block.bn1, block.bn2, block.shortcut_bn]
    block.eval()
    assert all(norm.use_running_average for norm in norms)
    block.train()
    assert not any(norm.use_running_average for norm in norms)


def paired_norms(**options):
    """Makes a batch normalization and Flax's, with the same running averages."""
    options = {"momentum": 0.9} | options
    ours, theirs = BatchNorm(4, **options), nnx.BatchNorm(4, **options, use_fast_variance=False, rngs=nnx.Rngs(0))
    for norm in (ours, theirs):
        norm.mean[...], norm.var[...] = jnp.asarray(normal(1, 4)), jnp.asarray(normal(2, 4) ** 2 + 1)
    return ours, theirs


def eval_mode(norm):
    norm.eval()
    return norm


def train_mode(norm):
    norm.eval()
    norm.train()
    return norm


def attributes(norm, value):
    norm.set_attributes(use_running_average=value)
    return norm


SWITCHES = {
    "as made": lambda norm, x: norm(x),
    "eval": lambda norm, x: eval_mode(norm)(x),
    "train": lambda norm, x: train_mode(norm)(x),
    "attribute true": lambda norm, x: attributes(norm, True)(x),
    "attribute false": lambda norm, x: attributes(eval_mode(norm), False)(x),
    "view true": lambda norm, x: nnx.view(norm, use_running_average=True)(x),
    "view false": lambda norm, x: nnx.view(eval_mode(norm), use_running_average=False)(x),
    "view of a view": lambda norm, x: nnx.view(nnx.view(norm, use_running_average=True), use_running_average=False)(x),
    "view that chooses others": lambda norm, x: nnx.view(
        norm, only=nnx.Dropout, raise_if_not_found=False, use_running_average=True
    )(x),
    "with attributes": lambda norm, x: nnx.with_attributes(norm, use_running_average=True)(x),
    "call true": lambda norm, x: norm(x, use_running_average=True),
    "call false": lambda norm, x: eval_mode(norm)(x, use_running_average=False),
    "call by position": lambda norm, x: norm(x, True),
    "call none": lambda norm, x: eval_mode(norm)(x, use_running_average=None),
    "call instead of none": lambda norm, x: attributes(norm, None)(x, use_running_average=True),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_of_the_mode_does_what_it_does_to_flax(switch):
    x = jnp.asarray(normal(0, 16, 4) * 3 + 7)
    ours, theirs = paired_norms()
    before = np.asarray(theirs.mean[...])
    np.testing.assert_allclose(SWITCHES[switch](ours, x), SWITCHES[switch](theirs, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.mean[...], rtol=1e-6)
    assert ours.use_running_average is theirs.use_running_average
    assert (np.asarray(ours.mean[...]) == before).all() == (np.asarray(theirs.mean[...]) == before).all()


def test_the_constructor_chooses_the_mode_as_flax_does():
    x = jnp.asarray(normal(0, 16, 4))
    for value in (True, False):
        ours, theirs = paired_norms(use_running_average=value)
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    for norm in paired_norms(use_running_average=None):
        with pytest.raises(ValueError, match="use_running_average"):
            norm(x)


def test_a_view_of_a_block_evaluates_without_moving_its_averages():
    x = jnp.asarray(normal(0, 4, 3, 3, 4))
    block = ResidualBlock(4, 8, reduction=2, rngs=nnx.Rngs(0))
    run(block, x)
    view, stats = nnx.view(block, use_running_average=True), nnx.to_pure_dict(nnx.state(block, nnx.BatchStat))
    found = run(view, x)
    # Products of another batch size are rounded otherwise by some versions of XLA.
    chex.assert_trees_all_close(run(view, x[:1]), found[:1], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)), stats)
    assert not block.bn1.use_running_average
    block.eval()
    chex.assert_trees_all_equal(run(block, x), found)


def mapped(norm, x):
    """Returns the result and the averages of each part of a batch that ``vmap`` maps over the axis "data"."""
    graphdef, state = nnx.split(norm)

    def apply(x):
        norm = nnx.merge(graphdef, state, copy=True)
        return norm(x), norm.mean[...], norm.var[...]

    return jax.jit(jax.vmap(apply, axis_name="data"))(x)


def test_statistics_over_a_mapped_axis_are_those_of_flax():
    x = jnp.asarray(normal(0, 4, 8, 3, 4) * 3 + 1)
    ours, theirs = paired_norms(axis_name="data")
    (found, mean, var), (expected, expected_mean, expected_var) = mapped(ours, x), mapped(theirs, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
    # Flax's average is of the biased variance; the batch has 96 values for each channel.
    biased = 0.9 * theirs.var[...] + (var - 0.9 * theirs.var[...]) * 95 / 96
    np.testing.assert_allclose(biased, expected_var, rtol=1e-4)
    gradients = [
        jax.grad(lambda x, norm=norm: jnp.square(mapped(norm, x)[0][..., 0] - x[..., 1]).sum())(x)
        for norm in (ours, theirs)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4)


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    x = jnp.asarray(normal(0, 4, 8, 3, 4) * 3 + 1)
    found, mean, var = mapped(BatchNorm(4, axis_name="data"), x)
    whole = BatchNorm(4)
    np.testing.assert_allclose(found, whole(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, jnp.broadcast_to(whole.mean[...], (4, 4)), rtol=1e-5)
    np.testing.assert_allclose(var, jnp.broadcast_to(whole.var[...], (4, 4)), rtol=1e-5)
    # A part may have a single value for each channel where the whole has several.
    chex.assert_shape(mapped(BatchNorm(4, axis_name="data"), x[:, :1, 0])[0], (4, 1, 4))


def test_the_axis_of_a_whole_network_is_set_like_other_attributes():
    x = jnp.asarray(normal(0, 2, 4, 5, 5, 4))
    block = ResidualBlock(4, 8, reduction=2, rngs=nnx.Rngs(0))
    whole = run(nnx.clone(block), x.reshape(8, 5, 5, 4))
    block.set_attributes(axis_name="data")
    graphdef, state = nnx.split(block)
    parts = jax.jit(jax.vmap(lambda x: nnx.merge(graphdef, state, copy=True)(x), axis_name="data"))(x)
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-4, atol=1e-4)
