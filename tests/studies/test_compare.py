"""What the run of a comparison measures and writes. The runs are there already, so nothing is trained."""

import json

import pytest
from study_fixtures import ACCURACIES, leave_run
from training_fixtures import made_dataset

from seanet_jax.studies import compare
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import StudyCommand

MODELS = ("seanet20_small", "senet20")


@pytest.fixture
def command(tmp_path):
    config = TrainConfig(dataset="cifar100", epochs=2, out=tmp_path / "study")
    study = Study(config.out, config, {model: {"model": model} for model in MODELS}, seeds=3)
    for model in MODELS:
        for seed, accuracies in enumerate(ACCURACIES[model]):
            leave_run(study, Run(model, 0.1, seed), accuracies)
    return StudyCommand(config, {model: {} for model in MODELS}, 3, (0.1,), False, False)


@pytest.fixture
def measured(monkeypatch):
    """The names of the networks whose speed was measured, for each measurement."""
    calls = []

    def training_speeds(configs, dataset, compiler_options):
        calls.append(sorted(configs))
        return {name: [100.0, 120.0, 140.0] for name in configs}

    monkeypatch.setattr(compare, "read_dataset", lambda config: made_dataset())
    monkeypatch.setattr(compare, "training_speeds", training_speeds)
    return calls


def test_a_comparison_measures_speeds_once_and_writes_its_tables(command, measured, capsys):
    for _ in range(2):
        compare.run_comparison(command, {})
    assert measured == [sorted(MODELS)]
    folder = command.config.out
    speeds = json.loads((folder / "speed.json").read_text())
    assert speeds["images_per_second"]["senet20"] == [100.0, 120.0, 140.0]
    table = (folder / "table.md").read_text()
    assert "| senet20 | 282,734 | 40.8 | 64 | 120 | 0.1 | 43.97 ± 1.05 |" in table
    assert table in capsys.readouterr().out
    assert (folder / "table.csv").exists() and (folder / "tests.csv").exists()


def test_speeds_are_measured_again_for_a_network_that_is_new(command, measured):
    folder = command.config.out
    (folder / "speed.json").write_text(json.dumps({"images_per_second": {"senet20": [90.0]}}))
    compare.run_comparison(command, {})
    assert measured == [sorted(MODELS)]
