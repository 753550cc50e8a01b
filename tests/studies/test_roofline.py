import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from seanet_jax.layers.functional import conv2d
from seanet_jax.models import model_config
from seanet_jax.models.multiply_adds import multiply_adds
from seanet_jax.studies.roofline import Work, hours_at_least, products, seconds, traced, work

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "roofline.py"
_spec = importlib.util.spec_from_file_location("roofline", SCRIPT)
roofline = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(roofline)

BATCH = 8
# Multiply-adds of SEANet-20 for one image, by hand: each stage has a block that widens its input (three convolutions)
# and two that do not (two each), and halving the side while doubling the width changes no product.
STEM = 9 * 3 * 16 * 32**2
WIDE = 9 * 128 * 128 * 32**2
STAGE = 9 * 16 * 128 * 32**2 + 5 * WIDE + 16 * 128 * 32**2


def flops(mode, part=""):
    jaxpr = traced("seanet20", BATCH, mode).jaxpr.jaxpr
    return sum(one.flops for one in products(jaxpr, BATCH) if part in one.part)


@pytest.mark.slow
def test_the_operations_are_multiply_adds_and_twice_as_many_again_in_training():
    assert flops("eval") == 2 * BATCH * multiply_adds(model_config("seanet20", num_classes=100))
    assert flops("eval", "16x16") == flops("eval", "8x8") == 2 * BATCH * STAGE
    # Two gradients for each product, but for the images.
    assert flops("train") == 3 * flops("eval") - 2 * BATCH * STEM


@pytest.mark.slow
def test_the_operations_of_training_are_those_that_xla_counts():
    # On large images, because XLA leaves out what a kernel multiplies with padding.
    step = traced("seanet20", 4, "train", size=256)
    ours = sum(one.flops for one in products(step.jaxpr.jaxpr, 4))
    assert ours == pytest.approx(step.lower().cost_analysis()["flops"], rel=0.015)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_read_two_arrays_and_write_one(stride):
    x, kernel = jnp.zeros((BATCH, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))

    def pullback(x, kernel, dy):
        y, gradients = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride=stride, method="lax"), x, kernel)
        return y, gradients(dy)

    side = 8 // stride
    dy = jnp.zeros((BATCH, side, side, 6))
    done = list(products(jax.make_jaxpr(jax.jit(pullback))(x, kernel, dy).jaxpr, BATCH))
    assert done == [(f"{side}x{side} maps", 2 * BATCH * side**2 * kernel.size, x.size + kernel.size + dy.size, 0)] * 3


def test_a_matrix_product_is_found_inside_other_functions():
    inner = jax.custom_vjp(lambda a, b: jnp.einsum("ij,kj->ik", a, b))
    inner.defvjp(lambda a, b: (inner(a, b), None), lambda _, dy: (dy, dy))
    jaxpr = jax.make_jaxpr(jax.jit(inner))(jnp.zeros((BATCH, 5)), jnp.zeros((7, 5))).jaxpr
    assert list(products(jaxpr, BATCH)) == [("matrix products", 2 * BATCH * 5 * 7, BATCH * 5 + 7 * 5 + BATCH * 7, 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "normalize", "add"), [("train", 8, 2), ("eval", 2, 1)])
def test_the_passes_over_the_maps_of_seanet20_are_those_counted_by_hand(mode, normalize, add):
    done = [one for one in work("seanet20", BATCH, mode) if one.flops == 0 and one.part != "optimizer"]
    # Per stage six 3x3 convolutions, a shortcut and three additions; the stem's 16 channels go with the first.
    for side, width, stem in ((32, 128, 16), (16, 256, 0), (8, 512, 0)):
        items = sum(one.items for one in done if one.part == f"{side}x{side} maps")
        assert items == BATCH * side**2 * (normalize * (7 * width + stem) + add * 3 * width)


@pytest.mark.slow
def test_the_optimizer_moves_five_float32_numbers_a_parameter_and_only_when_training():
    (one,) = (one for one in work("seanet20", BATCH, "train") if one.part == "optimizer")
    assert one.bytes("bf16") == one.bytes("TF32") == 5 * 4 * 16199940
    assert "optimizer" not in {one.part for one in work("seanet20", BATCH, "eval")}


def test_each_operation_takes_the_longer_of_its_two_times():
    busy, waiting = Work("a", flops=989.4e12, items=1), Work("b", flops=1, items=3.35e12)
    assert seconds([busy, waiting], "bf16") == pytest.approx(1 + 2)
    assert seconds([busy, waiting], "TF32") == pytest.approx(2 + 4)


@pytest.mark.slow
def test_the_tables_add_up():
    text = roofline.markdown("seanet20", [BATCH, 16])
    assert "not a measurement" in text and "https://resources.nvidia.com" in text
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    number = {
        row[0]: [float(cell.split()[0].replace(",", "")) for cell in row[1:]] for row in rows if row[0] in ("8", "16")
    }
    assert set(number) == {"8", "16"}
    first = [row for row in rows if row[0].endswith("maps") or row[0] in ("matrix products", "optimizer", "all")][:6]
    assert [row[0] for row in first] == ["32x32 maps", "16x16 maps", "8x8 maps", "matrix products", "optimizer", "all"]
    for column in (1, 2, 5, 6, 9):
        *parts, total = (float(row[column].replace(",", "")) for row in first)
        assert total == pytest.approx(sum(parts), abs=0.02 if column == 1 else 0.004)
    # What the rate is below: either side alone.
    gflop, gigabytes, milliseconds = (float(first[-1][column]) for column in (1, 2, 5))
    assert milliseconds >= max(gflop / 989.4, gigabytes / 3.35)
    assert number["8"][0] == pytest.approx(BATCH / milliseconds * 1e3, rel=0.01)
    assert [row[4] for row in first[:3]] == ["memory 55%", "compute 62%", "compute 76%"]
    assert first[-2][4] == "memory 100%"


@pytest.mark.slow
def test_the_command_prints_the_tables_and_refuses_in_one_line():
    def run(*arguments):
        command = [sys.executable, "-W", "error", SCRIPT, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--model", "resnet20", "--batch-size", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == roofline.markdown("resnet20", [8])
    for wrong, message in ((("--model", "resnet21"), "no model 'resnet21'"), (("--batch-size", "3"), "is 3; it must")):
        done = run(*wrong)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_the_bound_of_a_studys_cost_is_the_rooflines():
    train, evaluate = (seconds(work("resnet20", 64, mode), "TF32") / 64 for mode in ("train", "eval"))
    expected = 2 * 3 * (50_000 * train + 10_000 * evaluate) / 3600
    assert hours_at_least(("resnet20",), seeds=3, epochs=2) == pytest.approx(expected)
    assert hours_at_least(("resnet20", "resnet20"), seeds=3, epochs=2) == pytest.approx(2 * expected)
