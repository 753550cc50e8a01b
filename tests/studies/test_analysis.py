"""Redundancy that is known by construction, and gradients beside those of jax.grad."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard
from training_fixtures import TINY

from seanet_jax.errors import InputError
from seanet_jax.layers.functional import aggregate
from seanet_jax.models import SEANet
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy
from seanet_jax.studies.analysis import (
    Moments,
    absolute_correlations,
    active_share,
    chosen_channels,
    correlations_of,
    effective_rank,
    effective_rank_of,
    feature_maps,
    gradient_norms,
    summed_groups,
)

# Columns of +-1 without mean, orthogonal to each other: 7 uncorrelated channels of variance 1.
ORTHOGONAL = hadamard(8)[:, 1:].astype(float)
IMAGES = np.random.RandomState(0).standard_normal((6, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32)


def maps_of(seed, samples=50, channels=8):
    source = np.random.RandomState(seed)
    return source.standard_normal((samples, channels)) @ source.standard_normal((channels, channels))


def test_copies_are_of_rank_one_and_fully_correlated():
    one = maps_of(0)[:, :1]
    copies = one * np.array([1.0, 2.0, -3.0, 0.5]) + np.array([0.0, 5.0, 1.0, -2.0])
    np.testing.assert_allclose(absolute_correlations(copies).absolute, np.ones(6))
    assert effective_rank(copies) == pytest.approx(1)


def test_orthogonal_channels_are_of_full_rank_and_uncorrelated():
    found = absolute_correlations(ORTHOGONAL)
    np.testing.assert_allclose(found.absolute, np.zeros(21), atol=1e-15)
    assert found.constant == 0
    assert effective_rank(ORTHOGONAL) == pytest.approx(7)


def test_the_rank_is_the_entropy_of_the_spectrum():
    # Variances 1 and 3: shares 1/4 and 3/4.
    maps = ORTHOGONAL[:, :2] * np.sqrt([1.0, 3.0])
    assert effective_rank(maps) == pytest.approx(4 / 3**0.75)


def test_correlations_are_numpys():
    maps = maps_of(1)
    expected = np.abs(np.corrcoef(maps.T)[np.triu_indices(8, 1)])
    np.testing.assert_allclose(absolute_correlations(maps).absolute, expected)


def test_positions_and_images_are_samples():
    maps = maps_of(2, samples=48)
    np.testing.assert_array_equal(
        absolute_correlations(maps.reshape(3, 4, 4, 8)).absolute, absolute_correlations(maps).absolute
    )
    assert effective_rank(maps.reshape(3, 4, 4, 8)) == effective_rank(maps)


def test_constant_channels_are_counted_and_left_out():
    # 0.1 is not a sum of powers of two: its mean is rounded.
    maps = np.concatenate([maps_of(3, channels=2), np.full((50, 2), 0.1)], axis=1)
    found = absolute_correlations(maps)
    assert found.constant == 2 and found.absolute.shape == (1,)
    assert effective_rank(maps) == pytest.approx(effective_rank(maps[:, :2]))
    with pytest.raises(InputError, match="no channel of the maps varies"):
        effective_rank(maps[:, 2:])


@given(st.integers(0, 1000), st.integers(1, 49))
def test_moments_of_parts_merge_to_those_of_the_whole(seed, cut):
    maps = maps_of(seed) + 1000.0
    merged, whole = Moments.of(maps[:cut]).merge(Moments.of(maps[cut:])), Moments.of(maps)
    assert merged.samples == whole.samples == 50
    for one, other in zip(merged[1:], whole[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-6)


@given(st.integers(0, 1000), st.sampled_from([1, 2, 4, 8]))
def test_the_covariance_of_sums_follows_from_that_of_the_channels(seed, factor):
    maps, order = maps_of(seed), np.random.RandomState(seed).permutation(8)
    expected = Moments.of(maps[:, order].reshape(50, 8 // factor, factor).sum(2)).covariance()
    np.testing.assert_allclose(summed_groups(Moments.of(maps).covariance(), order, factor), expected, atol=1e-9)
    chosen = Moments.of(maps[:, order[:3]]).covariance()
    np.testing.assert_allclose(chosen_channels(Moments.of(maps).covariance(), order[:3]), chosen, atol=1e-12)


def test_summing_copies_loses_no_rank_and_summing_strangers_does():
    doubled = Moments.of(np.repeat(ORTHOGONAL[:, :4], 2, axis=1)).covariance()
    assert effective_rank_of(doubled) == pytest.approx(4)
    together, apart = np.arange(8), np.array([0, 2, 1, 3, 4, 6, 5, 7])
    assert effective_rank_of(summed_groups(doubled, together, 2)) == pytest.approx(4)
    np.testing.assert_allclose(correlations_of(summed_groups(doubled, together, 2)).absolute, 0, atol=1e-15)
    assert effective_rank_of(summed_groups(doubled, apart, 2)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((4, 4, 3)), r"the maps have shape \(4, 4, 3\); they must be"),
        (np.zeros((0, 3)), "not empty"),
        (np.array([[1.0, np.nan]]), "hold NaN or infinity; they must be finite"),
    ],
)
def test_maps_that_cannot_be_measured_are_named(maps, message):
    with pytest.raises(InputError, match=message):
        absolute_correlations(maps)


def test_groups_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="factor is 3; it must divide the 8 channels"):
        summed_groups(np.eye(8), np.arange(8), 3)
    with pytest.raises(InputError, match="factor is 0; it must be a positive integer"):
        summed_groups(np.eye(8), np.arange(8), 0)


# Networks.


def made(config):
    # One program, not one for each parameter.
    return nnx.jit(lambda: SEANet(config, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def network():
    model = made(TINY)
    model.eval()
    return model


@pytest.mark.slow
def test_the_maps_are_those_that_the_network_computes(network):
    logits = nnx.jit(lambda model: model(IMAGES))(network)
    first, second = feature_maps(network, IMAGES)
    assert first.before.shape == (6, 8, 8, 8) and first.after.shape == (6, 8, 8, 4)
    assert second.before.shape == (6, 4, 4, 16) and second.after.shape == (6, 4, 4, 8)
    for stage in (first, second):
        np.testing.assert_allclose(stage.after, aggregate(stage.before, 2, "sum"), rtol=1e-6)
    np.testing.assert_allclose(network.classifier(second.after.mean((1, 2))), logits, rtol=1e-4, atol=1e-5)
    # It is left as it was.
    np.testing.assert_array_equal(nnx.jit(lambda model: model(IMAGES))(network), logits)


@pytest.mark.slow
def test_a_network_without_aggregation_has_the_same_maps_before_and_after():
    model = made(dataclasses.replace(TINY, aggregate_placement="none"))
    model.eval()
    for stage in feature_maps(model, IMAGES):
        np.testing.assert_array_equal(stage.before, stage.after)


def test_the_maps_of_any_aggregate_are_before_and_after_it_and_of_a_stage_without_one_alike():
    model = made(dataclasses.replace(TINY, aggregate_op="dense", aggregate_norm=True, aggregate_stages=(1,)))
    model.eval()
    first, second = feature_maps(model, IMAGES)
    np.testing.assert_allclose(first.after, model.stages[0].aggregate(first.before), rtol=1e-4, atol=1e-5)
    assert first.after.shape == (6, 8, 8, 4) and second.after.shape == (6, 4, 4, 16)
    np.testing.assert_array_equal(second.before, second.after)


@pytest.mark.slow
def test_a_network_whose_channels_are_copies_is_seen_to_be_redundant():
    model = made(TINY)
    model.eval()
    block = model.stages[1].blocks[0]
    # Every second output channel of the last block is made a copy of the one before it.
    for part in (block.conv2, block.bn2, block.squeeze_excite.expand, block.shortcut, block.shortcut_bn):
        state = nnx.state(part)
        nnx.update(part, jax.tree.map(lambda leaf: jnp.repeat(leaf[..., ::2], 2, axis=-1), state))
    _, stage = feature_maps(model, IMAGES)
    before, after = Moments.of(stage.before).covariance(), Moments.of(stage.after).covariance()
    pairs = np.abs(np.corrcoef(np.asarray(stage.before, np.float64).reshape(-1, 16).T))
    np.testing.assert_allclose(np.diagonal(pairs, 1)[::2], 1)
    # Their sums tell as much as they did, in half as many channels.
    assert effective_rank_of(after) == pytest.approx(effective_rank_of(before), rel=1e-4)
    np.testing.assert_allclose(
        correlations_of(after).absolute,
        correlations_of(chosen_channels(before, np.arange(0, 16, 2))).absolute,
        rtol=1e-4,
    )


def test_networks_whose_maps_cannot_be_compared_are_refused(network):
    inside = nnx.eval_shape(lambda: SEANet(dataclasses.replace(TINY, aggregate_placement="block"), rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="aggregates inside its blocks"):
        feature_maps(inside, IMAGES)
    with pytest.raises(InputError, match="in training mode; call its eval"):
        feature_maps(nnx.eval_shape(lambda: SEANet(TINY, rngs=nnx.Rngs(0))), IMAGES)
    with pytest.raises(InputError, match="the images have shape"):
        feature_maps(network, IMAGES[0])


def test_a_group_is_active_where_any_member_is():
    maps = jnp.array([[1.0, 0, 0, 0], [0, 0, 0, 2]]).reshape(1, 1, 2, 4)
    in_order = np.arange(4)
    assert float(active_share(maps, in_order)) == 2 / 8
    assert float(active_share(maps, in_order, factor=2)) == 2 / 4
    assert float(active_share(maps, np.array([0, 3, 1, 2]), factor=2, op="max")) == 2 / 4
    both = maps.at[0, 0, 0, 1].set(1.0)
    assert float(active_share(both, in_order, factor=2)) == 2 / 4
    assert float(active_share(both, np.array([0, 2, 1, 3]), factor=2)) == 3 / 4


@pytest.mark.slow
def test_gradients_are_those_of_jax_grad_in_training_mode():
    model = made(TINY)
    model.train()
    graphdef, params, batch_stats = split_model(model)
    found = gradient_norms(TINY, params, batch_stats, IMAGES, LABELS)

    def loss_fn(params):
        return cross_entropy(nnx.merge(graphdef, params, batch_stats)(IMAGES), LABELS).mean()

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(params)
    assert found.loss == pytest.approx(float(loss), rel=1e-5)
    names = [layer.layer for layer in found.layers]
    blocks = [f"stage {s} block 1 {part}" for s in (1, 2) for part in ("conv 1", "conv 2", "shortcut")]
    assert names == ["stem", *blocks]
    expected = [gradients["stem"]["kernel"]]
    kept = [params["stem"]["kernel"]]
    for stage in (0, 1):
        for part in ("conv1", "conv2", "shortcut"):
            expected.append(gradients["stages"][stage]["blocks"][0][part]["kernel"])
            kept.append(params["stages"][stage]["blocks"][0][part]["kernel"])
    for layer, gradient, kernel in zip(found.layers, expected, kept, strict=True):
        assert layer.gradient == pytest.approx(float(jnp.sqrt((gradient**2).sum())), rel=1e-3)
        assert layer.parameter == pytest.approx(float(jnp.sqrt((kernel**2).sum())), rel=1e-5)
        assert layer.relative == layer.gradient / layer.parameter
