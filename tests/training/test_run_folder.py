import dataclasses
import fcntl
import json
import math
import shutil
import threading
from pathlib import Path

import filelock
import pytest
from training_fixtures import assert_same_run, made_dataset, made_record

from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import saved_network
from seanet_jax.training import images, run_folder
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder


def test_a_folder_that_cannot_be_written_is_refused(tiny):
    with pytest.raises(InputError, match=r"/proc/nope/run cannot be written \(No such file or directory\)"):
        fit(dataclasses.replace(tiny(), out=Path("/proc/nope/run")))


@pytest.mark.slow
def test_a_second_process_is_refused(tiny):
    config = tiny(epochs=1)
    fit(config)
    with filelock.FileLock(config.out / "lock"), pytest.raises(InputError, match="in use by another process"):
        fit(dataclasses.replace(config, epochs=2, resume=True))
    # A lock file alone, left by a process that died, is no obstacle.
    assert (config.out / "lock").exists() or (config.out / "lock").touch() is None
    fit(dataclasses.replace(config, epochs=2, resume=True))


@pytest.mark.parametrize(
    ("kind", "excludes", "said"),
    [
        ("nfs4", True, "is on a network file system (nfs4), where locks may not keep out other machines and a power"),
        (None, False, "locks no files, so nothing keeps out other processes; start one process per run, or name"),
        (None, True, ""),
    ],
)
def test_a_run_says_at_its_start_that_its_files_may_be_unsafe(kind, excludes, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "network_file_system", lambda path: kind if path.exists() else pytest.fail())
    if not excludes:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with RunFolder(tmp_path / "run").locked(TrainConfig(dataset="digits", out=tmp_path / "run")):
        pass
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == bool(said) and (str(tmp_path / "run") in err) == bool(said)


@pytest.mark.slow
def test_a_new_run_in_a_locked_folder_is_refused(tiny):
    config = tiny()
    config.out.mkdir()
    with filelock.FileLock(config.out / "lock"), pytest.raises(InputError, match="in use by another process"):
        fit(config)
    fit(config)


def test_a_folder_is_in_use_while_another_process_has_its_lock(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.in_use() and not (tmp_path / "lock").exists()
    with filelock.FileLock(tmp_path / "lock"):
        assert folder.in_use()
    (tmp_path / "lock").touch()
    (tmp_path / "lock").chmod(0o444)
    assert not folder.in_use()


def test_one_who_asks_disturbs_neither_another_who_asks_nor_a_start(tmp_path):
    config, folder = TrainConfig(dataset="digits", out=tmp_path), RunFolder(tmp_path)
    with folder.locked(config):
        pass
    with (tmp_path / "lock").open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # what in_use does for a moment
        assert not folder.in_use()
        end = threading.Timer(0.1, asking.close)
        end.start()
        with folder.locked(config):
            assert asking.closed and folder.in_use()
        end.join()


def test_other_images_of_the_same_name_are_refused(tiny, monkeypatch):
    config = tiny(epochs=1)
    fit(config)
    other = images.load("digits", None, False)
    pixels = other.train_images.copy()
    pixels[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(images, "load", lambda name, data_dir, mapped: dataclasses.replace(other, train_images=pixels))
    with pytest.raises(InputError, match="was trained on other images of the name digits"):
        fit(dataclasses.replace(config, epochs=2, resume=True))


@pytest.mark.slow
def test_harmless_changes_are_recorded(tiny):
    config = tiny(epochs=1)
    fit(config)
    fit(dataclasses.replace(config, epochs=2, log_every=7, resume=True))
    (resumed,) = json.loads((config.out / "config.json").read_text())["resumed"]
    assert resumed["step"] == 5
    assert {"epochs: 1 was saved, 2 is asked", "log_every: 50 was saved, 7 is asked"} <= set(resumed["changed"])


@pytest.mark.parametrize(
    "left", [pytest.param("config.json.tmp", marks=pytest.mark.slow), ".config.json-0123456789abcdef.tmp"]
)
def test_a_run_killed_before_it_wrote_anything_is_resumed_by_starting_it(left, tiny, in_peace):
    whole, killed = in_peace(), tiny("killed")
    killed.out.mkdir()
    (killed.out / "lock").touch()
    (killed.out / left).write_text("{")
    fit(dataclasses.replace(killed, resume=True))
    assert_same_run(whole, killed)


def test_starting_over_an_existing_run_is_refused(tiny):
    config = tiny()
    fit(config)
    before = (config.out / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds a run already; --resume"):
        fit(config)
    assert (config.out / "metrics.jsonl").read_bytes() == before


def test_resuming_as_another_run_is_refused(tiny):
    config = tiny()
    fit(config)
    with pytest.raises(InputError, match=r"batch_size: 8 was saved, 4 is asked; seed: 0 was saved, 1 is asked"):
        fit(dataclasses.replace(config, resume=True, batch_size=4, seed=1))


def test_a_folder_with_something_else_in_it_is_refused(tiny):
    config = tiny()
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and not a run"):
        fit(config)
    assert [path.name for path in config.out.iterdir()] == ["thesis.tex"]


def test_nothing_to_resume_is_refused_and_nothing_written(tiny):
    config = tiny(resume=True)
    with pytest.raises(InputError, match="holds no run"):
        fit(config)
    assert not config.out.exists()


@pytest.mark.slow
def test_a_resume_parses_config_json_once_before_the_lock_and_once_under_it(tiny, monkeypatch):
    config = tiny(epochs=1)
    fit(config)
    calls, real = [], ImageSpec.from_json
    monkeypatch.setattr(ImageSpec, "from_json", lambda values: calls.append(1) or real(values))
    fit(dataclasses.replace(config, epochs=2, resume=True))
    assert len(calls) == 2


def test_what_config_json_holds_comes_back(tiny):
    config = tiny(epochs=1)
    fit(config)
    saved, written = RunFolder(config.out).read(), json.loads((config.out / "config.json").read_text())
    assert saved.config == config.to_json() == written["config"]
    assert saved.images == RunFolder(config.out).read_images() == made_dataset().image_spec
    assert saved.data_sha256 == made_dataset().sha256() and saved.resumed == []


def test_records_with_losses_that_are_not_finite_are_json_and_come_back_as_nan(tmp_path):
    folder = RunFolder(tmp_path)
    record = made_record(1, test_loss=math.inf, test_accuracy=0.5)
    folder.append(record)
    line = json.dumps(record).replace("Infinity", "null") + "\n"
    assert "null" in line and (tmp_path / "metrics.jsonl").read_text() == line
    # Version 0.1.0 wrote the word NaN.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(made_record(2, test_loss=math.nan, test_accuracy=0.5)) + "\n")
    for epoch, record in enumerate(folder.read_records(), start=1):
        assert record["epoch"] == epoch and record["test_accuracy"] == 0.5 and math.isnan(record["test_loss"])


def test_a_record_that_is_still_being_written_is_not_read(tmp_path):
    folder = RunFolder(tmp_path)
    record = made_record(1)
    folder.append(record)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "te')
    assert folder.read_records() == [record]


@pytest.mark.parametrize("content", ["[1]", '{"last": 3, "finished": true}', '{"finished": true}', "NaN", "["])
def test_damaged_summaries_and_records_are_no_traceback(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text(content + "\n")
    assert RunFolder(tmp_path).read_summary() is None
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged \(.*\); --resume writes it anew"):
        RunFolder(tmp_path).read_records()


def changed(folder, change):
    about = json.loads((folder / "config.json").read_text())
    change(about)
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        (
            "config",
            "mixout",
            0.2,
            r"/config\.json has the field mixout, which seanet_jax \S+ does not know; use",
        ),
        ("model_config", "depth", 3, r"/config\.json has the field depth, which seanet_jax \S+ does not know"),
        ("images", "depth", 3, r"/config\.json has the field depth, which seanet_jax \S+ does not know"),
        ("model_config", "model_type", "vit", r"/config\.json is of the model_type 'vit'; .*, or one of a plugin"),
        ("config", "dataset", "svhn", r"/config\.json: dataset is 'svhn'; it must be one of"),
        ("config", "batch_size", "ten", r"/config\.json: batch_size is 'ten'; it must be a positive integer"),
        ("config", "model", "vit", r"/config\.json: there is no model 'vit'"),
        ("model_config", "widths", 3, r"/config\.json: widths is 3; it must be"),
    ],
)
def test_a_config_of_another_version_is_one_sentence(in_peace, tiny, tmp_path, part, field, value, message):
    shutil.copy(in_peace().out / "config.json", tmp_path)
    changed(tmp_path, lambda about: about[part].update({field: value}))
    with pytest.raises(InputError, match=message):
        saved_network(tmp_path)
    if part != "model_config":
        with pytest.raises(InputError, match=message if field in ("mixout", "depth") else "holds another run"):
            RunFolder(tmp_path).check(dataclasses.replace(in_peace(), out=tmp_path, resume=True))


def test_the_data_are_where_the_run_found_them_unless_another_folder_is_named(in_peace, tiny, tmp_path):
    shutil.copy(in_peace().out / "config.json", tmp_path)
    (tmp_path / "data").mkdir()
    for own, given, expected in [
        (None, None, None),
        (str(tmp_path / "data"), None, tmp_path / "data"),
        (str(tmp_path / "data"), "elsewhere", Path("elsewhere")),
        (str(tmp_path / "gone"), None, None),  # a run that was copied from another machine
        ("gs://bucket/data", None, None),
    ]:
        changed(tmp_path, lambda about, own=own: about["config"].update(data_dir=own, out="gs://bucket/run"))
        config = RunFolder(tmp_path).read_config(given)
        assert (config.data_dir, config.out, config.resume) == (expected, None, False)
    assert dataclasses.replace(config, out=in_peace().out) == in_peace()
