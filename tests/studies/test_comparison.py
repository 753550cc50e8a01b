"""The numbers and the tests of a comparison, from run folders that the tests write."""

import json

import pytest
from study_fixtures import comparison_study, leave_run
from training_fixtures import made_dataset

from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import model_config
from seanet_jax.models.multiply_adds import multiply_adds, parameters
from seanet_jax.studies import comparison
from seanet_jax.studies.statistics import detectable_difference
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run_folder import RunFolder


@pytest.fixture
def study(tmp_path):
    return comparison_study(tmp_path)


@pytest.mark.slow
def test_a_row_has_what_the_runs_and_the_network_have(study):
    small, senet, _, deep = comparison.rows(study)
    assert (small.model, small.aggregates, senet.aggregates) == ("seanet20_small", True, False)
    assert (small.parameters, senet.parameters, deep.parameters) == (283_174, 282_734, 1_736_564)
    assert small.multiply_adds == 40_393_508
    assert (small.features, senet.features) == (68 // 4, 64)
    assert small.last_errors == pytest.approx({0: 55, 1: 54, 2: 53})
    assert small.best_errors == pytest.approx({0: 50, 1: 54, 2: 53})
    assert (senet.talk_error, small.talk_error) == (30.45, None)
    assert deep.last_errors == pytest.approx({0: 30})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "aggregates"),
    [
        *(("seanet20_narrow", True), ("seanet20_narrow_normalized_sum", True), ("seanet20_narrow_bn", True)),
        *(("seanet20_narrow_random", True), ("seanet20_narrow_stages12", True)),
        *(("seanet20_narrow_learned", False), ("seanet20_narrow_dense", False), ("seanet20_narrow_drop", False)),
        *(("narrow_senet20", False), ("encapnet", False)),
    ],
)
def test_what_learns_how_to_reduce_channels_or_drops_some_is_a_baseline(tmp_path, model, aggregates):
    study = Study(tmp_path, TrainConfig(dataset="cifar100", epochs=2), {model: {"model": model}})
    assert [row.aggregates for row in comparison.rows(study)] == [aggregates]


def test_the_costs_are_those_of_images_of_the_size_of_the_data_set(tmp_path):
    base = TrainConfig(dataset="folder", data_dir=tmp_path, image_size=64, epochs=1)
    study = Study(tmp_path / "study", base, {"resnet20": {"model": "resnet20"}})
    run = study.config(Run("resnet20", 0.1, 0))
    images = ImageSpec(64, 64, (0.5,) * 3, (0.2,) * 3, ("cat", "dog"))
    run.out.mkdir(parents=True)
    RunFolder(run.out).open(run, run.model_config(2), images, "", None, step=0, history=[])
    (row,) = comparison.rows(study)
    config = run.model_config(2)
    assert row.parameters == parameters(config)
    # Four times the pixels, and the same classifier: 64 features by 2 classes.
    assert row.multiply_adds == multiply_adds(config, 64, 64) == 4 * (multiply_adds(config) - 128) + 128


def test_an_aggregated_network_is_tested_against_each_matched_baseline_that_has_its_seeds(study):
    worse, unclear = comparison.comparisons(comparison.rows(study))
    assert (worse.aggregated, worse.baseline, worse.verdict) == ("seanet20_small", "senet20", "aggregation is worse")
    assert worse.difference.mean == pytest.approx(10.0333, abs=1e-3)
    # 55, 54, 53 less 54, 55, 54.
    assert (unclear.baseline, unclear.verdict) == ("resnet20", "no significant difference")
    assert unclear.difference.mean == pytest.approx(-1 / 3)
    assert worse.adjusted_p_value == pytest.approx(2 * worse.difference.p_value)
    # The differences from resnet20 are 1, -1, -1 points, so their standard error is 2/3 point. Two tests share 5 %.
    assert unclear.detectable == pytest.approx(detectable_difference(2 / 3, 2, level=0.025))


@pytest.mark.parametrize("is_trained", [True, False])
def test_images_that_are_known_only_once_they_are_read_are_those_of_a_run_or_read(tmp_path, monkeypatch, is_trained):
    study = Study(tmp_path, TrainConfig(dataset="tfds:made", epochs=1), {"resnet20": {"model": "resnet20"}}, seeds=1)
    images = ImageSpec(20, 12, (0.5,), (0.5,), ("a", "b", "c"))
    read = []
    monkeypatch.setattr(comparison, "read_dataset", lambda config: read.append(config) or made_dataset())
    if is_trained:
        leave_run(study, Run("resnet20", 0.1, 0), [0.5])
        path = tmp_path / "resnet20-lr0.1-seed0" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"images": images.to_json()}))
    else:
        images = made_dataset().image_spec
    (row,) = comparison.rows(study)
    expected = model_config("resnet20", num_classes=images.num_classes, in_channels=images.channels)
    assert comparison.network(study, "resnet20") == expected
    assert row.multiply_adds == multiply_adds(expected, images.height, images.width)
    assert bool(read) != is_trained
