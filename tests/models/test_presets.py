import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from networks import SMALL, abstract, count, run_abstract

from seanet_jax import PRESETS, InputError, SEANetConfig, create_model
from seanet_jax.models import find_preset, list_models, model_config, register_preset
from seanet_jax.models.network import NetworkConfig


@functools.cache
def preset(name, num_classes, **overrides):
    return abstract(model_config(name, num_classes=num_classes, **overrides))


# Of each way to build a network, one.
QUICK = ("seanet20", "seanet20_block", "senet20", "preact_resnet20", "encapnet_plus_plus")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PRESETS]
)
def test_every_preset_gives_logits_and_keeps_float32_state(name):
    logits, state = run_abstract(preset(name, 100), 2, 32, 32, 3)
    chex.assert_shape(logits, (2, 100))
    assert logits.dtype == jnp.float32
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32"}


PARAMETER_COUNTS = [
    ("seanet20", {}, 16188330, 16199940),
    ("seanet32", {}, 28755850, 28767460),
    ("seanet56", {}, 53890890, 53902500),
    ("resnet20", {}, 272474, 278324),
    ("resnet32", {}, 466906, 472756),
    ("resnet44", {}, 661338, 667188),
    ("resnet56", {}, 855770, 861620),
    ("resnet110", {}, 1730714, 1736564),
    ("seanet20_small", {}, 281554, 283174),
    ("narrow_senet20", {}, 1096974, 1108584),
    ("narrow_resnet20", {}, 1080090, 1091700),
    ("senet20", {}, 276884, 282734),
    ("senet20", {"reduction": 16}, 274847, 280697),
    ("preact_resnet20", {}, 272282, 278132),
    ("preact_resnet110", {}, 1730522, 1736372),
]


@pytest.mark.parametrize(
    ("name", "overrides", "ten", "hundred"),
    [pytest.param(*row, marks=[] if "20" in row[0] else pytest.mark.slow) for row in PARAMETER_COUNTS],
)
def test_parameter_counts(name, overrides, ten, hundred):
    assert count(preset(name, 10, **overrides)) == ten
    assert count(preset(name, 100, **overrides)) == hundred


def test_the_small_preset_is_as_large_as_its_comment_says():
    small, senet, resnet = (count(preset(name, 100)) for name in ("seanet20_small", "senet20", "resnet20"))
    assert abs(small / senet - 1) < 0.002 and abs(small / resnet - 1) < 0.02


def test_the_controls_have_the_parameters_of_the_narrow_network_and_those_of_their_aggregates():
    own = {"normalized_sum": 0, "drop": 0, "random": 0, "bn": 2 * (8 + 16 + 32), "learned": 32 + 64 + 128}
    own |= {"dense": 32 * 8 + 64 * 16 + 128 * 32, "stages12": (128 - 32) * 100}
    narrow = count(preset("seanet20_narrow", 100))
    found = {name: count(preset(f"seanet20_narrow_{name}", 100)) - narrow for name in own}
    assert found == own and max(own.values()) < 0.01 * narrow
    controls = [name.removeprefix("seanet20_narrow_") for name in PRESETS if name.startswith("seanet20_narrow_")]
    assert set(controls) == own.keys()


@pytest.mark.parametrize("depth", [20, pytest.param(56, marks=pytest.mark.slow)])
def test_the_depth_in_a_name_counts_convolutions_and_the_classifier(depth):
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(preset(f"seanet{depth}", 10), nnx.Param))]
    layers = [path for path in paths if {"conv1", "conv2", "stem", "classifier"} & set(path) and "kernel" in path]
    assert len(layers) == depth


def test_defaults_are_the_published_network():
    assert PRESETS["seanet20"] == SEANetConfig()


def test_an_unknown_name_lists_all_known():
    with pytest.raises(InputError) as caught:
        create_model("seanet21", rngs=nnx.Rngs(0))
    assert "'seanet21'" in str(caught.value)
    assert set(PRESETS) <= set(re.findall(r"\w+", str(caught.value)))


def test_an_unknown_override_lists_the_fields():
    with pytest.raises(InputError) as caught:
        create_model("seanet20", rngs=nnx.Rngs(0), width=3)
    assert "'width'" in str(caught.value)
    fields = {field.name for field in dataclasses.fields(SEANetConfig)}
    assert fields <= set(re.findall(r"\w+", str(caught.value)))


def test_overrides_reach_the_network_and_are_checked():
    model = nnx.eval_shape(lambda: create_model("resnet20", rngs=nnx.Rngs(0), num_classes=7))
    assert model.config == dataclasses.replace(PRESETS["resnet20"], num_classes=7)
    with pytest.raises(InputError, match="num_classes is -1"):
        create_model("resnet20", rngs=nnx.Rngs(0), num_classes=-1)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("resnet20", {"num_classes": 10**12}, "num_classes is more than 2,147,483,647"),
        ("resnet20", {"num_classes": 10**5000}, "num_classes is more than 2,147,483,647"),
        ("resnet20", {"in_channels": 10**12}, "in_channels is more than 2,147,483,647"),
        ("resnet20", {"widths": (10**9,) * 3}, "Conv: these sizes give an array of more than 2,147,483,647 values"),
        ("resnet20", {"stage_sizes": (10**6,) * 3}, "stage_sizes has 3,000,000 blocks; it must have at most 10,000"),
        ("encapnet", {"widths": (32 * 10**9,) * 4}, "widths is more than 2,147,483,647"),
        ("encapnet", {"image_size": 8 * 10**8}, "CapsuleClassifier: these sizes give an array of more than"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_exhausted(name, fields, words):
    with pytest.raises(InputError, match=words):
        nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **fields))


def test_a_registered_preset_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr("seanet_jax.models.presets.PRESETS", dict(PRESETS))
    register_preset("mine", SMALL)
    assert find_preset("mine") == SMALL and "mine" in list_models()
    assert create_model("mine", rngs=nnx.Rngs(0), num_classes=3).config == dataclasses.replace(SMALL, num_classes=3)


def test_a_preset_that_cannot_be_registered_changes_nothing():
    before = dict(PRESETS)
    with pytest.raises(InputError, match="there is a preset 'seanet20' already; choose another name"):
        register_preset("seanet20", SMALL)
    with pytest.raises(InputError, match="NetworkConfig is no registered family's config_class; those are SEANetCon"):
        register_preset("mine", NetworkConfig())
    assert before == PRESETS


def test_there_is_no_preset_of_an_unknown_name():
    assert list_models() == list(PRESETS)
    assert find_preset("seanet21") is find_preset(3) is find_preset([]) is None
