import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import SMALL, abstract, count, run_abstract

from seanet_jax import Aggregate, InputError, SEANet, SEANetConfig
from seanet_jax.layers.aggregates import random_order
from seanet_jax.layers.functional import AGGREGATE_OPS
from seanet_jax.models import model_config


@functools.cache
def small_values():
    """Returns values for every variable of the small network, by path. Variances are positive."""
    rng = np.random.default_rng(0)
    return {
        path: jnp.asarray(rng.uniform(0.5, 1.5, v.shape) if path[-1] == "var" else rng.normal(size=v.shape) / 2)
        for path, v in nnx.to_flat_state(nnx.state(abstract(SMALL)))
    }


def small_logits(config, images):
    """Returns logits in evaluation mode. Configs whose parameters have the same shapes get the same values."""
    model = abstract(config)
    model.eval()
    graphdef, _ = nnx.split(model)
    state = nnx.from_flat_state(small_values())
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# Shapes and sizes


@pytest.mark.parametrize("name", ["seanet20", "seanet20_block", "senet20", "preact_resnet20"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_logits_and_state_are_float32_in_both_modes_and_dtypes(name, dtype, mode):
    model = abstract(model_config(name, stage_sizes=(1, 1, 1), dtype=dtype))
    getattr(model, mode)()
    logits, state = run_abstract(model, 3, 32, 32, 3)
    chex.assert_shape(logits, (3, 10))
    assert logits.dtype == jnp.float32
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32"}


@pytest.mark.parametrize(
    ("placement", "widths"), [("stage", (32, 64, 128)), ("block", (32, 64, 128)), ("none", (128, 256, 512))]
)
def test_widths_after_each_stage(placement, widths):
    config = SEANetConfig(stage_sizes=(2, 2, 2), aggregate_placement=placement)
    model = abstract(config)
    x = jax.ShapeDtypeStruct((2, 32, 32, 16), jnp.float32)
    for stage, width, size in zip(model.stages, widths, (32, 16, 8), strict=True):
        x = nnx.eval_shape(lambda stage, x: stage(x), stage, x)
        chex.assert_shape(x, (2, size, size, width))
        assert stage.out_channels == width
    assert model.classifier.kernel.shape == (widths[-1], 10)


def test_aggregation_is_where_its_placement_says():
    for placement in ("stage", "block", "none"):
        stage = abstract(dataclasses.replace(SMALL, aggregate_placement=placement)).stages[0]
        assert (stage.aggregate is not None) == (placement == "stage")
        assert all((block.aggregate is not None) == (placement == "block") for block in stage.blocks)


@pytest.mark.parametrize("placement", ["stage", "block"])
def test_only_the_stages_that_are_named_aggregate(placement):
    config = SEANetConfig(stage_sizes=(1, 2, 1), aggregate_stages=(1, 2), aggregate_placement=placement)
    model = abstract(config)
    assert [stage.out_channels for stage in model.stages] == [32, 64, 512]
    assert model.classifier.kernel.shape == (512, 10)
    for number, stage in enumerate(model.stages, start=1):
        assert (stage.aggregate is not None) == (placement == "stage" and number != 3)
        assert all((block.aggregate is not None) == (placement == "block" and number != 3) for block in stage.blocks)
    # The others may have channels that the factor does not divide.
    assert abstract(dataclasses.replace(config, widths=(8, 16, 10))).num_features == 10
    assert config.aggregating_stages == (1, 2) and SEANetConfig().aggregating_stages == (1, 2, 3)
    assert dataclasses.replace(config, aggregate_placement="none").aggregating_stages == ()


@pytest.mark.parametrize("placement", ["stage", "block"])
def test_the_config_says_what_aggregates(placement):
    base = dataclasses.replace(SMALL, aggregate_placement=placement, batch_groups=2, conv_method="lax")

    def aggregates(**changes):
        stages = abstract(dataclasses.replace(base, **changes)).stages
        return [(stage if placement == "stage" else stage.blocks[0]).aggregate for stage in stages]

    for one in aggregates(aggregate_op="random", aggregate_seed=5):
        assert one.order == random_order(8, 5) and one.norm is None
    for one in aggregates(aggregate_op="learned", aggregate_norm=True):
        assert (one.conv.groups, one.conv.method, one.norm.groups) == (2, "lax", 2)
    for one in aggregates(aggregate_op="dense", aggregate_factor=2):
        assert one.conv.kernel.shape == (1, 1, 8, 4) and one.conv.groups == 1
    for one in aggregates(aggregate_op="normalized_sum"):
        assert (type(one), one.op, one.factor) == (Aggregate, "normalized_sum", 4)


def test_stages_have_their_number_of_blocks_and_only_later_ones_stride():
    model = abstract(dataclasses.replace(SMALL, stage_sizes=(2, 3)))
    strides = [[block.conv1.stride for block in stage.blocks] for stage in model.stages]
    assert strides == [[1, 1], [2, 1, 1]]


@pytest.mark.parametrize(("size", "channels"), [((28, 28), 1), ((33, 17), 3), ((1, 1), 4), ((96, 64), 3)])
def test_other_image_sizes_and_channels_work(size, channels):
    model = abstract(dataclasses.replace(SMALL, in_channels=channels, num_classes=7))
    logits, _ = run_abstract(model, 2, *size, channels)
    chex.assert_shape(logits, (2, 7))


def test_normalization_of_stem_and_head():
    assert abstract(SMALL).stem_bn is not None and abstract(SMALL).head_bn is None
    preactivated = abstract(dataclasses.replace(SMALL, preactivation=True))
    assert preactivated.stem_bn is None and preactivated.head_bn is not None


# Features


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["stem", "stage1.blocks", "stage1", "stage2.blocks", "stage2", "pooled"]),
        ({"aggregate_placement": "block"}, ["stem", "stage1", "stage2", "pooled"]),
        ({"aggregate_placement": "none", "preactivation": True}, ["stem", "stage1", "stage2", "pooled"]),
    ],
)
def test_features_are_named_in_order_and_lead_to_the_logits(changes, names):
    model = SEANet(dataclasses.replace(SMALL, **changes), rngs=nnx.Rngs(0))
    model.eval()
    x = jnp.asarray(images(2, 8, 8, 3))
    found = model.features(x)
    assert list(found) == names
    channels = 2 if changes.get("aggregate_placement", "stage") != "none" else 8
    chex.assert_shape(found["stage1"], (2, 8, 8, channels))
    chex.assert_shape(found["stage2"], (2, 4, 4, channels))
    chex.assert_shape(found["pooled"], (2, model.num_features))
    if "stage1.blocks" in found:
        chex.assert_trees_all_close(found["stage1.blocks"].reshape(2, 8, 8, 2, 4).sum(-1), found["stage1"])
    chex.assert_trees_all_close(model.classifier(found["pooled"]), model(x))
    chex.assert_trees_all_close(model.classify_maps(found["stage2"]), model(x))


def test_without_a_classifier_a_network_gives_its_pooled_features():
    whole = SEANet(SMALL, rngs=nnx.Rngs(0))
    backbone = SEANet(dataclasses.replace(SMALL, num_classes=0), rngs=nnx.Rngs(0))
    assert backbone.classifier is None
    x = jnp.asarray(images(2, 8, 8, 3))
    chex.assert_trees_all_close(backbone(x), whole.features(x)["pooled"])
    assert count(whole) - count(backbone) == whole.num_features * 10 + 10


# Configs


IMPOSSIBLE = [
    ("reduction", {"reduction": 256}, "256", "at most 128"),
    ("reduction", {"reduction": 0}, "0", "a positive integer"),
    ("reduction", {"reduction": 2.5}, "2.5", "a positive integer"),
    ("aggregate_factor", {"aggregate_factor": 3}, "3", "divide every aggregated stage's channels"),
    ("aggregate_factor", {"aggregate_factor": 256}, "256", "128 is not divisible"),
    (
        "aggregate_factor",
        {"aggregate_factor": 3, "aggregate_placement": "block"},
        "3",
        "divide every aggregated stage's channels",
    ),
    ("aggregate_factor", {"aggregate_factor": 0}, "0", "a positive integer"),
    ("aggregate_factor", {"aggregate_factor": True}, "True", "a positive integer"),
    ("aggregate_op", {"aggregate_op": "median"}, "'median'", "sum, mean, max"),
    ("aggregate_placement", {"aggregate_placement": "everywhere"}, "'everywhere'", "stage, block, none"),
    ("aggregate_placement", {"aggregate_placement": None}, "None", "stage, block, none"),
    ("aggregate_op", {"aggregate_op": None}, "None", "sum, mean, max, normalized_sum, drop, random, learned, dense"),
    ("aggregate_factor", {"widths": (8, 9, 8), "aggregate_stages": (2, 3)}, "4", "9 is not divisible"),
    ("aggregate_stages", {"aggregate_stages": ()}, "()", "stages from 1 to 3 in rising order, or None for all"),
    ("aggregate_stages", {"aggregate_stages": (0, 1)}, "(0, 1)", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": (1, 4)}, "(1, 4)", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": (2, 1)}, "(2, 1)", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": (1, 1)}, "(1, 1)", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": (1, "2")}, "(1, '2')", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": (True,)}, "(True,)", "stages from 1 to 3 in rising order"),
    ("aggregate_stages", {"aggregate_stages": 1}, "1", "stages from 1 to 3 in rising order"),
    ("aggregate_norm", {"aggregate_norm": 1}, "1", "True or False"),
    ("aggregate_seed", {"aggregate_seed": -1}, "-1", "an integer from 0"),
    ("aggregate_seed", {"aggregate_seed": 2**31}, "2,147,483,647", "a smaller size"),
    ("stage_sizes", {"stage_sizes": ()}, "()", "a non-empty tuple of positive integers"),
    ("stage_sizes", {"stage_sizes": [3, 3, 3]}, "[3, 3, 3]", "tuple of positive integers"),
    ("stage_sizes", {"stage_sizes": (3, 0, 3)}, "(3, 0, 3)", "tuple of positive integers"),
    ("stage_sizes", {"stage_sizes": (3, True, 3)}, "(3, True, 3)", "tuple of positive integers"),
    ("stage_sizes", {"stage_sizes": 3}, "3", "tuple of positive integers"),
    ("widths", {"widths": (128, 256)}, "2 entries", "one for each stage"),
    ("widths", {"widths": (128, -256, 512)}, "(128, -256, 512)", "tuple of positive integers"),
    ("widths", {"widths": [128, 256, 512]}, "[128, 256, 512]", "tuple of positive integers"),
    ("widths", {"widths": (128.0, 256, 512)}, "(128.0, 256, 512)", "tuple of positive integers"),
    ("stem_width", {"stem_width": 0}, "0", "a positive integer"),
    ("stem_width", {"stem_width": 16.0}, "16.0", "a positive integer"),
    ("squeeze_excite", {"squeeze_excite": 1}, "1", "True or False"),
    ("preactivation", {"preactivation": "yes"}, "'yes'", "True or False"),
]


@pytest.mark.parametrize(("field", "changes", "value", "allowed"), IMPOSSIBLE)
def test_an_impossible_config_is_refused_with_field_value_and_what_is_allowed(field, changes, value, allowed):
    with pytest.raises(InputError) as caught:
        SEANetConfig(**changes)
    message = str(caught.value)
    assert message.startswith(f"{field} ")
    assert value in message
    assert allowed in message


def test_fields_that_are_not_used_may_not_fit():
    SEANetConfig(widths=(6, 6, 6), squeeze_excite=False, aggregate_placement="none")


# Calls


@pytest.mark.slow
def test_bfloat16_logits_are_near_those_of_float32():
    x = images(4, 8, 8, 3)
    exact = small_logits(SMALL, x)
    rounded = small_logits(dataclasses.replace(SMALL, dtype="bfloat16"), x)
    assert rounded.dtype == jnp.float32
    difference = np.abs(np.asarray(exact) - np.asarray(rounded)).max() / np.abs(np.asarray(exact)).max()
    assert 0 < difference < 0.05


@pytest.mark.slow
def test_the_ops_without_weights_differ():
    x = images(2, 8, 8, 3)
    ops = (*AGGREGATE_OPS, "random")
    logits = [small_logits(dataclasses.replace(SMALL, aggregate_op=op), x) for op in ops]
    for first, second in itertools.combinations(logits, 2):
        assert np.abs(np.asarray(first) - np.asarray(second)).max() > 1e-2


def test_placements_have_different_parameters():
    placements = [
        parameter_shapes(dataclasses.replace(SMALL, aggregate_placement=p)) for p in ("stage", "block", "none")
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert placements[first] != placements[second]


def parameter_shapes(config):
    return {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(abstract(config), nnx.Param))}


def test_the_seed_determines_the_parameters_and_layers_differ():
    config = dataclasses.replace(SMALL, stage_sizes=(1,), widths=(4,), squeeze_excite=False)

    @jax.jit
    def initial(key):
        return nnx.to_pure_dict(nnx.state(SEANet(config, rngs=nnx.Rngs(key)), nnx.Param))

    first, again, other = (initial(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first, other)
    for path, is_same in jax.tree.leaves_with_path(same):
        assert is_same == ("bn" in jax.tree_util.keystr(path)), path
    block = first["stages"][0]["blocks"][0]
    assert (block["conv1"]["kernel"] != block["conv2"]["kernel"]).any()
