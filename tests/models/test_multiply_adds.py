"""The counts equal those made by hand, and those of XLA."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax.extend.core import Literal

from seanet_jax import InputError
from seanet_jax.models import PRESETS, SEANet, model_config
from seanet_jax.models.multiply_adds import multiply_adds, parameters


def by_hand(widths, *, enters, side=32, reduction=8, squeeze_excite=True, classes=100, features):
    """Counts the multiply-adds of a network of three stages of three blocks, where only first blocks have a shortcut.

    Args:
        widths: Channels of each stage.
        enters: Channels that enter each stage.
        side: Height and width of the image in pixels.
        reduction: Reduction of squeeze-excitation.
        squeeze_excite: Whether the blocks have squeeze-excitation.
        classes: Number of classes.
        features: Number of features that enter the classifier.
    """
    total = 9 * 3 * 16 * side**2
    for stage, (width, entering) in enumerate(zip(widths, enters, strict=True)):
        area = (side // 2**stage) ** 2
        shortcut = entering * width if entering != width else 0
        total += area * (9 * entering * width + 5 * 9 * width**2 + shortcut)
        if squeeze_excite:
            total += 3 * 2 * width * (width // reduction)
    return total + features * classes


# Aggregation inside each of three blocks: every one has a shortcut, to a quarter of its width, and enters the next with
# that. Stages have 32^2, 16^2 and 8^2 pixels; 16 channels enter the first.
BLOCK = (
    9 * 3 * 16 * 1024
    + 1024 * (9 * 16 * 128 + 2 * 9 * 32 * 128 + 3 * 9 * 128 * 128 + 16 * 32 + 2 * 32 * 32)
    + 256 * (9 * 32 * 256 + 2 * 9 * 64 * 256 + 3 * 9 * 256 * 256 + 32 * 64 + 2 * 64 * 64)
    + 64 * (9 * 64 * 512 + 2 * 9 * 128 * 512 + 3 * 9 * 512 * 512 + 64 * 128 + 2 * 128 * 128)
    + 3 * 2 * (128 * 16 + 256 * 32 + 512 * 64)
    + 128 * 100
)


@pytest.mark.parametrize(
    ("model", "counted"),
    [
        ("seanet20", by_hand((128, 256, 512), enters=(16, 32, 64), features=128)),
        ("seanet20_narrow", by_hand((32, 64, 128), enters=(16, 8, 16), features=32)),
        ("seanet20_small", by_hand((16, 32, 68), enters=(16, 4, 8), features=17)),
        ("seanet20_narrow_stages12", by_hand((32, 64, 128), enters=(16, 8, 16), features=128)),
        ("seanet20_narrow_bn", by_hand((32, 64, 128), enters=(16, 8, 16), features=32)),
        ("seanet20_narrow_random", by_hand((32, 64, 128), enters=(16, 8, 16), features=32)),
        # A product for each channel of each pixel, or for each pair of channels.
        (
            "seanet20_narrow_learned",
            by_hand((32, 64, 128), enters=(16, 8, 16), features=32) + 32 * 1024 + 64 * 256 + 128 * 64,
        ),
        (
            "seanet20_narrow_dense",
            by_hand((32, 64, 128), enters=(16, 8, 16), features=32) + 32 * 8 * 1024 + 64 * 16 * 256 + 128 * 32 * 64,
        ),
        ("wide_senet20", by_hand((128, 256, 512), enters=(16, 128, 256), features=512)),
        ("narrow_resnet20", by_hand((32, 64, 128), enters=(16, 32, 64), features=128, squeeze_excite=False)),
        ("senet20", by_hand((16, 32, 64), enters=(16, 16, 32), features=64)),
        ("resnet20", by_hand((16, 32, 64), enters=(16, 16, 32), features=64, squeeze_excite=False)),
        ("preact_resnet20", by_hand((16, 32, 64), enters=(16, 16, 32), features=64, squeeze_excite=False)),
        ("seanet20_block", BLOCK),
    ],
)
def test_multiply_adds_are_those_counted_by_hand(model, counted):
    assert multiply_adds(model_config(model, num_classes=100)) == counted


def test_seanet20_takes_2330_million_and_resnet20_41():
    assert multiply_adds(model_config("seanet20", num_classes=100)) == pytest.approx(2.33e9, rel=1e-3)
    assert multiply_adds(model_config("resnet20", num_classes=100)) == pytest.approx(40.8e6, rel=1e-3)


def test_the_literatures_count():
    # He et al. (2015) do not count their shortcuts, which have no parameters: 40.55 M for ResNet-20 on CIFAR-10.
    ours = multiply_adds(model_config("resnet20", num_classes=10))
    assert ours - 16 * 32 * 16**2 - 32 * 64 * 8**2 == pytest.approx(40.55e6, rel=1e-3)


def test_larger_images_cost_more_in_proportion():
    config = model_config("resnet20", num_classes=100)
    head = 64 * 100
    assert multiply_adds(config, 64, 32) - head == 2 * (multiply_adds(config) - head)


def evaluate(jaxpr, constants, arguments, product):
    """Evaluates a jaxpr, with its convolutions and matrix products computed by ``product(equation, a, b)``."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            results = [product(equation, *operands)]
        elif inner is not None:
            results = evaluate(inner.jaxpr, inner.consts, operands, product)
        else:
            results = equation.primitive.bind(*operands, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def whole(equation, a, b):
    """Computes a product with padding as part of the input, because XLA does not count products with padding."""
    parameters = dict(equation.params)
    if "padding" in parameters:
        rows, columns = parameters["padding"]
        a = lax.pad(a, 0.0, [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)])
        parameters["padding"] = ((0, 0), (0, 0))
    return equation.primitive.bind(a, b, **parameters)


def free(equation, a, b):
    """Returns an array of the result's shape that depends on the input and costs nothing."""
    first = lax.slice(a, [0] * a.ndim, [1] * a.ndim).reshape(())
    return jnp.broadcast_to(first, equation.outvars[0].aval.shape)


@pytest.mark.parametrize(
    ("model", "height", "width"),
    [
        ("seanet20", 32, 32),
        pytest.param("seanet20_block", 32, 32, marks=pytest.mark.slow),
        pytest.param("seanet20_narrow_learned", 32, 32, marks=pytest.mark.slow),
        pytest.param("senet20", 32, 32, marks=pytest.mark.slow),
        pytest.param("preact_resnet20", 32, 32, marks=pytest.mark.slow),
        ("resnet20", 33, 18),
    ],
)
def test_multiply_adds_are_those_that_xla_counts(model, height, width):
    config = model_config(model, num_classes=100, conv_method="lax")
    network = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    network.eval()
    graphdef, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    forward = jax.make_jaxpr(lambda state, image: nnx.merge(graphdef, state)(image))(state, image)

    def xla(product):
        def run(state, image):
            return evaluate(forward.jaxpr, forward.consts, jax.tree.leaves((state, image)), product)

        return jax.jit(run).lower(state, image).cost_analysis()["flops"]

    # The difference leaves out the operations on single elements, which both do. XLA counts in float32.
    assert 2 * multiply_adds(config, height, width) == pytest.approx(xla(whole) - xla(free), rel=1e-6)


def test_how_a_network_is_computed_does_not_change_its_count():
    config = model_config("seanet20_block", stage_sizes=(1, 1, 1))
    other = dataclasses.replace(config, conv_method="patches", dtype="bfloat16", batch_groups=2)
    assert multiply_adds(config) == multiply_adds(other)


@pytest.mark.parametrize(("size", "message"), [((0, 32), "height is 0"), ((32, 1.5), "width is 1.5")])
def test_images_without_pixels_are_refused(size, message):
    with pytest.raises(InputError, match=f"{message}; it must be a positive integer"):
        multiply_adds(model_config("resnet20"), *size)


@pytest.mark.slow
def test_the_table_of_controls_has_these_counts():
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    controls = {name for name in PRESETS if name.startswith("seanet20_narrow")}
    assert {name for name, _, _ in rows} == controls | {"narrow_senet20"}
    for name, *counts in rows:
        config = model_config(name, num_classes=100)
        assert counts == [f"{parameters(config):,}", f"{multiply_adds(config):,}"], name
    narrow, without = (
        parameters(model_config(name, num_classes=100)) for name in ("seanet20_narrow", "narrow_senet20")
    )
    assert f"has {without / narrow - 1:.1%} more".replace("%", " %") in text


def test_parameters_are_counted():
    assert parameters(model_config("seanet20", num_classes=100)) == 16_199_940
    assert parameters(model_config("resnet20")) == 272_474
