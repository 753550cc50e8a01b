"""The tables of a comparison, from run folders that the tests write."""

import csv
import json

import pytest
from study_fixtures import comparison_study

from seanet_jax.studies import comparison_tables
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig


@pytest.fixture
def study(tmp_path):
    return comparison_study(tmp_path)


@pytest.mark.slow
def test_the_table_reads_as_a_person_would_write_it(study):
    lines = comparison_tables.markdown(study).splitlines()
    assert lines[2] == "| seanet20_small | 283,174 | 40.4 | 17 | — | 0.1 | 54.00 ± 1.00 | 52.33 ± 2.08 | — | 3 |"
    assert lines[3] == "| senet20 | 282,734 | 40.8 | 64 | 100 | 0.1 | 43.97 ± 1.05 | 43.97 ± 1.05 | 30.45 | 3 |"
    assert lines[5].endswith("| 30.00 | 30.00 | 26.67 | 1 |")
    (test,) = (line for line in lines if line.startswith("| seanet20_small | senet20 | +0.2% | -1.1% | +10.03 |"))
    # The differences are 10, 10 and 10.1 points, so their standard error is 1/30 point. Two degrees of freedom at 2.5 %
    # detect 8.01 standard errors.
    assert test.endswith("| 0.27 | aggregation is worse |")


def test_a_recipe_with_a_moving_average_has_a_column_of_its_errors(study):
    for seed, accuracy in ((0, 0.5), (1, 0.52), (2, 0.54)):
        path = study.folder / Run("seanet20_small", 0.1, seed).name / "metrics.jsonl"
        first, last = map(json.loads, path.read_text().splitlines())
        last = {**last, "ema_test_accuracy": accuracy, "ema_test_loss": 1.0}
        path.write_text(f"{json.dumps(first | {'ema_test_accuracy': 0.1, 'ema_test_loss': 2.0})}\n{json.dumps(last)}\n")
        summary = json.loads((path.parent / "summary.json").read_text()) | {"last": last}
        (path.parent / "summary.json").write_text(json.dumps(summary))
    lines = comparison_tables.markdown(study).splitlines()
    assert "| error, best epoch, % | error of the moving average, last epoch, % | the talk, % | seeds |" in lines[0]
    assert lines[1].count("|") == lines[0].count("|") == 12
    assert "| 54.00 ± 1.00 | 52.33 ± 2.08 | 48.00 ± 2.00 | — | 3 |" in lines[2]
    assert "| 43.97 ± 1.05 | 43.97 ± 1.05 | — | 30.45 | 3 |" in lines[3]


def test_without_three_seeds_nothing_is_tested(study):
    assert "No test: " in comparison_tables.markdown(
        Study(study.folder, study.base, {"resnet110": study.variants["resnet110"]})
    )


def test_tables_are_files_too(study):
    comparison_tables.write_tables(study)
    assert (study.folder / "table.md").read_text() == comparison_tables.markdown(study)
    with (study.folder / "table.csv").open() as file:
        first, *_ = csv.DictReader(file)
    assert first["model"] == "seanet20_small"
    assert float(first["last_error_mean"]) == pytest.approx(54)
    assert first["last_errors_by_seed"] == "55.00 54.00 53.00"
    with (study.folder / "tests.csv").open() as file:
        assert [row["baseline"] for row in csv.DictReader(file)] == ["senet20", "resnet20"]


def test_an_unfinished_study_has_a_table(tmp_path):
    empty = Study(tmp_path, TrainConfig(), {"resnet20": {"model": "resnet20"}})
    assert "| resnet20 | 278,324 | 40.8 | 64 | — | 0.1 | — | — | 32.63 | 0 |" in comparison_tables.markdown(empty)
