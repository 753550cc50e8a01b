"""Which runs a study trains, in which order, and what it does with those that are there already."""

import concurrent.futures
import dataclasses
import json
import shutil
import threading
from pathlib import Path

import filelock
import pytest
from training_fixtures import made_record, made_summary

from seanet_jax.errors import InputError
from seanet_jax.studies import study as module
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.loop import TrainingDivergedError
from seanet_jax.version import __version__

BASE = TrainConfig(dataset="digits", model="resnet20", epochs=2, validation_fraction=0.2)
VARIANTS = {"plain": {"model": "resnet20"}, "sum": {"model": "seanet20_small"}}
# Validation accuracies after the last epoch: plain learns best at 0.1, sum at 0.02.
VAL = {("plain", 0.1): 0.8, ("plain", 0.02): 0.7, ("sum", 0.1): 0.3, ("sum", 0.02): 0.6}


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study", BASE, VARIANTS, seeds=3, learning_rates=(0.1, 0.02))


@pytest.fixture
def trained(monkeypatch, study):
    """Runs that were trained, in order: in place of ``fit``, which writes what a run leaves."""
    order = []

    def fit(config, compiler_options, command=""):
        order.append(config.out.name)
        leave_run(study, config)

    monkeypatch.setattr("seanet_jax.studies.study.fit", fit)
    return order


def leave_run(study, config, epochs=2):
    variant = config.out.name.split("-")[0]
    about = {"config": config.to_json(), "model_config": {}, "data_sha256": "", "resumed": []}
    accuracies = {"test_accuracy": 0.5, "val_accuracy": VAL[variant, config.learning_rate]}
    records = [made_record(epoch, **accuracies) for epoch in range(1, epochs + 1)]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "config.json").write_text(json.dumps(about))
    (config.out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = made_summary(records, finished=epochs == config.epochs)
    (config.out / "summary.json").write_text(json.dumps(summary))


def test_seed_0_of_every_rate_comes_first_and_further_seeds_are_trained_at_the_best_rate_alone(study, trained):
    study.run()
    assert trained[:4] == ["plain-lr0.1-seed0", "plain-lr0.02-seed0", "sum-lr0.1-seed0", "sum-lr0.02-seed0"]
    assert trained[4:] == ["plain-lr0.1-seed1", "sum-lr0.02-seed1", "plain-lr0.1-seed2", "sum-lr0.02-seed2"]
    assert (study.chosen_rate("plain"), study.chosen_rate("sum")) == (0.1, 0.02)
    assert sorted(study.results("sum")) == [0, 1, 2]


def test_each_run_is_told_with_its_number_and_the_time_that_is_left(study, trained, capsys):
    study.run()
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training ")]
    # A run takes a second for its two epochs.
    assert told[:2] == [
        "training plain-lr0.1-seed0: run 1 of 8",
        "training plain-lr0.02-seed0: run 2 of 8, about 7 s left",
    ]
    assert told[-1] == "training sum-lr0.02-seed2: run 8 of 8, about 1 s left"


def test_the_time_left_is_that_of_the_same_network_and_shared_by_processes(study, trained):
    leave_run(study, study.config(Run("plain", 0.1, 0)))
    leave_run(study, study.config(Run("plain", 0.02, 0)))
    assert study.progress() == "run 3 of 8, about 6 s left"
    leave_run(study, study.config(Run("sum", 0.1, 0)))
    path = study.folder / "sum-lr0.1-seed0" / "summary.json"
    parts = {"training": 40.0, "evaluation": 50.0, "compiling": 9.0, "saving": 1.0, "other": 0.0}
    spent = {**parts, "total": 100.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": spent}))
    assert study.progress() == "run 4 of 8, about 5 min 02 s left"  # 3 of sum and 2 of plain
    assert study.progress(others=1) == "run 4 of 8, about 2 min 31 s left"
    (study.folder / "sum-lr0.02-seed0").mkdir()
    for rate in (0.1, 0.02):
        shutil.rmtree(study.folder / f"sum-lr{rate}-seed0")
        (study.folder / f"sum-lr{rate}-seed0").mkdir()
        (study.folder / f"sum-lr{rate}-seed0" / "diverged.txt").touch()
    assert study.progress() == "run 5 of 6, about 2 s left"  # no rate of sum is left for further seeds


# Validation accuracies by learning rate: the best one lies beyond the grid 0.1, 0.02, then two steps below it.
PEAKS = {
    "plain": {0.1: 0.7, 0.02: 0.6, 0.5: 0.8, 2.5: 0.1},
    "sum": {0.1: 0.3, 0.02: 0.4, 0.004: 0.5, 0.0008: 0.4, 0.00016: 0.1},
}


@pytest.fixture
def extending(study, monkeypatch):
    """The study, with accuracies that are best beyond its rates, which it may extend twice."""
    peaks = {(variant, rate): value for variant, found in PEAKS.items() for rate, value in found.items()}
    for key, value in peaks.items():
        monkeypatch.setitem(VAL, key, value)
    return dataclasses.replace(study, extend_rates=2)


def test_a_grid_is_extended_by_its_factor_until_the_best_rate_lies_inside(extending, trained, capsys):
    extending.run()
    assert trained[:4] == [f"plain-lr{rate}-seed0" for rate in (0.1, 0.02, 0.5, 2.5)]
    assert trained[4:8] == [f"sum-lr{rate}-seed0" for rate in (0.1, 0.02, 0.004, 0.0008)]
    assert (extending.chosen_rate("plain"), extending.chosen_rate("sum")) == (0.5, 0.004)
    assert trained[8:] == [f"{name}-seed{seed}" for seed in (1, 2) for name in ("plain-lr0.5", "sum-lr0.004")]
    assert (extending.grid("plain"), extending.edge("plain")) == ((0.1, 0.02, 0.5, 2.5), None)
    told = capsys.readouterr().out
    assert told.count("plain: a larger learning rate may be better than those tried; 0.5 is tried as well\n") == 1
    assert told.count("sum: a smaller learning rate may be better than those tried; 0.0008 is tried as well\n") == 1
    assert "--extend-rates" not in told
    # What was asked is what study.json keeps. The rest follows from the records.
    saved = json.loads((extending.folder / "study.json").read_text())
    assert (saved["learning_rates"], saved["extend_rates"]) == ([0.1, 0.02], 2)
    assert Study.read(extending.folder) == extending


@pytest.mark.slow
def test_an_extended_search_goes_on_wherever_it_was_cut(extending, trained):
    extending.run()
    everything = list(trained)
    for kept in range(1, len(everything), 3):
        shutil.rmtree(extending.folder)
        extending.write()
        for name in everything[:kept]:
            variant, rate, seed = name.split("-")
            leave_run(extending, extending.config(Run(variant, float(rate[2:]), int(seed[4:]))))
        trained.clear()
        extending.run()
        assert sorted(trained) == sorted(everything[kept:])


def test_an_extension_ends_at_its_bound_and_says_so(extending, trained, capsys):
    once = dataclasses.replace(extending, extend_rates=1)
    once.run()
    assert (once.chosen_rate("sum"), once.edge("sum")) == (0.004, "smallest")
    assert (
        "sum: 0.004 is still the smallest of its learning rates after 1 further ones; a larger --extend-rates goes on"
    ) in capsys.readouterr().out
    trained.clear()
    extending.run()
    assert sorted(trained) == ["plain-lr2.5-seed0", "sum-lr0.0008-seed0"]
    with pytest.raises(InputError, match="extends its learning rates by up to 2; give at least as many"):
        once.run()


def test_without_extension_the_best_of_what_was_asked_is_chosen_and_its_edge_is_known(study, trained):
    study.run()
    assert study.grid("plain") == (0.1, 0.02)
    assert (study.edge("plain"), study.edge("sum")) == ("largest", "smallest")
    three = dataclasses.replace(study, variants={"plain": VARIANTS["plain"]}, learning_rates=(0.5, 0.1, 0.02))
    assert three.edge("plain") is None  # its first run has no outcome yet


def test_a_run_that_ends_between_two_looks_chooses_no_rate_at_an_edge(extending, trained, monkeypatch):
    """Another process finishes the grid while this one reads it."""
    for rate in (0.1, 0.02):
        leave_run(extending, extending.config(Run("plain", rate, 0)))
    real, looks = Study.outcome, []

    def outcome(self, run):
        looks.append(run)
        return "" if len(looks) == 2 else real(self, run)

    monkeypatch.setattr(Study, "outcome", outcome)
    assert [run.name for run in extending.runs_of("plain")] == ["plain-lr0.1-seed0", "plain-lr0.02-seed0"]
    assert [run.name for run in extending.runs_of("plain")][2:] == ["plain-lr0.5-seed0"]


def test_where_every_rate_diverges_a_smaller_one_is_tried(extending, monkeypatch):
    tried = []

    def fit(config, compiler_options, command=""):
        tried.append(config.learning_rate)
        leave_run(extending, config)
        if config.learning_rate > 0.003:
            raise TrainingDivergedError("the training loss is nan")

    monkeypatch.setattr(module, "fit", fit)
    only = dataclasses.replace(extending, variants={"sum": VARIANTS["sum"]}, seeds=1, extend_rates=5)
    only.run()
    assert tried == [0.1, 0.02, 0.004, 0.0008, 0.00016]
    assert (only.chosen_rate("sum"), only.edge("sum")) == (0.0008, None)


def test_the_factor_is_that_of_the_two_rates_at_the_edge():
    assert module._beyond([0.01, 0.03, 0.1], 0.1, diverged=False) == 0.333
    assert module._beyond([0.01, 0.03, 0.1], 0.01, diverged=False) == 0.00333
    assert module._beyond([0.01, 0.03, 0.1], 0.03, diverged=False) is None
    assert module._beyond([0.1], 0.1, diverged=False) is None


def test_what_is_finished_is_skipped_and_what_is_not_is_trained_again(study, trained):
    study.run()
    everything = sorted(trained)
    trained.clear()
    study.run()
    assert trained == []
    shutil.rmtree(study.folder / "sum-lr0.02-seed1")
    leave_run(study, study.config(Run("plain", 0.1, 2)), epochs=1)
    study.run()
    assert sorted(trained) == ["plain-lr0.1-seed2", "sum-lr0.02-seed1"]
    assert everything == sorted(run.name for run in study.finished())


def test_a_run_that_stopped_early_is_finished_unless_it_is_given_more_patience(study):
    study, run = (
        dataclasses.replace(study, base=dataclasses.replace(study.base, epochs=9, patience=2)),
        Run("plain", 0.1, 0),
    )
    # All accuracies are equal, so the first of three epochs is the best.
    leave_run(study, study.config(run), epochs=3)
    path = study.folder / run.name / "summary.json"
    for finished, asked, outcome in (
        *((True, 2, "finished"), (True, 1, "finished"), (True, 3, ""), (True, None, "")),
        (False, 2, ""),  # it was killed just before its end
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": finished}))
        asking = dataclasses.replace(study, base=dataclasses.replace(study.base, patience=asked))
        assert asking.outcome(run) == outcome, asked


def test_a_run_that_was_begun_is_resumed(monkeypatch, study):
    resumed = {}

    def fit(config, compiler_options, command=""):
        resumed[config.out.name] = config.resume
        leave_run(study, config)

    monkeypatch.setattr("seanet_jax.studies.study.fit", fit)
    leave_run(study, study.config(Run("sum", 0.1, 0)), epochs=1)
    study.run()
    assert [name for name, resume in resumed.items() if resume] == ["sum-lr0.1-seed0"]


def test_a_run_that_diverged_is_noted_and_not_tried_again(monkeypatch, study, trained):
    leave = module.fit

    def fit(config, compiler_options, command=""):
        leave(config, compiler_options)
        if config.learning_rate == 0.1:
            raise TrainingDivergedError("the training loss is nan")

    monkeypatch.setattr(module, "fit", fit)
    study.run()
    assert trained.count("plain-lr0.1-seed0") == 1
    assert (study.folder / "plain-lr0.1-seed0" / "diverged.txt").read_text() == "the training loss is nan\n"
    assert study.chosen_rate("plain") == 0.02
    trained.clear()
    study.run()
    assert trained == []


def test_a_variant_that_diverges_everywhere_has_no_rate_and_no_results(monkeypatch, study):
    def fit(config, compiler_options, command=""):
        config.out.mkdir(parents=True)
        raise TrainingDivergedError("the training loss is nan")

    monkeypatch.setattr("seanet_jax.studies.study.fit", fit)
    study.run()
    assert study.chosen_rate("sum") is None
    assert study.results("sum") == {}


def test_what_another_process_trains_is_left_to_it(monkeypatch, study, trained):
    busy = study.folder / "plain-lr0.1-seed0"
    busy.mkdir(parents=True)
    lock = filelock.FileLock(busy / "lock", is_singleton=False)
    lock.acquire()
    waits = []

    def sleep(seconds):
        waits.append(list(trained))
        lock.release()

    monkeypatch.setattr("seanet_jax.studies.study.time.sleep", sleep)
    study.run()
    # All that did not depend on it was trained before the wait.
    assert waits == [
        ["plain-lr0.02-seed0", "sum-lr0.1-seed0", "sum-lr0.02-seed0", "sum-lr0.02-seed1", "sum-lr0.02-seed2"]
    ]
    assert trained[5] == "plain-lr0.1-seed0"


def test_a_folder_that_holds_another_run_or_study_is_refused(study, trained):
    other = study.config(Run("sum", 0.1, 0))
    leave_run(study, TrainConfig(**(other.to_json() | {"out": other.out, "batch_size": 32})))
    with pytest.raises(
        InputError, match=r"sum-lr0.1-seed0 holds another run \(batch_size: 32 was saved, 64 is asked\)"
    ):
        study.run()
    shutil.rmtree(study.folder)
    study.run()
    other_recipe = Study(study.folder, TrainConfig(**(BASE.to_json() | {"momentum": 0.5})), VARIANTS, 3, (0.1, 0.02))
    with pytest.raises(InputError, match=r"holds another study \(momentum: 0.9 was saved, 0.5 is asked\)"):
        other_recipe.run()
    with pytest.raises(InputError, match=r"holds a study of the learning rates \(0.1, 0.02\); give the same ones"):
        Study(study.folder, BASE, VARIANTS, 3, (0.1,)).run()


def test_variants_and_seeds_are_added_to_the_folders_study(study, trained):
    study.run()
    Study(study.folder, BASE, {"plain": VARIANTS["plain"]}, 1, (0.1, 0.02)).write()
    assert Study.read(study.folder) == study
    assert Study.read(study.folder, data_dir="data").base.data_dir == Path("data")


def test_processes_that_begin_together_write_one_study(study):
    names = [f"plain{number}" for number in range(8)]
    begin = threading.Barrier(len(names))

    def write(name):
        begin.wait()
        for _ in range(20):
            Study(study.folder, BASE, {name: VARIANTS["plain"]}, 1, (0.1, 0.02)).write()

    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for written in [pool.submit(write, name) for name in names]:
            written.result()
    assert set(Study.read(study.folder).variants) == set(names)


def test_a_study_that_is_refused_leaves_nothing_in_the_folder(study, trained):
    study.write()
    (study.folder / "study.lock").unlink()
    before = sorted(study.folder.iterdir())
    with pytest.raises(InputError, match="holds a study of the learning rates"):
        Study(study.folder, BASE, VARIANTS, 3, (0.1,)).run()
    assert sorted(study.folder.iterdir()) == before


def test_a_study_is_read_from_its_folder(study):
    study.write()
    assert Study.read(study.folder) == study
    (study.folder / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        Study.read(study.folder)
    with pytest.raises(InputError, match="holds no study"):
        Study.read(study.folder / "elsewhere")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": []}, r"base is \[\] and must be an object"),
        ({"base": None}, "base is None and must be an object"),
        ({"variants": {"sum": 3}}, r"variants\.sum is 3 and must be an object"),
        ({"variants": {"sum": {"learning_rate": "x"}}}, "learning_rate is 'x'; it must be a positive number"),
        ({"seeds": "x"}, "seeds is 'x' and must be an integer"),
        ({"learning_rates": 0.1}, "learning_rates is 0.1 and must be a list"),
        ({"learning_rates": [[0.1]]}, r"learning_rates\[0\] is \[0.1\] and must be a finite number"),
        (
            {"variants": {"sum": {"ema": 0.9}}, "version": "99.1"},
            "has the field ema, which .*; seanet_jax 99.1 wrote it; install that version",
        ),
        ({"rounds": 3, "version": "99.1"}, "has the field rounds, which .*; seanet_jax 99.1 wrote it"),
    ],
)
def test_a_study_that_others_wrote_is_read_or_refused_in_a_sentence(study, changed, message):
    study.write()
    path = study.folder / "study.json"
    about = json.loads(path.read_text())
    assert about["version"] == __version__
    path.write_text(json.dumps({name: value for name, value in about.items() if name != "version"}))
    assert Study.read(study.folder) == study  # version 0.1.0 did not write its version
    path.write_text(json.dumps(about | changed))
    with pytest.raises(InputError, match=message) as caught:
        Study.read(study.folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variants": {}}, "no networks"),
        ({"seeds": 0}, "seeds is 0; it must be a positive integer"),
        ({"seeds": 2**31}, "seeds is 2147483648; it must be a positive integer of at most 10,000"),
        ({"variants": {"../x": {"model": "resnet20"}}}, "the network '../x' has a name that no folder can have"),
        ({"variants": {"\x1b[31m": {"model": "resnet20"}}}, r"the network '\\x1b\[31m' has a name that"),
        ({"learning_rates": ()}, "give at least one"),
        ({"learning_rates": (0.1, 0.1)}, "each only once"),
        ({"extend_rates": -1}, "extend_rates is -1; it must be an integer from 0 to 20"),
        ({"extend_rates": 2, "learning_rates": (0.1,)}, "there is one learning rate; give at least two"),
        ({"learning_rates": (0.1, -1.0)}, "learning_rate is -1.0; it must be a positive number"),
        ({"variants": {"x": {"model": "resnet21"}}}, "there is no model 'resnet21'"),
        ({"base": TrainConfig(dataset="digits")}, "give --validation-fraction"),
    ],
)
def test_what_cannot_be_studied_is_said_before_anything_is_written(tmp_path, changed, message):
    fields = {"folder": tmp_path / "study", "base": BASE, "variants": VARIANTS, "learning_rates": (0.1, 0.02)}
    with pytest.raises(InputError, match=message):
        Study(**(fields | changed))
    assert not list(tmp_path.iterdir())
