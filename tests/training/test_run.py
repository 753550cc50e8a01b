import dataclasses
import json
import math
import shutil
import signal

import jax
import numpy as np
import pytest
from training_fixtures import assert_same_run, made_dataset, newest, one_second_per_step, raise_at, read_points, records

from seanet_jax.errors import InputError
from seanet_jax.inference.trained import load_model
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.interrupt import StoppedError
from seanet_jax.training.loop import Loop
from seanet_jax.training.run import _compiling, fit
from seanet_jax.training.trainer import Evaluation

STEPS_PER_EPOCH = 5  # 40 images in batches of 8


def test_a_run_learns_and_leaves_a_complete_folder(tiny):
    config = tiny()
    summary = fit(config)
    assert summary["last"]["test_accuracy"] == 1.0
    assert summary["last"]["train_loss"] < 0.5 * math.log(2)
    names = {path.name for path in config.out.iterdir()}
    expected = {"config.json", "metrics.jsonl", "summary.json", "curves.png", "tensorboard", "checkpoints", "lock"}
    assert names == expected
    assert json.loads((config.out / "summary.json").read_text()) == summary
    assert {"finished", "last", "best", "parameters", "seed", "versions", "device"} <= summary.keys()
    assert summary["finished"] and summary["versions"]["jax"] == jax.__version__
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    saved = {int(path.name) for path in (config.out / "checkpoints").iterdir()}
    assert {summary["last"]["step"], summary["best"]["step"]} <= saved <= {5, 10, 15}


def test_records_hold_each_epoch_once(tiny):
    config = tiny()
    fit(config)
    lines = records(config.out, timing=True)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [5, 10, 15]
    assert [line["learning_rate"] for line in lines] == [0.05, 0.05, 0.005]
    for line in lines:
        assert line["images_per_second"] > 0 and line["seconds"] > 0
        # 40 training images make five batches, and each of the 23 test images counts once.
        assert (line["train_accuracy"] * 40).is_integer()
        assert line["test_accuracy"] * 23 == pytest.approx(round(line["test_accuracy"] * 23))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tiny):
    one, again, other = tiny("one"), tiny("again"), tiny("other", seed=1)
    for config in (one, again, other):
        fit(config)
    assert_same_run(one, again)
    assert records(one.out) != records(other.out)


@pytest.mark.parametrize("stop", [STEPS_PER_EPOCH, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (2, 8))])
def test_a_resumed_run_equals_one_never_stopped(tiny, stop):
    whole, parts = tiny("whole"), tiny("parts", max_steps=stop)
    fit(whole)
    stopped = fit(parts)
    assert not stopped["finished"] and stopped["last"]["step"] == stop
    resumed = fit(dataclasses.replace(parts, max_steps=None, resume=True))
    assert resumed["finished"]
    assert_same_run(whole, parts)


def evaluated(config):
    return ["test_accuracy" in line for line in records(config.out)]


@pytest.mark.slow
def test_only_some_epochs_are_evaluated_and_the_rest_is_the_same(tiny, in_peace, capsys):
    config, every = tiny(eval_every=2), in_peace()
    capsys.readouterr()
    summary = fit(config)
    assert evaluated(config) == [False, True, True]  # the last one always
    assert [line | more for line, more in zip(records(config.out), records(every.out), strict=True)] == records(
        every.out
    )
    jax.tree.map(np.testing.assert_array_equal, newest(config.out)[0], newest(every.out)[0])
    assert summary["best"]["epoch"] in (2, 3) and summary["last"]["epoch"] == 3
    told = capsys.readouterr().out
    assert "epoch 1/3, lr 0.05, train loss" in told and told.count("test loss") == 2
    tags = {tag for tag, step in read_points(config.out) if step == STEPS_PER_EPOCH}
    assert "loss/train" in tags and "loss/test" not in tags


@pytest.mark.slow
@pytest.mark.parametrize("stop", [((Loop, "_report"), 2), ((Evaluation, "__call__"), 1), ((Loop, "_end_epoch"), 1)])
def test_a_run_that_evaluates_some_epochs_resumes_bit_for_bit(tiny, monkeypatch, stop):
    whole, parts = tiny("whole", eval_every=2), tiny("parts", eval_every=2, checkpoint_steps=2)
    fit(whole)
    with monkeypatch.context() as patch:
        raise_at(patch, *stop, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(parts)
    fit(dataclasses.replace(parts, resume=True))
    assert_same_run(whole, parts)
    fit(tiny("whole", eval_every=1, epochs=4, resume=True))  # how often it is evaluated makes no other run
    assert evaluated(whole) == [False, True, True, True]


@pytest.mark.slow
def test_a_run_that_is_shortened_to_an_epoch_without_evaluation_evaluates_it(tiny, in_peace, monkeypatch):
    config = tiny(eval_every=2)
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_end_epoch"), 1, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    assert evaluated(config) == [False]
    summary = fit(dataclasses.replace(config, epochs=1, resume=True))
    assert summary["finished"] and records(config.out) == records(in_peace().out)[:1]


@pytest.mark.slow
def test_a_run_stopped_early_counts_evaluations(tiny):
    config = tiny(epochs=12, eval_every=2, patience=1, validation_fraction=0.2, learning_rate=1e-30)
    summary = fit(config)
    assert summary["stopped_early"] and summary["last"]["epoch"] == 4 and summary["best"]["epoch"] == 2


def test_a_run_says_what_it_waits_for_and_what_took_the_time(tiny, tmp_path, capsys):
    fit(tiny(max_steps=1))
    told = capsys.readouterr().out
    assert "\ncompiling, which takes about 20 to 60 s" in told
    assert told.splitlines()[-1].startswith("it took ") and "everything is in" in told
    before, kept = jax.config.values["jax_compilation_cache_dir"], tmp_path / "kept"
    kept.mkdir()
    told = []
    try:
        for folder, file in ((None, None), (kept, None), (kept, "jit_train_step-0a-cache"), ("gs://bucket", None)):
            jax.config.update("jax_compilation_cache_dir", folder and str(folder))
            if file:
                (kept / file).touch()
            told.append(_compiling().removeprefix("compiling, which takes about 20 to 60 s"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    known = ", or a few seconds if it was compiled before"
    assert told == [
        " at every start, as what is compiled is not kept",
        " the first time; it is kept for the next start",
        *(known, known),
    ]


@pytest.mark.slow
def test_the_time_of_a_run_is_told_by_part_and_includes_all_its_processes(tiny, monkeypatch):
    config = tiny(checkpoint_steps=2)
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    before = newest(config.out)[1][-1]
    assert before["compiling_seconds"] > 0 and before["total_seconds"] > before["compiling_seconds"]
    summary = fit(dataclasses.replace(config, resume=True))
    first, *others = records(config.out, timing=True)
    assert first["compiling_seconds"] > before["compiling_seconds"]
    assert first["total_seconds"] > before["total_seconds"]
    assert all("compiling_seconds" not in record and record["evaluation_seconds"] > 0 for record in others)
    spent = summary["time"]
    assert set(spent) == {"training", "evaluation", "compiling", "saving", "other", "total"}
    assert spent["training"] == pytest.approx(summary["training_seconds"])
    assert spent["total"] == pytest.approx(sum(seconds for part, seconds in spent.items() if part != "total"), abs=0.01)
    assert spent["total"] > sum(record["total_seconds"] for record in (first, *others)) - 0.01


@pytest.mark.slow
def test_a_summary_says_where_the_run_comes_from(tiny, monkeypatch):
    times = iter([f"2026-05-31T14:0{minute}:00Z" for minute in range(9)])
    monkeypatch.setattr("seanet_jax.provenance.now", lambda: next(times))
    monkeypatch.setenv("HOME", "/home/ada")
    config = tiny(max_steps=5)
    found = fit(config, command="seanet train --out /home/ada/run")["provenance"]
    assert (found["started"], found["ended"]) == ("2026-05-31T14:00:00Z", "2026-05-31T14:01:00Z")
    assert found["command"] == "seanet train --out ~/run"
    resumed = fit(dataclasses.replace(config, max_steps=None, resume=True), command="seanet train --resume run")
    found = resumed["provenance"]
    assert (found["started"], found["ended"]) == ("2026-05-31T14:00:00Z", "2026-05-31T14:03:00Z")
    assert found["command"] == "seanet train --resume run"
    assert json.loads((config.out / "config.json").read_text())["started"] == "2026-05-31T14:00:00Z"


@pytest.mark.slow
def test_a_function_is_called_after_each_epoch_and_may_end_the_run(tiny, in_peace, capsys):
    config, seen = tiny(), []
    summary = fit(config, after_epoch=lambda record: seen.append(record) or record["epoch"] == 2)
    assert [(record["epoch"], record["test_accuracy"]) for record in seen] == [
        (line["epoch"], line["test_accuracy"]) for line in records(in_peace().out)[:2]
    ]
    assert seen[0]["seconds"] > 0
    assert (summary["finished"], summary["stopped_early"], summary["stopped_by"]) == (True, True, "after_epoch")
    assert summary["last"]["epoch"] == 2
    assert "stopped early: the function after_epoch asked for it\n" in capsys.readouterr().out
    # A resumed run goes on, and what the function does to the records is its own affair.
    summary = fit(dataclasses.replace(config, resume=True), after_epoch=dict.clear)
    assert summary["stopped_by"] is None and summary["last"]["epoch"] == 3
    assert_same_run(config, in_peace())


def test_an_epoch_that_ends_a_run_is_evaluated(tiny):
    config = tiny(eval_every=3)
    summary = fit(config, after_epoch=lambda record: "test_accuracy" not in record and record["epoch"] == 2)
    assert evaluated(config) == [False, True]
    assert summary["best"] == summary["last"] and summary["last"]["epoch"] == 2
    with pytest.raises(InputError, match="after_epoch is 3; it must be a function of a record, or None"):
        fit(config, after_epoch=3)


@pytest.mark.slow
def test_a_stop_inside_an_epoch_is_recorded_until_the_epoch_is_whole(tiny):
    config = tiny(max_steps=7)
    fit(config)
    assert [line["epoch"] for line in records(config.out)] == [1, 1.4]
    fit(dataclasses.replace(config, max_steps=None, resume=True))
    assert [line["epoch"] for line in records(config.out)] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "call"),
    [((Loop, "_report"), 2), ((Evaluation, "__call__"), 2), ((Loop, "_end_epoch"), 3)],
    ids=["inside an epoch", "before its evaluation", "after the last epoch"],
)
def test_the_times_of_a_stopped_run_are_those_of_all_its_processes(tiny, monkeypatch, place, call):
    one_second_per_step(monkeypatch)
    config = tiny(checkpoint_steps=2)
    with monkeypatch.context() as patch:
        raise_at(patch, place, call, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    summary = fit(dataclasses.replace(config, resume=True))
    assert [line["seconds"] for line in records(config.out, timing=True)] == [5, 5, 5]
    assert {line["images_per_second"] for line in records(config.out, timing=True)} == {8}
    assert summary["training_seconds"] == 15


@pytest.mark.slow
def test_the_time_of_an_epoch_is_that_of_all_stops_inside_it(tiny, monkeypatch):
    one_second_per_step(monkeypatch)
    assert fit(tiny(max_steps=7))["training_seconds"] == 7
    assert fit(tiny(max_steps=8, resume=True))["training_seconds"] == 8
    assert fit(tiny(max_steps=8, resume=True))["training_seconds"] == 8
    assert fit(tiny(resume=True))["training_seconds"] == 15


@pytest.mark.slow
def test_a_checkpoint_of_a_version_that_saved_no_times_is_continued(tiny, monkeypatch):
    one_second_per_step(monkeypatch)
    config, real = tiny(checkpoint_steps=2), Checkpoints.save

    def save(checkpoints, step, state, history):
        real(checkpoints, step, state, [record for record in history if "epoch" in record])

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    (step,) = [int(path.name) for path in (config.out / "checkpoints").iterdir()]
    assert 0 < step < 5
    assert fit(dataclasses.replace(config, resume=True))["training_seconds"] == 15 - step


@pytest.mark.slow
def test_more_epochs_continue_a_finished_run(tiny):
    fit(tiny("long", epochs=4))
    fit(tiny("short", epochs=2))
    fit(tiny("short", epochs=4, resume=True))
    assert_same_run(tiny("long", epochs=4), tiny("short", epochs=4))


@pytest.mark.slow
def test_a_checkpoint_holds_its_own_step_though_training_went_on(tiny):
    fit(tiny("long", epochs=3))
    fit(tiny("short", epochs=2))
    shutil.rmtree(tiny("long").out / "checkpoints" / "15")
    (state, history), (expected, expected_history) = newest(tiny("long").out), newest(tiny("short").out)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert len(history) == len(expected_history) == 2


def test_resuming_a_finished_run_changes_nothing(tiny, capsys):
    config = tiny()
    summary = fit(config)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    assert fit(dataclasses.replace(config, resume=True)) == summary
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_at_its_beginning(tiny, capsys):
    whole, killed = tiny("whole"), tiny("killed")
    fit(whole)
    killed.out.mkdir()
    (killed.out / "config.json").write_text((whole.out / "config.json").read_text())
    fit(dataclasses.replace(killed, resume=True))
    assert "at step 0\n" in capsys.readouterr().out
    assert_same_run(whole, killed)


@pytest.mark.slow
def test_the_saved_networks_have_the_recorded_accuracy(tiny):
    config = tiny(learning_rate=0.3)
    summary = fit(config)
    data = made_dataset()
    spec = data.image_spec
    images = (data.test_images / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    for which, record in (("best", summary["best"]), ("latest", summary["last"])):
        predicted = load_model(config.out, which)(images.astype(np.float32)).argmax(-1)
        assert np.mean(np.asarray(predicted) == data.test_labels) == pytest.approx(record["test_accuracy"])


def test_load_model_names_what_is_missing(tiny, tmp_path):
    with pytest.raises(InputError, match="which is 'newest'"):
        load_model(tmp_path, "newest")
    with pytest.raises(InputError, match="holds no run"):
        load_model(tmp_path)


def test_fewer_steps_than_were_done_are_refused(tiny, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        patch.setattr("seanet_jax.training.loop._SECONDS_BETWEEN_REPORTS", 0)
        with pytest.raises(StoppedError):
            fit(config)
    with pytest.raises(InputError, match=r"at step [2-4] already; ask for more than 1 steps"):
        fit(dataclasses.replace(config, max_steps=1, resume=True))
