import collections
import os
import time
from pathlib import Path

import data_fixtures as made
import numpy as np
import pytest
from path_fixtures import obeying_permissions

from seanet_jax.data import image_spec, load, tfds, train_count
from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.errors import InputError

SPECS = {"cifar10": made.tiny(CIFAR10), "cifar100": made.tiny(CIFAR100)}
SPEC = SPECS["cifar100"]


@pytest.fixture(autouse=True)
def no_prepared_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def assert_dataset(spec, data):
    """Asserts that the data set is that of the fixtures, in the order of TFDS."""
    content = made.make_original(spec)
    for name, split in (("train", content.train), ("test", content.test)):
        order = tfds.order(name, len(split.images))
        np.testing.assert_array_equal(getattr(data, f"{name}_images"), split.images[order])
        np.testing.assert_array_equal(getattr(data, f"{name}_labels"), split.labels["label"][order])
    assert data.image_spec.class_names == content.names["label"]
    assert data.flip and data.name == spec.name and data.superclasses == spec.superclasses


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("form", made.FORMS)
@pytest.mark.parametrize("place", ["folder", "archive", "itself", "renamed"])
def test_every_form_gives_the_same_data(name, form, place, tmp_path):
    spec = SPECS[name]
    data_dir = made.write(spec, form, tmp_path / "data", place)
    before = made.tree(tmp_path)
    assert_dataset(spec, load_cifar(spec, data_dir, False))
    assert made.tree(tmp_path) == before  # archives are not unpacked


def test_a_folder_is_read_before_an_archive(tmp_path):
    made.write(SPEC, "binary", tmp_path)
    (tmp_path / SPEC.python.archive).write_bytes(b"never opened")
    assert_dataset(SPEC, load_cifar(SPEC, tmp_path, False))


@pytest.mark.parametrize("exists", [True, False])
def test_without_data_and_network_there_is_one_sentence_and_no_trace(exists, tmp_path):
    data_dir = tmp_path / "some" / "data"
    if exists:
        data_dir.mkdir(parents=True)
    before = made.tree(tmp_path)
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        load_cifar(SPEC, data_dir, False)
    assert time.monotonic() - start < 15
    message = str(error.value)
    for part in (str(data_dir), SPEC.url, "--data-dir", SPEC.python.archive, "digits"):
        assert part in message
    assert "\n" not in message
    assert made.tree(tmp_path) == before


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / SPEC.binary.archive
    path.touch()
    with pytest.raises(InputError, match="is a file"):
        load("cifar100", data_dir=path)


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not (Path(folder) / "cifar100" / CIFAR100.version).is_dir():
        pytest.skip("no prepared CIFAR-100 in $TFDS_DATA_DIR")
    return folder


@pytest.mark.slow
def test_the_real_cifar100(real, tmp_path):
    data = load("cifar100", data_dir=real, progress=False)
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    assert np.all(np.bincount(data.train_labels) == 500) and np.all(np.bincount(data.test_labels) == 100)
    assert (data.image_spec, len(data.train_images)) == (image_spec("cifar100"), train_count("cifar100"))
    # CIFAR-100 is not CIFAR-10, whose statistics are the customary ones: close, and not equal.
    np.testing.assert_allclose(data.train_images.mean((0, 1, 2)) / 255, data.image_spec.mean, atol=0.02)
    again = load("cifar100", data_dir=real, progress=False)
    np.testing.assert_array_equal(again.train_images, data.train_images)


@pytest.mark.slow
def test_the_real_cifar100_is_the_same_as_any_other_data_set_of_tfds(real):
    data, same = (load(name, data_dir=real, progress=False) for name in ("cifar100", "tfds:cifar100"))
    assert data.sha256() == same.sha256() and data.flip == same.flip
    assert data.image_spec.class_names == same.image_spec.class_names
    # Published for CIFAR-100, in https://github.com/weiaicunzai/pytorch-cifar100 and elsewhere.
    np.testing.assert_allclose(same.image_spec.mean, (0.50708, 0.48655, 0.44092), atol=1e-5)
    np.testing.assert_allclose(same.image_spec.std, (0.26733, 0.25644, 0.27615), atol=1e-5)


@pytest.mark.parametrize("spec", [CIFAR10, CIFAR100], ids=lambda spec: spec.name)
def test_class_names_are_known_without_the_data(spec):
    images = image_spec(spec.name)
    assert len(set(images.class_names)) == spec.num_classes and train_count(spec.name) == spec.train_count
    prepared = tfds.prepared_folder(spec, tfds.default_data_dir())
    if not tfds.is_prepared(spec, prepared.parent.parent):
        pytest.skip(f"no prepared {spec.title} in $TFDS_DATA_DIR")
    assert images.class_names == tuple((prepared / "label.labels.txt").read_text().split())


def test_the_100_classes_are_five_in_each_of_20_superclasses():
    assert len(set(CIFAR100.class_names)) == len(CIFAR100.superclasses) == 100
    sizes = collections.Counter(CIFAR100.superclasses)
    assert len(sizes) == 20 and set(sizes.values()) == {5}
    people = [name for name, one in zip(CIFAR100.class_names, CIFAR100.superclasses, strict=True) if one == "people"]
    assert people == ["baby", "boy", "girl", "man", "woman"]


def test_the_superclasses_are_the_coarse_labels_of_the_real_images(real):
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(f"cifar100:{CIFAR100.version}", data_dir=real)
    coarse = builder.info.features["coarse_label"].names
    assert sorted(set(CIFAR100.superclasses)) == coarse
    records = builder.as_data_source("test", decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
    found = {(records[n]["label"], records[n]["coarse_label"]) for n in range(1000)}
    assert {(label, coarse[number]) for label, number in found} == set(enumerate(CIFAR100.superclasses))


@pytest.mark.parametrize("place", ["folder", "archive"])
@pytest.mark.parametrize("form", ["binary", "python 2"])
def test_original_files_that_may_not_be_read_are_not_called_missing_or_damaged(form, place, tmp_path):
    made.write(SPEC, form, tmp_path, place)
    closed = sorted(path for path in tmp_path.rglob("*") if path.is_file())[0]
    closed.chmod(0)
    with obeying_permissions(), pytest.raises(InputError) as error:
        load_cifar(SPEC, tmp_path, False)
    assert str(error.value) == f"{closed} cannot be read (Permission denied)"
