"""EncapNet: shapes, parameter counts, folding and weights in a folder."""

import dataclasses
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seanet_jax import PRESETS, EncapNet, EncapNetConfig, InputError, create_model
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import from_pretrained, weights
from seanet_jax.models.encapnet import CapsuleBlock, MasterAideConv, MasterConv
from seanet_jax.models.fold import fold_batch_norm
from seanet_jax.models.network import split_model

NAMES = ("encapnet", "encapnet_plus", "encapnet_plus_plus")
# EncapNet+ is EncapNet++ without the agreement, which is of training alone.
EVALUATED = ("encapnet", "encapnet_plus_plus")
SMALL = {"widths": (8, 8, 16, 16), "stem_width": 4, "groups": 4, "image_size": 16}
KINDS = {name: dataclasses.replace(PRESETS[name], **SMALL) for name in NAMES}
X = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)


def settled(config):
    """Builds a network in evaluation mode, with values and statistics that are not the initial ones."""
    model = nnx.eval_shape(lambda: EncapNet(config, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(1)
    arrays = {}
    for name, shape in weights.shapes(model).items():
        normal = random.normal(size=shape)
        scaled = normal / math.sqrt(max(1, math.prod(shape[:-1])))
        arrays[name] = np.exp(0.3 * normal) if name.endswith((".var", ".scale")) else scaled
    weights.set_arrays(model, {name: np.float32(array) for name, array in arrays.items()}, "the test")
    model.eval()
    return model


def jitted(model, x, method="__call__"):
    graphdef, *state = split_model(model)
    return jax.jit(lambda state, x: getattr(nnx.merge(graphdef, *state), method)(x))(state, x)


def features_and_scores(model):
    """Returns the maps of ``X``, and the scores, of one compiled program."""
    graphdef, *state = split_model(model)

    def both(state):
        network = nnx.merge(graphdef, *state)
        return network.features(X), network(X)

    return jax.jit(both)(state)


# Sizes


def count(config):
    model = nnx.eval_shape(lambda: EncapNet(config, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def conv(kernel, inputs, outputs, groups=1):
    """Counts the weights and biases of a convolution."""
    return kernel * kernel * (inputs // groups) * outputs + outputs


def test_the_parameters_of_encapnet_counted_by_hand():
    by_hand = conv(3, 3, 32) + 2 * 32
    for inputs, outputs in ((32, 64), (64, 128), (128, 256), (256, 512)):
        main = conv(3, inputs, outputs, 32) + 2 * outputs + conv(3, inputs, outputs)
        sub = 2 * (conv(1, outputs, outputs, 32) + 2 * outputs)
        by_hand += main + sub
    by_hand += 16 * 512 * 10
    assert count(PRESETS["encapnet"]) == by_hand == 1_729_920


def test_the_parameters_of_the_aides_counted_by_hand():
    aides = 0
    for inputs, outputs in ((128, 256), (256, 512)):
        coefficients = 2 * conv(3, outputs, 32, 32)
        main = conv(7, inputs, outputs) + 2 * outputs + 2 * outputs + coefficients
        sub = 2 * (conv(5, outputs, outputs) + 2 * outputs + 2 * outputs + coefficients)
        aides += main + sub
    assert count(PRESETS["encapnet_plus"]) == 1_729_920 + aides == 26_195_456


def test_the_parameters_of_the_agreement_counted_by_hand():
    critic = conv(3, 256, 64) + 2 * 64 + conv(3, 64, 1) + 2
    third, fourth = conv(3, 256, 256) + 2 * 256, conv(3, 512, 256) + 2 * 256
    assert count(PRESETS["encapnet_plus_plus"]) == 26_195_456 + third + fourth + 2 * critic == 28_262_918


def test_more_classes_are_more_columns():
    config = dataclasses.replace(PRESETS["encapnet"], num_classes=100)
    assert count(config) == 1_729_920 + 16 * 512 * 90


@pytest.mark.parametrize("name", NAMES)
def test_the_maps_of_the_published_network(name):
    model = nnx.eval_shape(lambda: EncapNet(PRESETS[name], rngs=nnx.Rngs(0)))
    found = nnx.eval_shape(lambda m, x: m.features(x), model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert {name: array.shape for name, array in found.items()} == {
        "stem": (2, 32, 32, 32),
        "module1": (2, 32, 32, 64),
        "module2": (2, 16, 16, 128),
        "module3": (2, 8, 8, 256),
        "module4": (2, 4, 4, 512),
        "capsules": (2, 512, 16),
    }
    assert model.num_features == 8192


@pytest.mark.parametrize("name", EVALUATED)
def test_scores_are_lengths(name):
    scores = jitted(settled(KINDS[name]), X)
    chex.assert_shape(scores, (3, 10))
    assert scores.dtype == jnp.float32 and (scores >= 0).all() and (scores < 1).all() and scores.std() > 0


def test_only_modules_three_and_four_have_aides():
    model = nnx.eval_shape(lambda: EncapNet(KINDS["encapnet_plus"], rngs=nnx.Rngs(0)))
    kinds = [type(core) for module in model.modules for block in (module.main, module.sub) for core in block.cores]
    assert kinds == 6 * [MasterConv] + 6 * [MasterAideConv]


def test_the_shortcut_is_added_before_the_last_normalization():
    config = KINDS["encapnet"]
    block = CapsuleBlock(8, 8, 1, stride=1, cores=2, aide=False, config=config, rngs=nnx.Rngs(0))
    for core in block.cores:
        core.conv.kernel.set_value(jnp.zeros_like(core.conv.kernel[...]))
        core.conv.bias.set_value(jnp.zeros_like(core.conv.bias[...]))
    for norm in block.norms:
        norm.use_running_average = True
    x = jnp.abs(jnp.asarray(X[..., :1] * np.ones(8, np.float32)))
    first, last = block.maps(x)
    assert (first == 0).all()
    # Only the shortcut is left: the input, normalized by statistics of 0 and 1, rectified and squashed.
    from seanet_jax.layers.capsules import squash

    np.testing.assert_allclose(last, squash(x / math.sqrt(1 + 1e-5), 4), rtol=1e-5)


def test_initial_values():
    model = create_model("encapnet_plus", rngs=nnx.Rngs(0), **SMALL | {"widths": (64, 64, 128, 128), "groups": 4})
    aide = model.modules[2].main.cores[0].aide
    assert aide.kernel.shape == (7, 7, 64, 128)
    assert float(aide.kernel[...].std()) == pytest.approx(math.sqrt(2 / (49 * (64 + 128))), rel=0.01)
    master = model.modules[2].main.cores[0].master
    assert float(master.kernel[...].std()) == pytest.approx(math.sqrt(2 / (9 * (16 + 128))), rel=0.05)
    biases = np.concatenate([aide.bias[...], master.bias[...], model.modules[3].main.shortcut.bias[...]])
    assert biases.std() == pytest.approx(1, abs=0.15) and abs(biases.mean()) < 0.2
    assert (model.stem_bn.scale[...] == 1).all() and (model.stem_bn.bias[...] == 0).all()
    bound = (4 * 4) ** -0.5
    kernel = np.asarray(model.classifier.kernel[...])
    assert 0.95 * bound < np.abs(kernel).max() <= bound and kernel.std() == pytest.approx(
        bound / math.sqrt(3), rel=0.05
    )


@pytest.mark.slow
def test_there_is_no_agreement_where_the_config_has_none():
    model = settled(KINDS["encapnet_plus"])
    model.train()
    assert jitted(model, X, "training_scores")[1] == 0


# As part of other projects


@pytest.mark.slow
@pytest.mark.parametrize("name", EVALUATED)
def test_folding_changes_nothing(name):
    model = settled(KINDS[name])
    folded = fold_batch_norm(model)
    left = {".".join(map(str, path)) for path, module in nnx.iter_modules(folded) if isinstance(module, BatchNorm)}
    assert not [path for path in left if path.endswith(("stem_bn", "master_bn", "aide_bn"))]
    (maps, scores), (expected_maps, expected_scores) = features_and_scores(folded), features_and_scores(model)
    for key, array in expected_maps.items():
        np.testing.assert_allclose(maps[key], array, atol=1e-5 * float(jnp.abs(array).max()))
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVALUATED)
def test_weights_come_back_bit_for_bit(name, tmp_path):
    model = settled(KINDS[name])
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is EncapNet and again.config == model.config
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["EncapNet"]
    backbone = EncapNet.from_pretrained(tmp_path, num_classes=0)
    kept = {name: array for name, array in weights.to_arrays(model).items() if not name.startswith("classifier.")}
    chex.assert_trees_all_equal(weights.to_arrays(backbone), kept)
    maps, capsules = features_and_scores(backbone)
    np.testing.assert_array_equal(capsules, maps["capsules"].reshape(3, -1))
    seven = EncapNet.from_pretrained(tmp_path, num_classes=7, rngs=nnx.Rngs(0))
    chex.assert_shape(nnx.eval_shape(lambda network: network(X), seven), (3, 7))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widths": (64, 128)}, "widths has 2 entries; it must have one for each of 4 modules"),
        ({"groups": 24}, r"stem_width is 32; the 24 groups must divide all channels"),
        ({"widths": (64, 128, 256, 500)}, r"widths is \(64, 128, 256, 500\); the 32 groups must divide all channels"),
        ({"image_size": 30}, "image_size is 30; it must be divisible by 8"),
        ({"aide": 1}, "aide is 1; it must be True or False"),
        ({"agreement": None}, "agreement is None; it must be True or False"),
        ({"dtype": "float64"}, "dtype is 'float64'; it must be one of float32, bfloat16"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_what_cannot_be_built_is_named(fields, words):
    with pytest.raises(InputError, match=words):
        EncapNetConfig(**fields)


def test_images_of_another_size_are_refused():
    model = settled(KINDS["encapnet"])
    with pytest.raises(InputError, match="the images are 32x32 pixels; the network is for 16x16"):
        model(jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(InputError, match=r"must be \[N, H, W, 3\]"):
        model(jnp.zeros((1, 16, 16, 1)))


@pytest.mark.slow
def test_half_precision_is_for_the_maps_alone():
    half = settled(dataclasses.replace(KINDS["encapnet_plus_plus"], dtype="bfloat16"))
    maps, scores = features_and_scores(half)
    assert {str(array.dtype) for array in maps.values()} == {"bfloat16"}
    exact = jitted(settled(KINDS["encapnet_plus_plus"]), X)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, exact, atol=0.1 * float(exact.max()))
    half.train()
    _, agreement = jitted(
        half, np.random.default_rng(3).normal(size=(4, 16, 16, 3)).astype(np.float32), "training_scores"
    )
    assert agreement.dtype == jnp.float32 and np.isfinite(agreement)
