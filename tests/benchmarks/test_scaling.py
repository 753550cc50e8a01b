import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling
from implementations import SeanetJax, Task
from scaling import Estimate, Exchange

from seanet_jax.models import model_config
from seanet_jax.models.multiply_adds import parameters

PROGRAM = """
  %all-reduce.7 = f32[128]{0} all-reduce(%fusion.240), channel_id=1, to_apply=%add
  %all-reduce.8 = (f32[128]{0}, /*index=1*/f32[3,3,16,2]{3,2,1,0}) all-reduce-start(%a, %b), channel_id=2
  %done = (f32[128]{0}, f32[3,3,16,2]{3,2,1,0}) all-reduce-done(%all-reduce.8)
  %g = f32[128]{0} get-tuple-element(%all-reduce.8), index=0
  ROOT %all-gather = u8[64,1]{1,0} all-gather(%all-reduce.7), dimensions={0}
"""


def test_collectives_are_found_in_a_program():
    assert scaling.found(PROGRAM) == [
        Exchange("all-reduce", "f32", 512),
        Exchange("all-reduce", "f32", 512 + 288 * 4),
        Exchange("all-gather", "u8", 64),
    ]


@pytest.mark.slow
def test_a_step_exchanges_gradients_once_and_statistics_of_each_layer():
    every = scaling.exchanges("resnet20")
    device = scaling.exchanges("resnet20", statistics="device")
    assert {one.operation for one in every} == {"all-reduce", "all-gather"}
    images = [one.bytes for one in every if one.item == "u8"]
    assert images == [8 * 8 * 32 * 32 * 3]  # eight images for each of eight devices
    whole = 4 * parameters(model_config("resnet20", num_classes=100))
    for exchanges in (every, device):
        floats = sum(one.bytes for one in exchanges if one.item == "f32" and one.operation == "all-reduce")
        assert whole < floats < 1.1 * whole
    # Mean and variance of 21 layers forward, two sums backward; some of them together.
    assert len(every) - len(device) > 2 * 21
    assert len(device) < 10


def test_latencies_are_those_of_the_formula():
    # By hand: 4.4 + 14 * 0.52; 4.4 + 14 * 0.936 + 10 * 3; and 10 * 7.
    assert scaling.latency(8) == pytest.approx(11.68e-6)
    assert scaling.latency(64) == pytest.approx(47.504e-6)
    assert scaling.latency(1024) == pytest.approx(87.504e-6)


def test_bytes_take_their_time_on_the_slowest_link():
    assert scaling.transfer(8, 450_000_000) == pytest.approx(2 * 7 / 8 * 1e-3)
    assert scaling.transfer(64, 400_000_000) == pytest.approx(2 * 63 / 64 * 1e-3)


def test_an_estimate_adds_what_is_waited_for():
    found = [
        Exchange("all-reduce", "f32", 450_000_000),
        Exchange("all-reduce", "f32", 0),
        Exchange("all-reduce", "u8", 450_000_000),
    ]
    step = scaling.estimate(8, found, 1.0)
    assert step.gradients == pytest.approx(11.68e-6 + 1.75e-3)
    assert step.waiting == pytest.approx(2 * 11.68e-6 + 1.75e-3)
    # Eight times the GPUs have batches eight times as large, over slower links.
    assert scaling.estimate(64, found, 1.0).waiting == pytest.approx(2 * 47.504e-6 + 8 * 450 / 400 * 2 * 63 / 64 * 1e-3)
    assert Estimate(compute=3.0, waiting=1.0, gradients=3.0).efficiencies == (
        pytest.approx(3 / 7),
        pytest.approx(3 / 5),
    )
    assert Estimate(compute=3.0, waiting=1.0, gradients=2.0).efficiencies[1] == pytest.approx(3 / 4)


@pytest.mark.slow
def test_the_step_without_a_mesh_computes_the_same():
    states = []
    for mesh in (True, False):
        implementation = SeanetJax(Task("resnet20", 4), mesh=mesh, tuned=False)
        implementation.train(1)
        states.append(jax.device_get(implementation._state))
    # As two programs, they may be rounded differently, and every step amplifies that.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=3e-4), *states)
