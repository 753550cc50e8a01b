"""Networks for tests: without values, which takes no compilation, or with random ones."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seanet_jax.models import SEANet, SEANetConfig, build, weights

SMALL = SEANetConfig(stage_sizes=(1, 1), widths=(8, 8), stem_width=4, reduction=2)


def abstract(config):
    """A network whose arrays have shapes but no values."""
    return nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))


def run_abstract(model, *shape, dtype=jnp.float32):
    """Shapes and dtypes of the scores and of the state after the pass."""

    def run(model, x):
        return model(x), nnx.to_pure_dict(nnx.state(model))

    return nnx.eval_shape(run, model, jax.ShapeDtypeStruct(shape, dtype))


def count(model):
    """The number of a network's parameters."""
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def random_network(config, seed=0):
    """A network in evaluation mode whose parameters and running statistics are all random and positive."""
    model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    draw = np.random.RandomState(seed)
    arrays = {name: draw.uniform(0.1, 1, shape).astype(np.float32) for name, shape in weights.shapes(model).items()}
    weights.set_arrays(model, arrays, "the test")
    model.eval()
    return model


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[convert]'")


@pytest.fixture
def pytorch_network(torch, monkeypatch):
    """The published network's class in PyTorch."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from pytorch_seanet import SEANet as PyTorchSEANet

    return PyTorchSEANet
