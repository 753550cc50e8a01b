import math
import os
import pickle
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from path_fixtures import obeying_permissions

from seanet_jax.errors import InputError
from seanet_jax.training import checkpoint, sharding
from seanet_jax.training.checkpoint import Checkpoints


def state(value):
    return {"weights": jnp.full((3, 2), value), "step": jnp.int32(value)}


def test_the_newest_comes_back_with_its_history(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.exist()
        for step in (1, 2, 3):
            checkpoints.save_latest(step, state(step), [{"epoch": step}])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.exist()
        restored, history = checkpoints.restore_latest(state(0))
    assert history == [{"epoch": 3}]
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))


def test_two_latest_and_one_best_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_latest(step, state(step), [])
            checkpoints.save_best(step, state(step), [])
    names = {
        kind: sorted(path.name for path in (tmp_path / "checkpoints" / kind).iterdir()) for kind in ("latest", "best")
    }
    assert names == {"latest": ["2", "3"], "best": ["3"]}


def test_best_and_latest_are_apart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, state(1), [])
        checkpoints.save_latest(2, state(2), [])
        assert checkpoints.restore_best(state(0))[0]["step"] == 1
        assert checkpoints.restore_latest(state(0))[0]["step"] == 2


def test_arrays_come_back_where_the_template_lies(tmp_path):
    placement = sharding.replicated(sharding.make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, state(1), [])
        restored, _ = checkpoints.restore_latest(jax.device_put(state(0), placement))
    assert restored["weights"].sharding == placement


def test_a_state_may_be_donated_once_saving_returns(tmp_path):
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)
    current = {"weights": jnp.ones((2000, 1000)), "step": jnp.int32(1)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            # Writing goes on in the background while the buffers are overwritten.
            checkpoints.save_latest(step, current, [])
            current = double(current)
        restored, _ = checkpoints.restore_latest(current)
    assert restored["step"] == 4
    assert (restored["weights"] == 4).all()


def test_no_checkpoint_is_a_clear_error_and_makes_no_folder(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"latest and .*best: there is no checkpoint; train first"),
    ):
        checkpoints.restore_latest(state(0))
    assert list(tmp_path.iterdir()) == []


def random_state(value):
    # Random, so that compression leaves no byte without a meaning.
    return {"weights": jax.random.normal(jax.random.key(value), (60, 50)), "step": jnp.int32(value)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with two checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save_latest(step, random_state(step), [{"epoch": step}])
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
        restored, history = checkpoints.restore_latest(random_state(0))
    step = history[-1]["epoch"]
    jax.tree.map(np.testing.assert_array_equal, restored, random_state(step))
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


@pytest.mark.slow
def test_any_byte_of_the_saved_arrays_may_flip(saved, tmp_path, capfd):
    (arrays,) = (saved / "checkpoints" / "latest" / "2" / "state" / "d").iterdir()
    for number, share in enumerate(np.linspace(0, 0.999, 24)):
        assert is_noticed(saved, tmp_path / str(number), arrays, lambda path, share=share: flip(path, share), capfd)


def test_a_damaged_best_is_replaced_by_the_latest_of_the_same_step(saved, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    latest, best = run / "checkpoints" / "latest", run / "checkpoints" / "best"
    shutil.copytree(latest / "1", best / "1")
    shutil.rmtree(best / "1" / "state")
    with Checkpoints(run) as checkpoints:
        restored, history = checkpoints.restore_best(random_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, random_state(1))
    assert history == [{"epoch": 1}]
    assert capfd.readouterr().err.startswith(f"warning: the checkpoint {best}/1 is damaged (")
    shutil.rmtree(latest / "1")
    with (
        Checkpoints(run) as checkpoints,
        pytest.raises(InputError, match=r"best: every checkpoint is damaged; .*, take the latest instead of the best"),
    ):
        checkpoints.restore_best(random_state(0))


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_called_damaged(saved, tmp_path, capfd, monkeypatch):
    run, real = tmp_path / "run", Checkpoints._read
    shutil.copytree(saved, run)
    best = run / "checkpoints" / "best"
    shutil.copytree(saved / "checkpoints" / "latest" / "1", best / "1")

    def read(checkpoints, kind, step, abstract):
        if step == 1:  # what the process that trains does when epoch 2 is better
            shutil.copytree(saved / "checkpoints" / "latest" / "2", best / "2")
            shutil.rmtree(best / "1")
        return real(checkpoints, kind, step, abstract)

    monkeypatch.setattr(Checkpoints, "_read", read)
    capfd.readouterr()
    with Checkpoints(run) as checkpoints:
        restored, _ = checkpoints.restore_best(random_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, random_state(2))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", ["now", "0.1.0"])
def test_losses_that_are_not_finite_come_back_as_nan(version, tmp_path, monkeypatch):
    if version == "0.1.0":  # it wrote the word NaN
        monkeypatch.setattr(checkpoint, "json_value", lambda value: value)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, state(1), [{"epoch": 1, "test_loss": math.nan}])
        checkpoints.wait()
        text = (tmp_path / "checkpoints" / "latest" / "1" / "history" / "metadata").read_text()
        assert ("NaN" in text) == (version == "0.1.0") and "null" in text.replace("NaN", "null")
        _, (record,) = checkpoints.restore_latest(state(0))
    assert record["epoch"] == 1 and math.isnan(record["test_loss"])


@pytest.mark.parametrize("part", ["state", "history"])
def test_half_of_the_newest_checkpoint_may_be_missing(saved, tmp_path, capfd, part):
    shutil.copytree(saved, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "latest" / "2" / part)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(random_state(0))[1] == [{"epoch": 1}]
        assert "is damaged (" in capfd.readouterr().err
        checkpoints.save_latest(2, random_state(2), [{"epoch": 2}])
        checkpoints.close()
        assert checkpoints.restore_latest(random_state(0))[1] == [{"epoch": 2}]


def test_arrays_of_another_checkpoint_are_noticed(saved, tmp_path, capfd):
    """Every file is as Orbax wrote it, and its own checksums hold."""
    shutil.copytree(saved, tmp_path / "run")
    latest = tmp_path / "run" / "checkpoints" / "latest"
    shutil.rmtree(latest / "2" / "state")
    shutil.copytree(latest / "1" / "state", latest / "2" / "state")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(random_state(0))[1] == [{"epoch": 1}]
    assert "is damaged (its SHA-256 is not that of what was saved)" in capfd.readouterr().err


def test_changed_records_are_noticed(saved, tmp_path, capfd):
    (records,) = (saved / "checkpoints" / "latest" / "2" / "history").glob("metadata")

    def change(path):
        text = path.read_text()
        assert '"epoch": 2' in text
        path.write_text(text.replace('"epoch": 2', '"epoch": 3'))

    assert is_noticed(saved, tmp_path / "run", records, change, capfd)


def test_nothing_in_a_checkpoint_is_executed(saved, tmp_path, capfd):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    for number, file in enumerate(path for path in saved.rglob("*") if path.is_file()):
        run = tmp_path / str(number)
        shutil.copytree(saved, run)
        (run / file.relative_to(saved)).write_bytes(pickle.dumps(Attack()))
        with Checkpoints(run) as checkpoints:
            checkpoints.restore_latest(random_state(0))
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Attack()))
    assert (tmp_path / "trace").exists()  # the attack works where a pickle is read


def test_a_checkpoint_that_may_not_be_read_is_neither_damaged_nor_passed_over(saved, tmp_path, capfd):
    run = shutil.copytree(saved, tmp_path / "run")
    closed = sorted(path for path in (run / "checkpoints/latest/2").rglob("*") if path.is_file())[0]
    closed.chmod(0)
    with obeying_permissions(), Checkpoints(run) as checkpoints, pytest.raises(InputError) as error:
        checkpoints.restore_latest(random_state(0))
    assert str(error.value) == f"{closed} cannot be read (Permission denied)"
    assert capfd.readouterr().err == ""
