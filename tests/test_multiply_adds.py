"""Against counts by hand, and against XLA's."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seanet_jax.models import SEANet, model_config
from seanet_jax.studies.multiply_adds import multiply_adds, parameters


def by_hand(widths, *, enters, side=32, reduction=8, squeeze_excite=True, classes=100, features):
    """A network of three stages of three blocks: conv1 and conv2 of each, the shortcut of the first.

    Args:
        widths: of the stages.
        enters: channels that enter each stage.
        side: of the image.
        reduction: of squeeze-excitation.
        squeeze_excite: whether there is any.
        classes: of the head.
        features: that enter the head.
    """
    total = 9 * 3 * 16 * side**2
    for stage, (width, entering) in enumerate(zip(widths, enters, strict=True)):
        area = (side // 2**stage) ** 2
        shortcut = entering * width if entering != width else 0
        total += area * (9 * entering * width + 5 * 9 * width**2 + shortcut)
        if squeeze_excite:
            total += 3 * 2 * width * (width // reduction)
    return total + features * classes


@pytest.mark.parametrize(
    ("model", "counted"),
    [
        ("seanet20", by_hand((128, 256, 512), enters=(16, 32, 64), features=128)),
        ("seanet20_narrow", by_hand((32, 64, 128), enters=(16, 8, 16), features=32)),
        ("seanet20_small", by_hand((16, 32, 68), enters=(16, 4, 8), features=17)),
        ("wide_senet20", by_hand((128, 256, 512), enters=(16, 128, 256), features=512)),
        ("narrow_resnet20", by_hand((32, 64, 128), enters=(16, 32, 64), features=128, squeeze_excite=False)),
        ("senet20", by_hand((16, 32, 64), enters=(16, 16, 32), features=64)),
        ("resnet20", by_hand((16, 32, 64), enters=(16, 16, 32), features=64, squeeze_excite=False)),
    ],
)
def test_multiply_adds_are_those_counted_by_hand(model, counted):
    assert multiply_adds(model_config(model, num_classes=100)) == counted


def test_the_literatures_count():
    # He et al. (2015) do not count their shortcuts, which have no parameters: 40.55 M for ResNet-20 on CIFAR-10.
    ours = multiply_adds(model_config("resnet20", num_classes=10))
    assert ours - 16 * 32 * 16**2 - 32 * 64 * 8**2 == pytest.approx(40.55e6, rel=1e-3)


def test_larger_images_cost_more_in_proportion():
    config = model_config("resnet20", num_classes=100)
    head = 64 * 100
    assert multiply_adds(config, 64, 32) - head == 2 * (multiply_adds(config) - head)


def by_xla(config, side):
    model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    model.eval()
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    lowered = jax.jit(lambda state, image: nnx.merge(graphdef, state)(image)).lower(state, image)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("model", ["seanet20_narrow", "seanet20_block", "senet20", "resnet32", "preact_resnet20"])
def test_multiply_adds_are_those_that_xla_counts(model):
    # XLA leaves out what is multiplied with padding, and counts what is done element by element. Both shrink beside the
    # rest in a larger image and a wider network: this is a bound of 3 %, the counts by hand are exact.
    config = dataclasses.replace(model_config(model, num_classes=100), conv_method="lax")
    side = 128
    assert 2 * multiply_adds(config, side, side) == pytest.approx(by_xla(config, side), rel=0.03)


def test_parameters_are_counted():
    assert parameters(model_config("seanet20", num_classes=100)) == 16_199_940
    assert parameters(model_config("resnet20")) == 272_474
    small, senet, resnet = (
        parameters(model_config(name, num_classes=100)) for name in ("seanet20_small", "senet20", "resnet20")
    )
    assert abs(small / senet - 1) < 0.002 and abs(small / resnet - 1) < 0.02
