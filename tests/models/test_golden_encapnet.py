"""EncapNet computes what the published network computes, in its three variants (tests/models/golden/README.md)."""

import json

import golden_encapnet as reference
import golden_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seanet_jax.models import PRESETS, EncapNet
from seanet_jax.models.network import split_model

pytestmark = pytest.mark.slow
# Without XLA's optimizations, a training pass of these full networks takes longer than to compile it with them.
optimized = pytest.mark.usefixtures("optimized")

NAMES = ("encapnet", "encapnet_plus", "encapnet_plus_plus")
GOLDEN = reference.load()
# Gradients below this are zero but for rounding, as those of biases before a normalization are.
ZERO = 1e-10


def network(name, dtype, conv_method="patches"):
    config = PRESETS[name]
    config = type(config)(**{field: getattr(config, field) for field in ("aide", "agreement")}, conv_method=conv_method)
    object.__setattr__(config, "dtype", dtype)  # float64 is for these tests alone
    model = nnx.eval_shape(lambda: EncapNet(config, rngs=nnx.Rngs(0)))
    reference.set_weights(model, GOLDEN, name, dtype)
    return model


def batch(dtype):
    images, labels = golden_reference.images_and_labels(10)
    return jnp.asarray(images, dtype), jnp.asarray(labels)


def one_pass(model, weights_of_agreement, dtype):
    """Computes scores, margin loss, agreement and gradients for each weight of the agreement; compiles once."""
    model.train()
    graphdef, params, batch_stats = split_model(model)
    images, labels = batch(dtype)

    def loss_fn(params, weight):
        scores, agreement = nnx.merge(graphdef, params, batch_stats).training_scores(images)
        margin = model.config.scores.loss(scores, labels).mean()
        return margin + weight * agreement, (scores, margin, agreement)

    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    found = []
    for weight in weights_of_agreement:
        (_, (scores, margin, agreement)), gradients = gradient(params, jnp.asarray(weight, dtype))
        leaves = jax.tree_util.tree_leaves_with_path(gradients)
        norms = {".".join(str(entry.key) for entry in path): float(jnp.linalg.norm(g.ravel())) for path, g in leaves}
        found.append((scores, float(margin), float(agreement), norms))
    return found


def assert_gradients(name, norms, bound):
    golden = {key.split("/")[-1]: float(value) for key, value in GOLDEN.items() if key.startswith(f"{name}/gradnorm/")}
    trained = [key for key, _ in json.loads(str(GOLDEN[f"{name}/state_dict_order"])) if "running_" not in key]
    assert golden.keys() == set(trained)
    for key, expected in golden.items():
        found = norms[reference.path(key)]
        if expected < ZERO:
            assert found < ZERO, key
        else:
            assert found == pytest.approx(expected, rel=bound), key


# In evaluation EncapNet++ is EncapNet+.
@pytest.mark.parametrize(("name", "same"), [("encapnet", "encapnet"), ("encapnet_plus_plus", "encapnet_plus")])
def test_scores_of_a_trained_network(name, same):
    with jax.enable_x64(True):
        model = network(name, "float64")
        model.eval()
        graphdef, *state = split_model(model)
        scores = jax.jit(lambda x: nnx.merge(graphdef, *state)(x))(batch("float64")[0])
    for golden in (name, same):
        np.testing.assert_allclose(scores, GOLDEN[f"{golden}/eval_scores"], rtol=1e-9)


@optimized
def test_a_training_pass_without_aides():
    with jax.enable_x64(True):
        ((scores, margin, agreement, norms),) = one_pass(network("encapnet", "float64"), [0], "float64")
    np.testing.assert_allclose(scores, GOLDEN["encapnet/train_scores"], rtol=1e-9)
    assert margin == pytest.approx(float(GOLDEN["encapnet/margin_loss"]), rel=1e-9)
    assert agreement == 0
    assert_gradients("encapnet", norms, 1e-9)


@optimized
def test_a_training_pass_with_aides_and_with_agreement():
    # Without the agreement EncapNet++ is EncapNet+.
    with jax.enable_x64(True):
        passes = one_pass(network("encapnet_plus_plus", "float64"), [0, 1], "float64")
    for name, (scores, margin, agreement, norms) in zip(NAMES[1:], passes, strict=True):
        np.testing.assert_allclose(scores, GOLDEN[f"{name}/train_scores"], rtol=1e-9)
        assert margin == pytest.approx(float(GOLDEN[f"{name}/margin_loss"]), rel=1e-9)
        assert agreement == pytest.approx(float(GOLDEN["encapnet_plus_plus/ot_loss"]), rel=1e-9)
        assert_gradients(name, norms, 1e-9)


@optimized
def test_a_training_pass_in_float32():
    ((scores, margin, _, norms),) = one_pass(network("encapnet", "float32", "auto"), [0], "float32")
    # The published network's own float32 results are not known. The bounds are wide, because an activation that
    # rounding moves across zero switches a ReLU.
    np.testing.assert_allclose(scores, GOLDEN["encapnet/train_scores"], rtol=1e-4)
    assert margin == pytest.approx(float(GOLDEN["encapnet/margin_loss"]), rel=1e-5)
    golden = {key.split("/")[-1]: float(v) for key, v in GOLDEN.items() if key.startswith("encapnet/gradnorm/")}
    for key, expected in golden.items():
        assert norms[reference.path(key)] == pytest.approx(expected, rel=5e-3, abs=1e-5), key


def test_the_published_parameter_counts():
    for name in NAMES:
        model = nnx.eval_shape(lambda name=name: EncapNet(PRESETS[name], rngs=nnx.Rngs(0)))
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert count == int(GOLDEN[f"{name}/num_params"])
