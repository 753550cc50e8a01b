import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_fixtures import assert_same_run, raise_at

from seanet_jax.training.interrupt import StoppedError, StopRequest
from seanet_jax.training.loop import Loop
from seanet_jax.training.run import fit
from seanet_jax.training.trainer import Evaluation, Trainer

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "digits.py"


PLACES = {
    "start": (Trainer, "initial_state", 1),
    "step": (Loop, "_report", 2),
    "evaluation": (Evaluation, "__call__", 2),
    "end": (Loop, "_end_epoch", 3),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [*((place, signal.SIGTERM) for place in PLACES), ("step", signal.SIGINT), ("step", signal.SIGHUP)],
)
def test_a_run_asked_to_stop_saves_and_goes_on_from_there(tiny, in_peace, monkeypatch, place, number):
    whole, stopped = in_peace(checkpoint_steps=2), tiny("stopped", checkpoint_steps=2)
    with monkeypatch.context() as patch:
        raise_at(patch, PLACES[place][:2], PLACES[place][2], number)
        with pytest.raises(
            StoppedError, match=rf"stopped by {number.name} at step \d+, of which a checkpoint is saved"
        ) as error:
            fit(stopped)
    assert error.value.signal == number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = [int(path.name) for path in (stopped.out / "checkpoints").iterdir()]
    assert f"at step {max(steps)}," in str(error.value)
    fit(dataclasses.replace(stopped, resume=True))
    assert_same_run(whole, stopped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
        assert stop.signal is None and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_terminal_that_closes_stops_a_run():
    with StopRequest() as stop:
        assert not stop.requested()
        signal.raise_signal(signal.SIGHUP)
        assert stop.requested() and stop.signal == signal.SIGHUP


def test_a_second_interrupt_stops_at_once(tiny, monkeypatch):
    def look(loop, steps):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Loop, "_report", look)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_how_to_go_on(tmp_path, number, status):
    flags = (
        "--model",
        "resnet20",
        "--limit-train",
        "64",
        "--limit-test",
        "40",
        "--batch-size",
        "32",
        "--log-every",
        "1",
    )
    process = subprocess.Popen(
        [sys.executable, EXPERIMENT, *flags, "--log-every", "1", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    next(line for line in process.stdout if "step 1/2" in line)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == status
    name = signal.Signals(number).name
    assert complaint.startswith(f"stopped by {name} at step ") and complaint.count("\n") == 1
    assert any((tmp_path / "run" / "checkpoints").iterdir())
