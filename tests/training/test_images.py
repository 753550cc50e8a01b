import dataclasses
from pathlib import Path

import numpy as np
import pytest
from training_fixtures import assert_same_run, made_dataset

from seanet_jax.data import from_arrays
from seanet_jax.errors import InputError
from seanet_jax.inference.evaluation import evaluate
from seanet_jax.inference.trained import load
from seanet_jax.training import images
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.images import check_images, load_dataset, read_dataset
from seanet_jax.training.run import fit


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tiny):
    config = tiny(batch_size=41)
    with pytest.raises(InputError, match="batch_size is 41; it must be at most 40"):
        fit(config)
    assert not config.out.exists()


def test_a_run_uses_the_first_images_and_holds_out_the_last_of_them(tiny):
    dataset = load_dataset(tiny(limit_train=20, limit_test=5, validation_fraction=0.25))
    made = made_dataset()
    np.testing.assert_array_equal(dataset.train_images, made.train_images[:15])
    np.testing.assert_array_equal(dataset.val_images, made.train_images[15:20])
    np.testing.assert_array_equal(dataset.test_labels, made.test_labels[:5])


def test_the_images_are_named_by_their_sha256():
    assert check_images(made_dataset()) == made_dataset().sha256()
    assert check_images(made_dataset(test=22)) != made_dataset().sha256()


def given_arrays(count=40):
    made = made_dataset(train=count)
    return from_arrays(made.train_images, made.train_labels, made.test_images, made.test_labels, class_names=("a", "b"))


@pytest.mark.slow
def test_a_run_on_arrays_is_trained_resumed_and_evaluated_with_the_same_arrays(tiny):
    dataset, config, whole = given_arrays(), tiny(dataset="arrays", max_steps=6), tiny("whole", dataset="arrays")
    fit(config, dataset=dataset)
    longer = dataclasses.replace(config, max_steps=None, resume=True)
    with pytest.raises(InputError, match=r"other images of the name arrays, .* give the same, by --data-dir or"):
        fit(longer, dataset=given_arrays(32))
    fit(longer, dataset=given_arrays())
    fit(whole, dataset=dataset)
    assert_same_run(longer, whole)
    assert load(config.out).images == dataset.image_spec
    about = evaluate(config.out, dataset=dataset, which="latest")
    assert (about["dataset"], about["images"]) == ("arrays", len(dataset.test_images))
    with pytest.raises(InputError, match="was trained on other images of the name arrays"):
        evaluate(config.out, dataset=given_arrays(32))
    trained = load(config.out)
    trained.model.save_pretrained(config.out.parent / "weights", trained.images)
    assert evaluate(config.out.parent / "weights", dataset=dataset)["dataset"] == "arrays"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "digits",
            made_dataset(),
            r"a Dataset is given to a run on digits; name it .* by dataset='arrays', or give none",
        ),
        ("arrays", (1, 2), "dataset is of type tuple; it must be a Dataset, which seanet_jax.data.from_arrays makes"),
    ],
)
def test_a_data_set_is_given_only_to_a_run_on_arrays(tiny, name, given, message):
    config = tiny(dataset=name)
    with pytest.raises(InputError, match=message):
        fit(config, dataset=given)
    assert not config.out.exists()


def test_a_run_on_arrays_without_arrays_is_refused(tmp_path):
    with pytest.raises(InputError, match="the data set arrays is given in Python"):
        fit(TrainConfig(dataset="arrays", out=tmp_path / "run"))


def test_the_options_of_a_configuration_are_those_of_the_data_set(monkeypatch):
    seen = []
    monkeypatch.setattr(images, "load", lambda name, **given: seen.append((name, given)))
    read_dataset(TrainConfig(dataset="folder", data_dir="/data", image_size=64, test_fraction=0.1, skip_broken=True))
    read_dataset(TrainConfig(dataset="tfds:mnist"), mapped=True)
    options = {"image_size": 64, "test_fraction": 0.1, "skip_broken": True}
    assert seen == [
        ("folder", {"data_dir": Path("/data"), "mapped": False} | options),
        ("tfds:mnist", {"data_dir": None, "mapped": True}),
    ]
