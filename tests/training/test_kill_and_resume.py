"""What happens to a run may cost it time, never a number: kills, lost or damaged checkpoints, full disks."""

import contextlib
import dataclasses
import io
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_fixtures import (
    assert_same_run,
    newest,
    read_points,
)

from seanet_jax.errors import InputError, RunError
from seanet_jax.training import run
from seanet_jax.training.loop import Loop
from seanet_jax.training.run import fit
from seanet_jax.training.tensorboard import Events

SUPPORT = Path(__file__).parents[1] / "support"


EXPERIMENT = SUPPORT / "small_digits.py"


@pytest.mark.slow
def test_a_run_killed_again_and_again_equals_one_left_in_peace():
    # This recipe saves all that the published one does, and a moving average.
    command = [sys.executable, "-W", "error", SUPPORT / "kill_and_resume.py", "--kills", "2", "--recipe", "modern"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bit for bit" in done.stdout


@pytest.mark.slow
def test_nothing_but_damage_is_an_error_and_never_a_new_start(tiny):
    config = tiny(epochs=2)
    fit(config)
    for path in (config.out / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    before = (config.out / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        fit(dataclasses.replace(config, epochs=3, resume=True))
    assert (config.out / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_checkpoints_that_are_gone_are_an_error_and_never_a_new_start(tiny):
    config = tiny(epochs=2)
    fit(config)
    shutil.rmtree(config.out / "checkpoints")
    before = (config.out / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"the checkpoints of .* are gone"):
        fit(dataclasses.replace(config, epochs=3, resume=True))
    assert (config.out / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_on_from_before_the_damage(tiny, in_peace, capfd):
    whole, damaged = in_peace(), tiny("damaged", epochs=2)
    fit(damaged)
    shutil.rmtree(damaged.out / "checkpoints" / "10" / "state")
    fit(dataclasses.replace(damaged, epochs=3, resume=True))
    assert "checkpoints/10 is damaged" in capfd.readouterr().err
    assert_same_run(whole, damaged)
    assert read_points(whole.out) == read_points(damaged.out)


@contextlib.contextmanager
def file_size_limit(size):
    """What a quota or a full disk does: writing past it fails. Output goes elsewhere meanwhile; it may be a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert errors.getvalue() == ""


def second_epoch_under(limit, monkeypatch):
    real = Loop._end_epoch

    def end_epoch(loop, state, step):
        if step == 10:
            loop._checkpoints.wait()
            with file_size_limit(limit):
                real(loop, state, step)
                loop._checkpoints.wait()
        else:
            real(loop, state, step)

    monkeypatch.setattr(Loop, "_end_epoch", end_epoch)


def events_under(limit, monkeypatch):
    real = Events.write

    def write(events, record):
        if record["step"] == 10:
            with file_size_limit(limit):
                real(events, record)
        else:
            real(events, record)

    monkeypatch.setattr(Events, "write", write)


def curves_under(limit, monkeypatch):
    real = run.draw_curves

    def draw(*arguments, **keywords):
        with file_size_limit(limit):
            real(*arguments, **keywords)

    monkeypatch.setattr(run, "draw_curves", draw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "limit", "what", "left"),
    [
        (second_epoch_under, 2000, "a checkpoint could not be written to .*checkpoints", 5),
        (events_under, 10, "tensorboard could not be written", 5),
        (second_epoch_under, 10, "metrics.jsonl could not be written", 5),
        (curves_under, 1000, "curves.png could not be written", 15),
    ],
)
def test_a_full_disk_is_a_clear_error_and_the_checkpoints_before_it_stay(
    tiny, in_peace, monkeypatch, capfd, place, limit, what, left
):
    whole, full = in_peace(), tiny("full")
    with monkeypatch.context() as patch:
        place(limit, patch)
        with pytest.raises(RunError, match=rf"{what} \(File too large\); .* --resume"):
            fit(full)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert int(newest(full.out)[0].step) == left
    assert fit(dataclasses.replace(full, resume=True))["finished"]
    assert (full.out / "curves.png").exists()
    assert_same_run(whole, full)
    assert read_points(full.out) == read_points(whole.out)


@pytest.mark.slow
def test_the_command_ends_with_status_1_on_a_full_disk(tmp_path):
    flags = ("--model", "wide_resnet20", "--limit-train", "64", "--limit-test", "40", "--batch-size", "32")
    # What is compiled is too large to be kept.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    flags = (*flags, "--no-compilation-cache", "--no-tune-cpu")
    done = subprocess.run(
        # In blocks of 512 or 1024 bytes, as the shell has it.
        ["sh", "-c", 'ulimit -f 500; exec "$@"', "sh", sys.executable, EXPERIMENT, *flags, "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"error: a checkpoint could not be written to .* \(File too large\); .*\n", done.stderr)
