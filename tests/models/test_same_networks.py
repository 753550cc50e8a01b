"""Which aggregates make the same network, exactly, and which only start as one."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import random_network

from seanet_jax import SEANet, SEANetConfig
from seanet_jax.layers.aggregates import random_order
from seanet_jax.models import model_config, weights
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy

TINY = SEANetConfig(stage_sizes=(1, 1), widths=(8, 16), stem_width=4, squeeze_excite=False, conv_method="lax")
NARROW = model_config("seanet20_narrow", conv_method="lax")
# Largest differences allowed in float64, relative to the largest value.
ROUNDING = 1e-9
# The operations that are the sum times a constant, for groups of four.
SCALES = {"mean": 1 / 4, "normalized_sum": 1 / 2}


@functools.cache
def initial(config):
    """Returns the initial arrays of a network."""
    return weights.to_arrays(nnx.jit(lambda: SEANet(config, rngs=nnx.Rngs(0)))())


@functools.cache
def logits_and_gradients(config, *, classifier=1.0, epsilon=1.0):
    """Returns the logits of a batch and the gradient of its loss, of a new network in training mode, in float64.

    Args:
        config: The network.
        classifier: Factor of the classifier's kernel.
        epsilon: Factor of the epsilon of the normalizations that see aggregated maps through a convolution.
    """
    with jax.enable_x64(True):
        double = dataclasses.replace(config)
        object.__setattr__(double, "dtype", "float64")  # for this test alone
        model = nnx.eval_shape(lambda: SEANet(double, rngs=nnx.Rngs(0)))
        for variable, array in zip(variables(model), initial(config).values(), strict=True):
            variable.set_value(jnp.asarray(array, jnp.float64))
        model.classifier.kernel.set_value(model.classifier.kernel[...] * classifier)
        for stage in list(model.stages)[1:]:
            for norm in (stage.blocks[0].bn1, stage.blocks[0].shortcut_bn):
                norm.epsilon *= epsilon
        graphdef, params, stats = split_model(model)
        images = np.random.RandomState(0).standard_normal((4, 8, 8, 3))

        def loss(params):
            logits = nnx.merge(graphdef, params, stats)(images)
            return cross_entropy(logits, jnp.arange(4)).mean(), logits

        (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return jax.device_get((logits, gradients))


def variables(model):
    return [variable for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))]


def difference(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


CASES = [("mean", TINY), ("normalized_sum", TINY), pytest.param("mean", NARROW, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "config"), CASES, ids=["mean", "normalized_sum", "seanet20_narrow"])
def test_sum_and_what_differs_by_a_factor_are_one_network_with_another_scale_of_the_classifier(op, config):
    # A convolution of maps c times as large has c times the mean and c^2 times the variance, which the normalization
    # divides out if its epsilon is c^2 times as large. The classifier is left, which sees maps c times as large.
    scale = SCALES[op]
    logits, gradients = logits_and_gradients(config)
    other = dataclasses.replace(config, aggregate_op=op)
    expected, expected_gradients = logits_and_gradients(other, classifier=1 / scale, epsilon=scale**2)
    assert difference(logits, expected) < ROUNDING
    for (path, gradient), one in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        name = jax.tree_util.keystr(path)
        seen = scale if "classifier" in name and "kernel" in name else 1
        assert difference(seen * gradient, one) < 1e-7, name


def relabeled(arrays, orders):
    """Returns the arrays of a network of one block in each stage, with the stages' channels in another order.

    Args:
        arrays: Arrays by name.
        orders: For each stage, the old channel of each new one.
    """
    found = dict(arrays)
    for name, array in arrays.items():
        if name.startswith("stages."):
            order = list(orders[int(name.split(".")[1])])
            if name.endswith("conv2.kernel"):
                array = array[..., order, :]
            found[name] = array[..., order] if array.shape[-1] == len(order) else array
    return found


@pytest.mark.parametrize("placement", ["stage", "block"])
def test_random_groups_are_adjacent_ones_of_channels_with_other_names(placement):
    config = dataclasses.replace(TINY, aggregate_placement=placement, aggregate_op="random", aggregate_seed=3)
    model = random_network(config)
    same = random_network(dataclasses.replace(config, aggregate_op="sum"))
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    expected, evaluate = model(x), nnx.jit(lambda model: model(x))
    assert difference(evaluate(same), expected) > 1e-2
    orders = [random_order(width, 3) for width in config.widths]
    weights.set_arrays(same, relabeled(weights.to_arrays(model), orders), "the test")
    np.testing.assert_allclose(evaluate(same), expected, rtol=1e-4)


OTHERS = [
    {"aggregate_op": "random", "aggregate_placement": "stage"},
    {"aggregate_op": "learned", "aggregate_placement": "stage"},
    {"aggregate_op": "dense", "aggregate_placement": "block", "aggregate_norm": True},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other["aggregate_op"])
def test_all_other_layers_start_with_the_same_values_whatever_aggregates(other):
    base = dataclasses.replace(TINY, aggregate_placement=other["aggregate_placement"])
    arrays, expected = initial(dataclasses.replace(base, **other)), initial(base)
    assert {name for name in arrays if name not in expected} == {name for name in arrays if ".aggregate." in name}
    chex.assert_trees_all_equal({name: arrays[name] for name in expected}, expected)
