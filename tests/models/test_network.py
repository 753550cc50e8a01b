import dataclasses
import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import SMALL, abstract, run_abstract

from seanet_jax import InputError, SEANet, SEANetConfig
from seanet_jax.models import EncapNetConfig
from seanet_jax.models.network import split_model

FAMILIES = [SEANetConfig, EncapNetConfig]


@pytest.mark.parametrize("config", FAMILIES)
@pytest.mark.parametrize(
    ("field", "changes", "value", "allowed"),
    [
        ("dtype", {"dtype": "float16"}, "'float16'", "float32, bfloat16"),
        ("num_classes", {"num_classes": -1}, "-1", "a positive integer, or 0 for no classifier"),
        ("num_classes", {"num_classes": "10"}, "'10'", "a positive integer, or 0 for no classifier"),
        ("in_channels", {"in_channels": -3}, "-3", "a positive integer"),
        ("dtype", {"dtype": jnp.float16}, "float16", "it must be one of float32, bfloat16"),
        ("dtype", {"dtype": float}, "<class 'float'>", "it must be one of float32, bfloat16"),
        ("dtype", {"dtype": None}, "None", "it must be one of float32, bfloat16"),
        ("dtype", {"dtype": "f4"}, "'f4'", "it must be one of float32, bfloat16"),
        ("dtype", {"dtype": [1]}, "[1]", "it must be one of float32, bfloat16"),
        ("conv_method", {"conv_method": "winograd4"}, "'winograd4'", "auto, lax, patches"),
        ("batch_groups", {"batch_groups": 0}, "0", "a positive integer"),
    ],
)
def test_an_impossible_field_is_refused_with_its_value_and_what_is_allowed(config, field, changes, value, allowed):
    with pytest.raises(InputError) as caught:
        config(**changes)
    assert str(caught.value).startswith(f"{field} is ")
    assert value in str(caught.value) and allowed in str(caught.value)


@pytest.mark.parametrize("config", FAMILIES)
def test_a_dtype_is_kept_by_its_name(config):
    for dtype in (jnp.bfloat16, np.dtype("bfloat16"), jnp.zeros((), jnp.bfloat16).dtype, "bfloat16"):
        made = config(dtype=dtype)
        assert made.dtype == "bfloat16" and type(made.dtype) is str
        assert made == config(dtype="bfloat16") and hash(made) == hash(config(dtype="bfloat16"))
    assert config(dtype=np.float32) == config()


def test_pretrained_weights_are_read_in_a_dtype(tmp_path):
    SEANet(SMALL, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    assert SEANet.from_pretrained(tmp_path, dtype=jnp.bfloat16).config == dataclasses.replace(SMALL, dtype="bfloat16")
    with pytest.raises(InputError, match="dtype is 'float64'; it must be one of float32, bfloat16"):
        SEANet.from_pretrained(tmp_path, dtype="float64")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 8, 8, 3), "uint8", "the images are uint8; they must be floating point"),
        ((2, 8, 8, 3), "int32", "the images are int32; they must be floating point"),
        ((2, 8, 8, 1), "float32", "shape (2, 8, 8, 1); they must be [N, H, W, 3]"),
        ((2, 3, 8, 8), "float32", "shape (2, 3, 8, 8); they must be [N, H, W, 3]"),
        ((8, 8, 3), "float32", "shape (8, 8, 3); they must be [N, H, W, 3]"),
        ((1, 2, 8, 8, 3), "float32", "shape (1, 2, 8, 8, 3); they must be [N, H, W, 3]"),
        ((0, 8, 8, 3), "float32", "shape (0, 8, 8, 3); they must be [N, H, W, 3] and not empty"),
        ((2, 0, 8, 3), "float32", "shape (2, 0, 8, 3); they must be [N, H, W, 3] and not empty"),
    ],
)
def test_wrong_images_are_refused(shape, dtype, message):
    with pytest.raises(InputError, match=re.escape(message)):
        run_abstract(abstract(SMALL), *shape, dtype=dtype)


def test_a_split_model_is_merged_again():
    model = SEANet(SMALL, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, params, batch_stats = split_model(model)
    assert set(params) == {"stem", "stem_bn", "stages", "classifier"} and set(batch_stats["stem_bn"]) == {"mean", "var"}
    x = jnp.ones((2, 8, 8, 3))
    chex.assert_trees_all_equal(nnx.merge(graphdef, params, batch_stats)(x), model(x))
