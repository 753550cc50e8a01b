"""Writes the files that a finished run of a study leaves in its folder."""

import json

import pytest
from training_fixtures import made_record, made_summary

from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig

# Test accuracies by epoch, by seed: the last epoch is not the best of the first run.
ACCURACIES = {
    "seanet20_small": ([0.5, 0.45], [0.40, 0.46], [0.40, 0.47]),
    "senet20": ([0.5, 0.55], [0.5, 0.56], [0.5, 0.571]),
    "resnet20": ([0.44, 0.46], [0.40, 0.45], [0.41, 0.46]),
    "resnet110": ([0.6, 0.7],),
}


def leave_run(study, run, accuracies, val=None):
    config = study.config(run)
    folder = study.folder / run.name
    folder.mkdir(parents=True)
    about = {"config": config.to_json(), "model_config": {}, "data_sha256": "", "resumed": []}
    validation = {} if val is None else {"val_accuracy": val}
    records = [made_record(n, test_accuracy=a, **validation) for n, a in enumerate(accuracies, start=1)]
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "summary.json").write_text(json.dumps(made_summary(records)))


def comparison_study(folder):
    """Returns a study in a folder, with finished runs and measured speeds."""
    base = TrainConfig(dataset="cifar100", epochs=2)
    made = Study(folder, base, {model: {"model": model} for model in ACCURACIES}, seeds=3)
    for model, seeds in ACCURACIES.items():
        for seed, accuracies in enumerate(seeds):
            leave_run(made, Run(model, 0.1, seed), accuracies)
    (folder / "speed.json").write_text(json.dumps({"images_per_second": {"senet20": [90, 100, 500]}}))
    return made


@pytest.fixture(name="compared_runs")
def compared_runs_fixture(tmp_path):
    """The folders of two seeds at a learning rate and of one run at another."""
    study = Study(tmp_path, TrainConfig(dataset="cifar100", epochs=2), {"senet20": {"model": "senet20"}}, seeds=2)
    runs = {
        Run("senet20", 0.1, 0): [0.5, 0.45],
        Run("senet20", 0.1, 1): [0.4, 0.47],
        Run("senet20", 0.02, 0): [0.3, 0.6],
    }
    for run, accuracies in runs.items():
        leave_run(study, run, accuracies)
    return [tmp_path / run.name for run in runs]
