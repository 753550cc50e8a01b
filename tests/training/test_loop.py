import dataclasses
import functools
import json
import math
import re
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cpu_devices import on_devices
from training_fixtures import assert_same_run, newest, raise_at, records

from seanet_jax.inference.trained import load
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.interrupt import StoppedError
from seanet_jax.training.loop import Call, Loop, TrainingDivergedError
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import Metrics
from seanet_jax.training.trainer import Evaluation, loss_and_accuracy


@pytest.mark.slow
def test_an_epoch_is_recorded_once_the_checkpoints_before_it_are_written(tiny, monkeypatch):
    """Records of two epochs thus prove that there was a checkpoint."""
    calls = []
    for cls, name in ((Checkpoints, "wait"), (RunFolder, "append")):
        real = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *args, real=real, name=name: (calls.append(name), real(*args)))
    fit(tiny())
    assert calls == ["wait", "append"] * 3


def test_parameters_that_are_not_finite_are_never_saved(tiny, monkeypatch):
    """The loss is finite still, that of the parameters before the step."""
    real = Loop._take_steps

    def take_steps(loop, state, order, step, pause):
        state, step = real(loop, state, order, step, pause)
        if step == 10:
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
        return state, step

    monkeypatch.setattr(Loop, "_take_steps", take_steps)
    config = tiny()
    with pytest.raises(TrainingDivergedError, match="parameters are NaN or infinite in epoch 2 at step 10, learning"):
        fit(config)
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["5"]


@pytest.mark.slow
def test_a_run_may_be_told_to_go_on_with_nan(tiny):
    summary = fit(tiny(learning_rate=1e20, on_nan="continue"))
    assert summary["finished"] and summary["last"]["train_loss"] is None  # JSON has no NaN


@pytest.mark.slow
def test_thirty_epochs_need_no_more_memory_than_two():
    """Prints the figures: ``pytest -m slow -s -k thirty_epochs``."""
    done = on_devices(1, "memory_after_epochs.py")
    assert not done.returncode, done.stderr
    held = json.loads(done.stdout.splitlines()[-1])
    print("resident after each epoch, MiB:", *held["mebibytes"])
    assert len(held["mebibytes"]) == 30
    assert len(set(held["arrays"][1:])) == 1
    # Orbax keeps a little of each checkpoint it writes, and glibc some of what was freed.
    assert held["mebibytes"][-1] - held["mebibytes"][1] < 32


def test_a_diverging_loss_stops_the_run_and_keeps_the_last_checkpoint(tiny):
    config = tiny(epochs=1)
    fit(config)
    before = newest(config.out)
    # The published schedule cannot diverge here, so the saved state is damaged instead.
    with Checkpoints(config.out) as checkpoints:
        state, history = before
        wild = jax.tree.map(lambda p: p * np.float32("inf"), state.params)
        checkpoints.save(6, state._replace(step=state.step + 1, params=wild), history)
    with pytest.raises(TrainingDivergedError, match=r"loss is nan in epoch 2 at step 7, learning rate 0\.05"):
        fit(dataclasses.replace(config, epochs=2, resume=True))


@pytest.mark.parametrize("together", [False, True])
def test_the_step_that_diverged_is_named_though_steps_are_looked_at_together(together):
    losses, zeros, images = np.array([2, np.inf, np.nan], "float32"), np.zeros(3, "int32"), np.full(3, 8, "int32")
    calls = [Call(11, 1, Metrics(jnp.float32(1), jnp.int32(0), jnp.int32(8)))]
    if together:
        calls.append(Call(14, 3, Metrics(jnp.array(losses), jnp.array(zeros), jnp.array(images))))
    else:
        calls += [Call(12 + i, 1, Metrics(losses[i], zeros[i], images[i])) for i in range(3)]
    trainer = SimpleNamespace(
        steps_per_epoch=10, learning_rate=lambda step: step / 100, config=SimpleNamespace(on_nan="stop")
    )
    loop = SimpleNamespace(_trainer=trainer)
    loop._diverged = functools.partial(Loop._diverged, loop)
    with pytest.raises(TrainingDivergedError, match=r"loss is inf in epoch 2 at step 13, learning rate 0\.12"):
        Loop._report(loop, calls)


@pytest.mark.slow
def test_the_host_reads_metrics_only_now_and_then(tiny, monkeypatch):
    reads = []

    def count(metrics):
        reads.append(int(metrics.num_images))
        return read(metrics)

    read = loss_and_accuracy
    for module in ("loop", "trainer"):
        monkeypatch.setattr(f"seanet_jax.training.{module}.loss_and_accuracy", count)
    # Five steps of eight images an epoch. Read: the run's first step, the last of each epoch, and then the epoch's
    # record: training and test.
    for seconds, expected in ((math.inf, [8, 40, 40, 23, 40, 40, 23]), (0, [*range(8, 41, 8), 40, 23] * 2)):
        monkeypatch.setattr("seanet_jax.training.loop._SECONDS_BETWEEN_REPORTS", seconds)
        reads.clear()
        fit(tiny(f"every {seconds} s", epochs=2))
        assert reads == expected


@pytest.mark.slow
def test_a_validation_split_chooses_the_best_epoch(tiny):
    config = tiny(validation_fraction=0.25, batch_size=6)
    summary = fit(config)
    assert summary["best_chosen_on"] == "validation"
    for line in records(config.out):
        assert (line["val_accuracy"] * 10).is_integer()
        assert (line["train_accuracy"] * 30).is_integer()
    best = max(records(config.out), key=lambda line: line["val_accuracy"])
    assert summary["best"]["epoch"] == best["epoch"]


def test_best_is_the_first_of_the_highest(tiny):
    config = tiny()
    summary = fit(config)
    accuracies = [line["test_accuracy"] for line in records(config.out)]
    assert summary["best"]["epoch"] == accuracies.index(max(accuracies)) + 1
    assert load(config.out).step == summary["best"]["step"]


@pytest.mark.slow
def test_the_end_inside_an_epoch_is_best_only_where_no_epoch_is_whole(tiny, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.4])  # at the steps 5, 7 and 3
    monkeypatch.setattr(Evaluation, "__call__", lambda *_: {"loss": 1.0, "accuracy": next(accuracies)})
    for name, stop, expected in (("after one", 7, 5), ("before any", 3, 3)):
        config = tiny(name, max_steps=stop)
        assert fit(config)["best"]["step"] == expected
        assert load(config.out).step == expected


# Several steps in a call


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"steps_per_call": 5}, {"steps_per_call": 4, "checkpoint_steps": 3}],
)
def test_several_steps_in_a_call_are_the_same_steps_but_for_rounding(fields, tiny, in_peace, capsys):
    """Five steps an epoch: one call of five, or at most three in a call, with checkpoints at 3, 6, 9 and 12."""
    config = tiny(log_every=1, **fields)
    fit(config)
    lines = re.findall(r"step \d/5: loss \S+ accuracy \S+", capsys.readouterr().out)
    assert len(lines) == 15 and len(set(lines)) > 10  # a line for each step, with its own metrics
    peace = in_peace()
    for record, expected in zip(records(config.out), records(peace.out), strict=True):
        assert record == pytest.approx(expected, rel=1e-4)
    expected = newest(peace.out)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), newest(config.out)[0], expected)


@pytest.mark.slow
def test_a_stop_comes_between_calls_and_the_resumed_run_is_equal_bit_for_bit(tiny, monkeypatch):
    whole, config = (tiny(name, steps_per_call=2, log_every=1) for name in ("whole", "stopped"))
    fit(whole)
    with monkeypatch.context() as patch:
        # The calls of the first epoch take the steps 2, 4 and 5. The fifth call takes the steps 8 and 9.
        raise_at(patch, (jax.stages.Compiled, "__call__"), 5, signal.SIGTERM)
        with pytest.raises(StoppedError, match="at step 9, of which a checkpoint is saved"):
            fit(config)
    fit(dataclasses.replace(config, resume=True))
    assert_same_run(config, whole)
