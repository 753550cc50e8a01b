import dataclasses
import functools
import json
import math
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_fixtures import made_dataset, read_points, records

from seanet_jax.errors import InputError
from seanet_jax.inference.trained import load_model
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.loop import Loop, TrainingDivergedError
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run import fit
from seanet_jax.training.step import Metrics, create_state
from seanet_jax.training.trainer import Evaluation, Trainer, loss_and_accuracy

STEPS_PER_EPOCH = 5  # 40 images in batches of 8


def final_state(config):
    model = load_model(config.out, "latest")
    template = create_state(model, optimizer(config, STEPS_PER_EPOCH))
    with Checkpoints(config.out) as checkpoints:
        return checkpoints.restore_latest(template)


def assert_same_run(one, other):
    assert records(one.out) == records(other.out)
    (state, history), (other_state, other_history) = final_state(one), final_state(other)
    assert len(history) == len(other_history)
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


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
    assert {path.name for path in (config.out / "checkpoints").iterdir()} == {"latest", "best"}


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


def test_tensorboard_has_a_point_per_epoch(tiny):
    config = tiny()
    fit(config)
    points = read_points(config.out)
    for record in records(config.out):
        assert points["accuracy/test", record["step"]] == pytest.approx(record["test_accuracy"])
        assert points["loss/train", record["step"]] == pytest.approx(record["train_loss"])


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tiny):
    one, again, other = tiny("one"), tiny("again"), tiny("other", seed=1)
    for config in (one, again, other):
        fit(config)
    assert_same_run(one, again)
    assert records(one.out) != records(other.out)


@pytest.mark.parametrize("stop", [2, STEPS_PER_EPOCH, 8])
def test_a_resumed_run_equals_one_never_stopped(tiny, stop):
    whole, parts = tiny("whole"), tiny("parts", max_steps=stop)
    fit(whole)
    stopped = fit(parts)
    assert not stopped["finished"] and stopped["last"]["step"] == stop
    resumed = fit(dataclasses.replace(parts, max_steps=None, resume=True))
    assert resumed["finished"]
    assert_same_run(whole, parts)


def test_a_stop_inside_an_epoch_is_recorded_until_the_epoch_is_whole(tiny):
    config = tiny(max_steps=7)
    fit(config)
    assert [line["epoch"] for line in records(config.out)] == [1, 1.4]
    fit(dataclasses.replace(config, max_steps=None, resume=True))
    assert [line["epoch"] for line in records(config.out)] == [1, 2, 3]


@pytest.mark.slow
def test_every_epoch_has_an_order_of_its_own_also_after_a_stop(tiny, monkeypatch):
    seen = []

    def order(trainer, epoch):
        seen.append((epoch, tuple(np.asarray(real(trainer, epoch)))))
        return real(trainer, epoch)

    real = Trainer.order
    monkeypatch.setattr(Trainer, "order", order)
    fit(tiny(max_steps=7))
    fit(tiny(resume=True))
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert len({order for _, order in seen}) == 3
    assert len(set(seen)) == 3  # epoch 1, begun before the stop, keeps its order after it


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
    for kind in ("latest", "best"):
        shutil.rmtree(tiny("long").out / "checkpoints" / kind / "15", ignore_errors=True)
    (state, history), (expected, expected_history) = final_state(tiny("long")), final_state(tiny("short"))
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


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tiny):
    config = tiny(batch_size=41)
    with pytest.raises(InputError, match="batch_size is 41; it must be at most 40"):
        fit(config)
    assert not config.out.exists()


def test_a_diverging_loss_stops_the_run_and_keeps_the_last_checkpoint(tiny):
    config = tiny(epochs=1)
    fit(config)
    before = final_state(config)
    # The published schedule cannot diverge here, so the saved state is damaged instead.
    with Checkpoints(config.out) as checkpoints:
        state, history = before
        wild = jax.tree.map(lambda p: p * np.float32("inf"), state.params)
        checkpoints.save_latest(6, state._replace(step=state.step + 1, params=wild), history)
    with pytest.raises(TrainingDivergedError, match=r"loss is nan in epoch 2 at step 7, learning rate 0\.05"):
        fit(dataclasses.replace(config, epochs=2, resume=True))


def test_the_step_that_diverged_is_named_though_steps_are_looked_at_together():
    steps = [(step, Metrics(jnp.float32(loss), jnp.int32(0), jnp.int32(8))) for step, loss in ((11, 1), (12, "inf"))]
    steps.append((13, Metrics(jnp.float32("nan"), jnp.int32(0), jnp.int32(8))))
    trainer = SimpleNamespace(
        steps_per_epoch=10, learning_rate=lambda step: step / 100, config=SimpleNamespace(on_nan="stop")
    )
    loop = SimpleNamespace(_trainer=trainer)
    loop._diverged = functools.partial(Loop._diverged, loop)
    with pytest.raises(TrainingDivergedError, match=r"loss is inf in epoch 2 at step 12, learning rate 0\.11"):
        Loop._report(loop, steps)


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


def test_best_is_the_first_of_the_highest(tiny):
    config = tiny()
    summary = fit(config)
    accuracies = [line["test_accuracy"] for line in records(config.out)]
    assert summary["best"]["epoch"] == accuracies.index(max(accuracies)) + 1
    (best,) = (config.out / "checkpoints" / "best").iterdir()
    assert int(best.name) == summary["best"]["step"]


def test_the_end_inside_an_epoch_is_best_only_where_no_epoch_is_whole(tiny, monkeypatch):
    accuracies = {5: 0.5, 7: 0.9, 3: 0.4}
    monkeypatch.setattr(Evaluation, "__call__", lambda evaluation, state, stop: (1.0, accuracies[int(state.step)]))
    for name, stop, expected in (("after one", 7, 5), ("before any", 3, 3)):
        config = tiny(name, max_steps=stop)
        assert fit(config)["best"]["step"] == expected
        assert [path.name for path in (config.out / "checkpoints" / "best").iterdir()] == [str(expected)]


def test_load_model_names_what_is_missing(tiny, tmp_path):
    with pytest.raises(InputError, match="which is 'newest'"):
        load_model(tmp_path, "newest")
    with pytest.raises(InputError, match="holds no run"):
        load_model(tmp_path)
