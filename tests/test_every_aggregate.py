"""A network with any aggregate is trained, saved, loaded and exported, and stays the same network."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from seanet_jax import ImageSpec, SEANet, SEANetConfig, load
from seanet_jax.inference.stablehlo import export_network, probabilities
from seanet_jax.layers.aggregates import AGGREGATE_KINDS
from seanet_jax.models import weights
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy

CONFIG = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, squeeze_excite=False, aggregate_seed=4)
SPEC = ImageSpec(4, 4, (0.5,) * 3, (0.25,) * 3, tuple("abcdefghij"))
PIXELS = np.random.RandomState(0).randint(0, 256, (6, 4, 4, 3)).astype(np.uint8)


@functools.partial(nnx.jit, static_argnums=0)
def trained(config):
    """Returns the network after a step of plain gradient descent, and the step's gradient."""
    graphdef, params, stats = split_model(SEANet(config, rngs=nnx.Rngs(0)))

    def loss(params, stats):
        model = nnx.merge(graphdef, params, stats)
        return cross_entropy(model(SPEC.normalize(PIXELS)), jnp.arange(6)).mean(), split_model(model)[2]

    gradient, stats = jax.grad(loss, has_aux=True)(params, stats)
    params = jax.tree.map(lambda value, slope: value - 0.1 * slope, params, gradient)
    return nnx.merge(graphdef, params, stats), gradient


# Those that are functions of their input alone are like the sum in all of this.
QUICK = ("learned",)
CASES = [pytest.param(kind, False, marks=[] if kind in QUICK else pytest.mark.slow) for kind in AGGREGATE_KINDS]
CASES += [pytest.param(kind, True, marks=pytest.mark.slow) for kind in ("sum", "learned")]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_a_network_is_trained_saved_loaded_and_exported(kind, norm, tmp_path):
    model, gradient = trained(dataclasses.replace(CONFIG, aggregate_op=kind, aggregate_norm=norm))
    # Every parameter learns, those of the aggregate too.
    assert all(float(jnp.abs(slope).max()) > 0 for slope in jax.tree.leaves(gradient))
    own = gradient["stages"][0].get("aggregate", {})
    names = (["conv"] if kind in ("learned", "dense") else []) + (["norm"] if norm else [])
    assert sorted(own) == names
    model.eval()
    model.save_pretrained(tmp_path, SPEC)
    again = load(tmp_path)
    assert again.model.config == model.config
    chex.assert_trees_all_equal(weights.to_arrays(again.model), weights.to_arrays(model))
    expected = jax.jit(probabilities(model, SPEC))(PIXELS)
    # The artifact is of the loaded network.
    artifact = export.deserialize(bytearray(export_network(again).serialize()))
    np.testing.assert_allclose(artifact.call(PIXELS), expected, rtol=1e-4)
