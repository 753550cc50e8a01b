"""What happens to a run may cost it time, never a number: kills, signals, damage, full disks, a second process."""

import contextlib
import dataclasses
import functools
import gc
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_fixtures import TINY_RUN, made_dataset, read_points, records, small

from seanet_jax.errors import InputError, RunError
from seanet_jax.training import images, run
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.interrupt import StoppedError, StopRequest
from seanet_jax.training.loop import Loop, TrainingDivergedError
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.tensorboard import Events
from seanet_jax.training.trainer import Evaluation, Trainer

SUPPORT = Path(__file__).parents[1] / "support"
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "digits.py"


@pytest.mark.slow
def test_a_run_killed_again_and_again_equals_one_left_in_peace(monkeypatch):
    # Here it is the steps that take long.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    command = [sys.executable, "-W", "error", SUPPORT / "kill_and_resume.py", "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bit for bit" in done.stdout


# Being asked to stop


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    """Trains what ``tiny`` makes, each run once; gives its config. It is to be read alone."""

    @functools.cache
    def run(**fields):
        config = TrainConfig(out=tmp_path_factory.mktemp("peace") / "run", **(TINY_RUN | fields))
        with small(made_dataset()):
            fit(config)
        return config

    return run


def assert_same_run(config, other):
    assert records(config.out) == records(other.out)
    (state, _), (expected, _) = (newest(folder.out) for folder in (config, other))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def newest(folder):
    trainer = TRAINERS[-1]
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(trainer.abstract_state())


TRAINERS = []


@pytest.fixture(autouse=True)
def keep_trainers(monkeypatch):
    """Runs of one test have states of one structure: that of the last trainer."""
    real = Trainer.__init__

    def init(trainer, *arguments):
        real(trainer, *arguments)
        TRAINERS.append(trainer)

    monkeypatch.setattr(Trainer, "__init__", init)
    yield
    TRAINERS.clear()


def raise_at(monkeypatch, place, call, number):
    """Sends this process a signal when a method is called for the n-th time."""
    cls, name = place
    real, calls = getattr(cls, name), []

    def method(*arguments):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(cls, name, method)


PLACES = {
    "start": (Trainer, "initial_state", 1),
    "step": (Loop, "_report", 2),
    "evaluation": (Evaluation, "__call__", 2),
    "end": (Loop, "_end_epoch", 3),
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "number"), [*((place, signal.SIGTERM) for place in PLACES), ("step", signal.SIGINT)])
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
    steps = [int(path.name) for path in (stopped.out / "checkpoints" / "latest").iterdir()]
    assert f"at step {max(steps)}," in str(error.value)
    fit(dataclasses.replace(stopped, resume=True))
    assert_same_run(whole, stopped)


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.signal is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


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
    assert any((tmp_path / "run" / "checkpoints" / "latest").iterdir())


# Damaged checkpoints


def state(value):
    # Random, so that compression leaves no byte without a meaning.
    return {"weights": jax.random.normal(jax.random.key(value), (60, 50)), "step": jnp.int32(value)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with two checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save_latest(step, state(step), [{"epoch": step}])
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, share=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


ATTACKS = {"truncate": truncate, "empty": lambda path: path.write_bytes(b""), "flip": flip, "delete": Path.unlink}


def is_noticed(saved, run, file, attack, capfd):
    """Whether the damage is named and the checkpoint before is used; what comes back is whole in any case."""
    shutil.copytree(saved, run)
    attack(run / file.relative_to(saved))
    capfd.readouterr()
    with Checkpoints(run) as checkpoints:
        restored, history = checkpoints.restore_latest(state(0))
    step = history[-1]["epoch"]
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    warning = capfd.readouterr().err
    assert (step == 1) == bool(warning)
    if warning:
        assert warning.startswith(f"warning: the checkpoint {run}/checkpoints/latest/2 is damaged (")
        assert warning.count("\n") == 1 and len(warning) < 400
    return step == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_any_file_of_the_newest_checkpoint_may_be_damaged(saved, tmp_path, capfd, attack):
    newest = saved / "checkpoints" / "latest" / "2"
    files = [path for path in newest.rglob("*") if path.is_file()]
    noticed = {
        str(file.relative_to(newest))
        for number, file in enumerate(files)
        if is_noticed(saved, tmp_path / str(number), file, ATTACKS[attack], capfd)
    }
    # Orbax writes files too that nothing is read from. These hold the records, the arrays, and where they are.
    (arrays,) = (str(path.relative_to(newest)) for path in (newest / "state" / "d").iterdir())
    assert {"history/metadata", "state/manifest.ocdbt", arrays} <= noticed


def test_any_byte_of_the_saved_arrays_may_flip(saved, tmp_path, capfd):
    (arrays,) = (saved / "checkpoints" / "latest" / "2" / "state" / "d").iterdir()
    for number, share in enumerate(np.linspace(0, 0.999, 24)):
        assert is_noticed(saved, tmp_path / str(number), arrays, lambda path, share=share: flip(path, share), capfd)


@pytest.mark.parametrize("part", ["state", "history"])
def test_half_of_the_newest_checkpoint_may_be_missing(saved, tmp_path, capfd, part):
    shutil.copytree(saved, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "latest" / "2" / part)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(state(0))[1] == [{"epoch": 1}]
        assert "is damaged (" in capfd.readouterr().err
        checkpoints.save_latest(2, state(2), [{"epoch": 2}])
        checkpoints.close()
        assert checkpoints.restore_latest(state(0))[1] == [{"epoch": 2}]


def test_arrays_of_another_checkpoint_are_noticed(saved, tmp_path, capfd):
    """Every file is as Orbax wrote it, and its own checksums hold."""
    shutil.copytree(saved, tmp_path / "run")
    latest = tmp_path / "run" / "checkpoints" / "latest"
    shutil.rmtree(latest / "2" / "state")
    shutil.copytree(latest / "1" / "state", latest / "2" / "state")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(state(0))[1] == [{"epoch": 1}]
    assert "is damaged (its SHA-256 is not that of what was saved)" in capfd.readouterr().err


def test_changed_records_are_noticed(saved, tmp_path, capfd):
    (records,) = (saved / "checkpoints" / "latest" / "2" / "history").glob("metadata")

    def change(path):
        text = path.read_text()
        assert '"epoch": 2' in text
        path.write_text(text.replace('"epoch": 2', '"epoch": 3'))

    assert is_noticed(saved, tmp_path / "run", records, change, capfd)


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


def test_an_epoch_is_recorded_once_the_checkpoints_before_it_are_written(tiny, monkeypatch):
    """Records of two epochs thus prove that there was a checkpoint."""
    calls = []
    for cls, name in ((Checkpoints, "wait"), (RunFolder, "append")):
        real = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *args, real=real, name=name: (calls.append(name), real(*args)))
    fit(tiny())
    assert calls == ["wait", "append"] * 3


def test_nothing_in_a_checkpoint_is_executed(saved, tmp_path, capfd):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    for number, file in enumerate(path for path in saved.rglob("*") if path.is_file()):
        run = tmp_path / str(number)
        shutil.copytree(saved, run)
        (run / file.relative_to(saved)).write_bytes(pickle.dumps(Attack()))
        with Checkpoints(run) as checkpoints:
            checkpoints.restore_latest(state(0))
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Attack()))
    assert (tmp_path / "trace").exists()  # the attack works where a pickle is read


@pytest.mark.slow
def test_a_run_goes_on_from_before_the_damage(tiny, in_peace, capfd):
    whole, damaged = in_peace(), tiny("damaged", epochs=2)
    fit(damaged)
    for kind in ("latest", "best"):
        shutil.rmtree(damaged.out / "checkpoints" / kind / "10" / "state", ignore_errors=True)
    fit(dataclasses.replace(damaged, epochs=3, resume=True))
    assert "latest/10 is damaged" in capfd.readouterr().err
    assert_same_run(whole, damaged)
    assert read_points(whole.out) == read_points(damaged.out)


# Files that cannot be written


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
    with Checkpoints(full.out) as checkpoints:
        assert int(checkpoints.restore_latest(TRAINERS[-1].abstract_state())[0].step) == left
    assert fit(dataclasses.replace(full, resume=True))["finished"]
    assert (full.out / "curves.png").exists()
    assert_same_run(whole, full)
    assert read_points(full.out) == read_points(whole.out)


@pytest.mark.slow
def test_the_command_ends_with_status_1_on_a_full_disk(tmp_path):
    flags = ("--model", "resnet20", "--limit-train", "64", "--limit-test", "40", "--batch-size", "32")
    # What is compiled is too large to be kept.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    flags = (*flags, "--no-compilation-cache")
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


def test_a_folder_that_cannot_be_written_is_refused(tiny):
    with pytest.raises(InputError, match=r"/proc/nope/run cannot be written \(No such file or directory\)"):
        fit(dataclasses.replace(tiny(), out=Path("/proc/nope/run")))


# Numbers gone wrong


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
    assert [path.name for path in (config.out / "checkpoints" / "latest").iterdir()] == ["5"]


def test_a_run_may_be_told_to_go_on_with_nan(tiny):
    summary = fit(tiny(learning_rate=1e20, on_nan="continue"))
    assert summary["finished"] and not np.isfinite(summary["last"]["train_loss"])


# Two at once


def test_a_second_process_is_refused(tiny):
    config = tiny(epochs=1)
    fit(config)
    with filelock.FileLock(config.out / "lock"), pytest.raises(InputError, match="in use by another process"):
        fit(dataclasses.replace(config, epochs=2, resume=True))
    # A lock file alone, left by a process that died, is no obstacle.
    assert (config.out / "lock").exists() or (config.out / "lock").touch() is None
    fit(dataclasses.replace(config, epochs=2, resume=True))


def test_a_new_run_in_a_locked_folder_is_refused(tiny):
    config = tiny()
    config.out.mkdir()
    with filelock.FileLock(config.out / "lock"), pytest.raises(InputError, match="in use by another process"):
        fit(config)
    fit(config)


# A different question


def test_other_images_of_the_same_name_are_refused(tiny, monkeypatch):
    config = tiny(epochs=1)
    fit(config)
    other = images.load("digits", None, False)
    pixels = other.train_images.copy()
    pixels[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(images, "load", lambda name, data_dir, mapped: dataclasses.replace(other, train_images=pixels))
    with pytest.raises(InputError, match="was trained on other images of the name digits"):
        fit(dataclasses.replace(config, epochs=2, resume=True))


def test_harmless_changes_are_recorded(tiny):
    config = tiny(epochs=1)
    fit(config)
    fit(dataclasses.replace(config, epochs=2, log_every=7, resume=True))
    (resumed,) = json.loads((config.out / "config.json").read_text())["resumed"]
    assert resumed["step"] == 5
    assert {"epochs: 1 was saved, 2 is asked", "log_every: 50 was saved, 7 is asked"} <= set(resumed["changed"])


def test_fewer_steps_than_were_done_are_refused(tiny, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        patch.setattr("seanet_jax.training.loop._SECONDS_BETWEEN_REPORTS", 0)
        with pytest.raises(StoppedError):
            fit(config)
    with pytest.raises(InputError, match=r"at step [2-4] already; ask for more than 1 steps"):
        fit(dataclasses.replace(config, max_steps=1, resume=True))


def test_a_run_killed_before_it_wrote_anything_is_resumed_by_starting_it(tiny, in_peace):
    whole, killed = in_peace(), tiny("killed")
    killed.out.mkdir()
    (killed.out / "lock").touch()
    (killed.out / "config.json.tmp").write_text("{")
    fit(dataclasses.replace(killed, resume=True))
    assert_same_run(whole, killed)


# Memory


@pytest.mark.slow
def test_thirty_epochs_need_no_more_memory_than_two(tiny, monkeypatch):
    """Prints the figures: ``pytest -s -k thirty_epochs``."""
    real, arrays, mebibytes = Loop._end_epoch, [], []

    def end_epoch(loop, state, step):
        real(loop, state, step)
        loop._checkpoints.wait()
        gc.collect()
        arrays.append(len(jax.live_arrays()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        mebibytes.append(pages * resource.getpagesize() / 2**20)

    monkeypatch.setattr(Loop, "_end_epoch", end_epoch)
    fit(tiny(epochs=30, decay_every=30))
    print("resident after each epoch, MiB:", *(f"{size:.1f}" for size in mebibytes))
    assert len(set(arrays[1:])) == 1
    # Orbax keeps a little of each checkpoint it writes, and glibc some of what was freed.
    assert mebibytes[-1] - mebibytes[1] < 32
