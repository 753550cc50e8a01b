import json
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

from seanet_jax.errors import InputError, RunError
from seanet_jax.training import checkpoint, sharding
from seanet_jax.training.checkpoint import Checkpoints


def state(value):
    return {"weights": jnp.full((3, 2), value), "step": jnp.int32(value)}


def records(*accuracies):
    """Records of epochs of one step."""
    return [{"epoch": n, "step": n, "test_accuracy": accuracy} for n, accuracy in enumerate(accuracies, 1)]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_newest_comes_back_with_its_history(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.exist()
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), records(*range(step)))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.exist()
        restored, history = checkpoints.restore_latest(state(0))
    assert history == records(0, 1, 2)
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))


def test_the_two_newest_are_kept_and_the_best_at_each_of_them(tmp_path):
    accuracies, kept = (0.1, 0.5, 0.3, 0.2, 0.6, 0.1, 0.1), []
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, state(step), records(*accuracies[:step]))
            checkpoints.wait()
            kept.append([int(name) for name in names(tmp_path)])
        assert checkpoints.restore_best(state(0))[0]["step"] == 5
        assert checkpoints.restore_latest(state(0))[0]["step"] == 7
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [5, 6, 7]]


def test_if_the_newest_is_the_best_and_damaged_the_best_before_it_is_there(tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        for step, accuracies in enumerate(((0.5,), (0.5, 0.1), (0.5, 0.1, 0.2), (0.5, 0.1, 0.2, 0.9)), 1):
            checkpoints.save(step, state(step), records(*accuracies))
        checkpoints.wait()
        assert checkpoints.restore_best(state(0))[0]["step"] == 4
        (tmp_path / "checkpoints/4/complete").write_text("{}")
        restored, history = checkpoints.restore_latest(state(0))
        assert restored["step"] == 3
        checkpoints.save(3, restored, history)
        checkpoints.wait()
        assert checkpoints.restore_best(state(0))[0]["step"] == 1
    assert names(tmp_path) == ["1", "3"]


def test_without_an_epoch_the_newest_is_the_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), [{"step": step, "seconds": 1.0}])
        assert checkpoints.restore_best(state(0))[0]["step"] == 3
    assert names(tmp_path) == ["2", "3"]


def test_it_is_on_disk_and_marked_before_what_it_replaces_is_deleted(tmp_path, monkeypatch):
    events = []

    def watch(name):
        real = getattr(checkpoint.durable, name)

        def watched(path, *content):
            real(path, *content)
            events.append((name, str(path.relative_to(tmp_path)), names(tmp_path)))

        monkeypatch.setattr(checkpoint.durable, name, watched)

    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), records(*range(step)))
        checkpoints.wait()
        for name in ("sync_tree", "sync_folder", "write_whole"):
            watch(name)
        checkpoints.save(3, state(3), records(0, 1, 2))
    # The others are of the folder itself, which the first and the last synchronize.
    assert [event for event in events if event[:2] != ("sync_folder", "checkpoints/3")] == [
        ("sync_tree", "checkpoints/3", ["1", "2", "3"]),
        ("sync_folder", "checkpoints", ["1", "2", "3"]),
        ("write_whole", "checkpoints/3/complete", ["1", "2", "3"]),
    ]
    assert names(tmp_path) == ["2", "3"]


def test_what_was_never_completed_does_not_count_and_is_deleted(tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), records(*range(step)))
    (tmp_path / "checkpoints/2/complete").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state(0))[0]["step"] == 1
        assert checkpoints.restore_best(state(0))[0]["step"] == 1
        assert names(tmp_path) == ["1", "2"]  # a reader deletes nothing: another process may be writing it
        checkpoints.save(3, state(3), records(0, 1, 2))
    assert names(tmp_path) == ["1", "3"]
    assert capfd.readouterr().err == ""


def test_one_of_the_same_step_counts_until_its_replacement_is_complete(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), records(0.5)[:0])
        checkpoints.close()

        def cut(path):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.durable, "sync_tree", cut)
            checkpoints.save(1, state(1), records(0.5))
            with pytest.raises(RunError, match="No space left on device"):
                checkpoints.wait()
        assert names(tmp_path) == ["1", "1.previous"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state(0))[1] == []
        for _ in range(2):
            checkpoints.save(1, state(1), records(0.5))
            checkpoints.wait()
            assert names(tmp_path) == ["1"]
            assert checkpoints.restore_latest(state(0))[1] == records(0.5)


def as_version_0_1_0(folder, **steps):
    """Moves checkpoints to where version 0.1.0 wrote them. It wrote the SHA-256 beside the records."""
    for kind, moved in steps.items():
        for step in moved:
            target = folder / "checkpoints" / kind / str(step)
            shutil.copytree(folder / "checkpoints" / str(step), target)
            sha256 = json.loads((target / "complete").read_text())["sha256"]
            (target / "complete").unlink()
            history = target / "history" / "metadata"
            history.write_text(json.dumps(json.loads(history.read_text()) | {"sha256": sha256}))
    for name in names(folder):
        if name.isdigit():
            shutil.rmtree(folder / "checkpoints" / name)


def test_those_of_version_0_1_0_are_read_and_deleted_when_newer_ones_replace_them(tmp_path):
    accuracies = (0.5, 0.1, 0.2, 0.3, 0.4, 0.6)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), records(*accuracies[:step]))
    as_version_0_1_0(tmp_path, latest=(2, 3), best=(1,))
    kept = []
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.exist()
        assert checkpoints.restore_best(state(0))[0]["step"] == 1
        assert checkpoints.restore_latest(state(0))[1] == records(*accuracies[:3])
        for step in (4, 5, 6, 7):
            checkpoints.save(step, state(step), records(*accuracies[:step]))
            checkpoints.wait()
            found = (tmp_path / "checkpoints").glob("**/history")
            kept.append(sorted(str(path.parent.relative_to(tmp_path / "checkpoints")) for path in found))
            best = checkpoints.restore_best(state(0))[0]["step"]
            assert best == (1 if step < 6 else 6)
    assert kept == [["4", "best/1", "latest/3"], ["4", "5", "best/1"], ["5", "6", "best/1"], ["6", "7"]]
    assert names(tmp_path) == ["6", "7"]


def test_arrays_come_back_where_the_template_lies(tmp_path):
    placement = sharding.replicated(sharding.make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), [])
        restored, _ = checkpoints.restore_latest(jax.device_put(state(0), placement))
    assert restored["weights"].sharding == placement


def test_a_state_may_be_donated_once_saving_returns(tmp_path):
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)
    current = {"weights": jnp.ones((2000, 1000)), "step": jnp.int32(1)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            # Writing goes on in the background while the buffers are overwritten.
            checkpoints.save(step, current, [])
            current = double(current)
        restored, _ = checkpoints.restore_latest(current)
    assert restored["step"] == 4
    assert (restored["weights"] == 4).all()


def test_no_checkpoint_is_a_clear_error_and_makes_no_folder(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"checkpoints: there is no checkpoint; train first"),
    ):
        checkpoints.restore_latest(state(0))
    assert list(tmp_path.iterdir()) == []


def random_state(value):
    # Random, so that compression leaves no byte without a meaning.
    return {"weights": jax.random.normal(jax.random.key(value), (60, 50)), "step": jnp.int32(value)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with two checkpoints, of which the first is the best."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, random_state(step), records(0.5, 0.1)[:step])
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
    # What is not complete does not count, which is no damage.
    assert (step == 1) == bool(warning) or not (run / "checkpoints/2/complete").exists()
    if warning:
        assert warning.startswith(f"warning: the checkpoint {run}/checkpoints/2 is damaged (")
        assert warning.count("\n") == 1 and len(warning) < 400
    return step == 1


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_any_file_of_the_newest_checkpoint_may_be_damaged(saved, tmp_path, capfd, attack):
    newest = saved / "checkpoints" / "2"
    files = [path for path in newest.rglob("*") if path.is_file()]
    noticed = {
        str(file.relative_to(newest))
        for number, file in enumerate(files)
        if is_noticed(saved, tmp_path / str(number), file, ATTACKS[attack], capfd)
    }
    # Orbax writes files too that nothing is read from. These hold the records, the arrays, and where they are.
    (arrays,) = (str(path.relative_to(newest)) for path in (newest / "state" / "d").iterdir())
    assert {"complete", "history/metadata", "state/manifest.ocdbt", arrays} <= noticed


@pytest.mark.slow
def test_any_byte_of_the_saved_arrays_may_flip(saved, tmp_path, capfd):
    (arrays,) = (saved / "checkpoints" / "2" / "state" / "d").iterdir()
    for number, share in enumerate(np.linspace(0, 0.999, 24)):
        assert is_noticed(saved, tmp_path / str(number), arrays, lambda path, share=share: flip(path, share), capfd)


def test_a_damaged_best_is_replaced_by_the_latest_of_the_same_step(saved, tmp_path, capfd):
    run = shutil.copytree(saved, tmp_path / "run")
    as_version_0_1_0(run, latest=(1, 2), best=(1,))
    latest, best = run / "checkpoints" / "latest", run / "checkpoints" / "best"
    shutil.rmtree(best / "1" / "state")
    with Checkpoints(run) as checkpoints:
        restored, history = checkpoints.restore_best(random_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, random_state(1))
    assert history == records(0.5)
    assert capfd.readouterr().err.startswith(f"warning: the checkpoint {best}/1 is damaged (")
    shutil.rmtree(latest / "1")
    with (
        Checkpoints(run) as checkpoints,
        pytest.raises(InputError, match=r"the best checkpoint is damaged or gone; .*, take the latest instead"),
    ):
        checkpoints.restore_best(random_state(0))


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_called_damaged(saved, tmp_path, capfd, monkeypatch):
    run, real = shutil.copytree(saved, tmp_path / "run"), Checkpoints._read
    folder = run / "checkpoints"
    (folder / "2").rename(tmp_path / "2")

    def read(checkpoints, path, abstract):
        if path.name == "1":  # what the process that trains does when epoch 2 is better
            (tmp_path / "2").rename(folder / "2")
            shutil.rmtree(folder / "1")
        return real(checkpoints, path, abstract)

    monkeypatch.setattr(Checkpoints, "_read", read)
    history = tmp_path / "2" / "history" / "metadata"
    better = json.loads(history.read_text())["epochs"]
    better[1]["test_accuracy"] = 0.9
    history.write_text(json.dumps({"epochs": better}))
    marker = {"sha256": checkpoint._sha256(random_state(2), better)}
    (tmp_path / "2" / "complete").write_text(json.dumps(marker))
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
        checkpoints.save(1, state(1), [records(0.5)[0] | {"test_loss": math.nan}])
        checkpoints.wait()
        text = (tmp_path / "checkpoints" / "1" / "history" / "metadata").read_text()
        assert ("NaN" in text) == (version == "0.1.0") and "null" in text.replace("NaN", "null")
        _, (record,) = checkpoints.restore_latest(state(0))
    assert record["epoch"] == 1 and math.isnan(record["test_loss"])


@pytest.mark.parametrize("part", ["state", "history"])
def test_half_of_the_newest_checkpoint_may_be_missing(saved, tmp_path, capfd, part):
    shutil.copytree(saved, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2" / part)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(random_state(0))[1] == records(0.5)
        assert "is damaged (" in capfd.readouterr().err
        checkpoints.save(2, random_state(2), records(0.5, 0.1))
        checkpoints.close()
        assert checkpoints.restore_latest(random_state(0))[1] == records(0.5, 0.1)


def test_arrays_of_another_checkpoint_are_noticed(saved, tmp_path, capfd):
    """Every file is as Orbax wrote it, and its own checksums hold."""
    shutil.copytree(saved, tmp_path / "run")
    latest = tmp_path / "run" / "checkpoints"
    shutil.rmtree(latest / "2" / "state")
    shutil.copytree(latest / "1" / "state", latest / "2" / "state")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore_latest(random_state(0))[1] == records(0.5)
    assert "is damaged (its SHA-256 is not that of what was saved)" in capfd.readouterr().err


def test_changed_records_are_noticed(saved, tmp_path, capfd):
    (records,) = (saved / "checkpoints" / "2" / "history").glob("metadata")

    def change(path):
        text = path.read_text()
        assert '"epoch": 2' in text
        path.write_text(text.replace('"epoch": 2', '"epoch": 3'))

    assert is_noticed(saved, tmp_path / "run", records, change, capfd)


@pytest.mark.slow
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
    closed = sorted(path for path in (run / "checkpoints/2").rglob("*") if path.is_file())[0]
    closed.chmod(0)
    with obeying_permissions(), Checkpoints(run) as checkpoints, pytest.raises(InputError) as error:
        checkpoints.restore_latest(random_state(0))
    assert str(error.value) == f"{closed} cannot be read (Permission denied)"
    assert capfd.readouterr().err == ""
