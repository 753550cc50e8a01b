import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from seanet_jax import plugins
from seanet_jax.data import (
    DATASETS,
    Dataset,
    DatasetSource,
    find_source,
    image_spec,
    is_known,
    load,
    register_dataset,
    train_count,
)
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.training.config import TrainConfig

SPEC = ImageSpec(4, 4, (0.5,), (0.2,), ("a", "b"))


def load_noise(*, data_dir, progress, mapped):
    images, labels = np.zeros((6, 4, 4, 1), np.uint8), np.zeros(6, np.int32)
    return Dataset("noise", images, labels, images, labels, SPEC, flip=False)


NOISE = DatasetSource("noise", "Noise", SPEC, train_count=6, load=load_noise)


@pytest.fixture
def table():
    """The table of data sets, restored after the test."""
    before = dict(DATASETS)
    yield DATASETS
    DATASETS.clear()
    DATASETS.update(before)


def test_the_built_in_data_sets_have_titles():
    assert {name: source.title for name, source in DATASETS.items()} == {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "digits": "the handwritten digits",
        "folder": "a folder of images",
        "tfds:NAME": "any images prepared by TFDS",
        "arrays": "NumPy arrays",
    }


@pytest.mark.parametrize("look_up", [load, image_spec, train_count, find_source])
def test_an_unknown_name_lists_the_known(look_up):
    with pytest.raises(InputError, match="no data set 'mnist'; the data sets are cifar10, cifar100, digits"):
        look_up("mnist")


def test_a_registered_data_set_is_known_everywhere(table):
    assert not is_known("noise")
    with pytest.raises(InputError, match="dataset is 'noise'; it must be one of cifar10, cifar100, digits"):
        TrainConfig(dataset="noise")
    register_dataset(NOISE)
    assert is_known("noise") and find_source("noise") is NOISE
    assert (image_spec("noise"), train_count("noise")) == (SPEC, 6)
    assert load("noise").name == "noise"
    assert TrainConfig(dataset="noise").dataset == "noise"


@pytest.mark.parametrize("name", ["digits", "noise"])
def test_a_name_is_registered_once(name, table):
    register_dataset(NOISE)
    before = dict(table)
    with pytest.raises(InputError, match=f"There is a data set '{name}' already"):
        register_dataset(DatasetSource(name, "Other", SPEC, train_count=6, load=load_noise))
    assert table == before


@pytest.mark.parametrize("name", [None, 3, ["digits"]])
def test_only_text_can_be_a_name(name):
    assert not is_known(name)


def test_a_plugin_registers_its_data_set_when_the_name_is_unknown(table, monkeypatch):
    class EntryPoint:
        def load(self):
            register_dataset(NOISE)

    monkeypatch.setattr(plugins, "_started", False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [EntryPoint()])
    assert image_spec("digits") != SPEC
    assert "noise" not in table
    assert image_spec("noise") == SPEC
    assert "noise" in table


def test_the_data_dir_is_the_argument_then_the_variable_then_the_default(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("seanet_jax.data.cifar.load_cifar", lambda spec, folder, progress, mapped: seen.append(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/env")
    load("cifar10", data_dir="~/given")
    load("cifar10")
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    load("cifar10")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/from/env")
    load("cifar10")
    expected = [tmp_path / "given", Path("/from/env"), tmp_path / "tensorflow_datasets", tmp_path / "from/env"]
    assert seen == expected


@pytest.mark.parametrize("option", [{"image_size": 64}, {"test_fraction": 0.5}, {"skip_broken": True}])
def test_options_are_refused_by_a_data_set_that_has_none(option):
    ((name, value),) = option.items()
    with pytest.raises(InputError, match=f"{name} is {value}, but digits takes none; leave it out"):
        load("digits", **option)


def test_only_the_options_that_are_given_are_passed_on(table):
    seen = []

    def load_it(**arguments):
        seen.append(arguments)
        return load_noise(data_dir=None, progress=True, mapped=False)

    register_dataset(DatasetSource("noise", "Noise", None, None, load_it, options=("image_size", "skip_broken")))
    load("noise", data_dir="/data")
    load("noise", data_dir="/data", image_size=8, skip_broken=False, progress=False)
    rest = {"data_dir": Path("/data"), "mapped": False}
    assert seen == [rest | {"progress": True}, rest | {"progress": False, "image_size": 8}]
    with pytest.raises(
        InputError, match=r"image_size is 8, but digits takes none; leave it out \(it is for folder, tfds:NAME, noise\)"
    ):
        load("digits", image_size=8)


def test_what_is_known_only_after_loading_is_refused_before(table):
    register_dataset(DatasetSource("noise", "Noise", None, None, load_noise))
    for look_up in (image_spec, train_count):
        with pytest.raises(InputError, match=r"noise has to be read before .* known; .*: cifar10, cifar100, digits$"):
            look_up("noise")


def test_a_data_set_without_a_usual_folder_needs_a_data_dir(table):
    register_dataset(DatasetSource("noise", "Noise", None, None, load_noise, needs_data_dir=True))
    with pytest.raises(InputError, match="noise has no usual folder; name the folder that holds it with --data-dir"):
        load("noise")
    assert load("noise", data_dir="here").name == "noise"


def test_a_url_names_no_data_dir(monkeypatch):
    with pytest.raises(InputError, match=r"^gs://bucket is a URL; only local folders and files can be used$"):
        load("cifar10", data_dir="gs://bucket")
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket")
    with pytest.raises(InputError, match=r"^TFDS_DATA_DIR: gs://bucket is a URL; only local folders"):
        load("cifar10")


def test_without_a_home_folder_only_data_on_disk_need_a_data_dir(no_home, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(
        InputError, match="no home folder that could hold the data set; name its folder with --data-dir"
    ):
        load("cifar10")
    assert load("digits").train_images.shape == (1438, 32, 32, 3)
