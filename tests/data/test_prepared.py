"""Data sets that TFDS prepared, against what TFDS itself reads from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared_fixtures import encoded, made_images, prepare, to_tfrecord, write_tfrecord

from seanet_jax.data import find_source, is_known, load, memory, prepared
from seanet_jax.data.image_file import open_image, to_pixels
from seanet_jax.errors import InputError

NAMES = ("cat", "dog", "<b>")
TRAIN, TEST = 12, 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def features(shape, kind="png", **more):
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=shape, encoding_format=kind)
    return {"image": image, "label": tfds.features.ClassLabel(names=list(NAMES)), **more}


def examples(images, kind="PNG"):
    return [{"image": encoded(image, kind), "label": index % 3} for index, image in enumerate(images)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data folder with gray PNG of one size, RGB JPEG of many sizes, and a data set with a validation split."""
    root = tmp_path_factory.mktemp("tfds")
    gray = examples(made_images(TRAIN + TEST, (9, 7, 1)))
    splits = {"train": gray[:TRAIN], "test": gray[TRAIN:], "extra": gray}
    prepare(root, "mnist", splits, features((9, 7, 1)))
    photos = [image for size in ((30, 20), (20, 44), (32, 32)) for image in made_images(4, (*size, 3))]
    split = examples(photos, "JPEG")
    prepare(root, "photos", {"train": split, "test": split[:TEST]}, features((None, None, 3), "jpeg"))
    prepare(root, "held_out", {"train": gray, "validation": gray[:TEST]}, features((9, 7, 1)))
    return root


@pytest.fixture
def copied(data_dir, tmp_path):
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


def read_by_tfds(folder, split):
    import tensorflow_datasets as tfds

    found = tfds.builder_from_directory(folder).as_data_source(split)
    return [one["image"] for one in found], [one["label"] for one in found]


@pytest.mark.parametrize("as_tfrecord", [False, True])
@pytest.mark.parametrize("name", ["mnist", "held_out"])
def test_images_and_labels_are_those_that_tfds_reads(copied, name, as_tfrecord):
    folder = copied / name / "1.2.3"
    expected = {split: read_by_tfds(folder, split) for split in ("train", "test" if name == "mnist" else "validation")}
    if as_tfrecord:
        to_tfrecord(folder)
    data = load(f"tfds:{name}", data_dir=copied)
    for split, (images, labels) in zip(("train", "test"), expected.values(), strict=True):
        np.testing.assert_array_equal(getattr(data, f"{split}_images"), images)
        np.testing.assert_array_equal(getattr(data, f"{split}_labels"), labels)
    spec = data.image_spec
    assert (data.name, spec.height, spec.width, spec.class_names) == (f"tfds:{name}", 9, 7, NAMES)
    np.testing.assert_allclose(spec.mean, [data.train_images.mean() / 255])
    np.testing.assert_allclose(spec.std, [data.train_images.std() / 255])
    assert data.flip == (name != "mnist")


@pytest.mark.parametrize("size", [None, 24])
def test_images_of_many_sizes_become_what_predict_makes_of_their_files(data_dir, tmp_path, size):
    import tensorflow_datasets as tfds

    data = load("tfds:photos", data_dir=data_dir, image_size=size)
    assert data.train_images.shape == (12, size or 32, size or 32, 3)
    builder = tfds.builder_from_directory(data_dir / "photos/1.2.3")
    stored = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    for pixels, example in zip(data.train_images, stored, strict=True):
        (tmp_path / "image.jpg").write_bytes(example["image"])
        with open_image(tmp_path / "image.jpg") as image:
            np.testing.assert_array_equal(pixels, to_pixels(image, data.image_spec))


@pytest.mark.parametrize("name", ["mnist", "photos"])
def test_what_predict_makes_of_an_image_file_is_what_training_saw(data_dir, tmp_path, name):
    data = load(f"tfds:{name}", data_dir=data_dir)
    pixels = data.test_images[0]
    Image.fromarray(pixels.squeeze(-1) if name == "mnist" else pixels).save(tmp_path / "image.png")
    with open_image(tmp_path / "image.png") as image:
        np.testing.assert_array_equal(to_pixels(image, data.image_spec), pixels)


def test_images_of_one_size_are_resized_on_request(data_dir):
    assert load("tfds:mnist", data_dir=data_dir, image_size=16).train_images.shape == (TRAIN, 16, 16, 1)


def test_the_second_load_is_from_the_cache_and_each_size_has_its_own(data_dir, monkeypatch, tmp_path):
    first = [load("tfds:mnist", data_dir=data_dir, image_size=size) for size in (None, 16)]
    monkeypatch.setattr(prepared, "_read_split", None)  # would fail when called
    for mapped in (False, True):
        second = [load("tfds:mnist", data_dir=data_dir, image_size=size, mapped=mapped) for size in (None, 16)]
        assert [data.sha256() for data in first] == [data.sha256() for data in second]
        assert [data.image_spec for data in first] == [data.image_spec for data in second]
    assert len(list((tmp_path / "xdg/seanet_jax").iterdir())) == 2


def test_the_split_to_test_on_is_named_if_it_is_not_test(data_dir, capsys):
    load("tfds:held_out", data_dir=data_dir)
    load("tfds:mnist", data_dir=data_dir)
    said = "tfds:held_out has no split test; the images of its split validation are the test images"
    assert [line for line in capsys.readouterr().err.splitlines() if "no split" in line] == [said]


def test_tensorflow_is_never_imported(copied):
    to_tfrecord(copied / "mnist/1.2.3")
    code = f"""
import sys
from seanet_jax.data import load
for name in ("tfds:mnist", "tfds:photos"):
    load(name, data_dir={str(copied)!r})
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_too_many_images_for_the_memory_are_refused_before_any_is_decoded(data_dir, monkeypatch):
    monkeypatch.setattr(prepared, "decoded_image", None)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(
        InputError, match=r"17 images of 9 x 7 pixels need 2,142 bytes of memory, .* but 1,000 are free"
    ):
        load("tfds:mnist", data_dir=data_dir)


@pytest.mark.parametrize(
    "name", ["tfds:../mnist", "tfds:", "tfds:mnist:", "tfds:mnist/..", "tfds:mnist:latest", "tfds:a\n"]
)
def test_only_names_that_tfds_can_have_are_known(name):
    assert not is_known(name)
    with pytest.raises(InputError, match=r"no data set 'tfds:.*; the data sets are .*, tfds:NAME, "):
        load(name)


def test_names_are_known_before_anything_is_read():
    assert is_known("tfds:anything/at_all:1.0.0")
    assert find_source("tfds:mnist").title == "mnist"
    with pytest.raises(InputError, match="tfds:NAME stands for the data sets that TFDS has prepared; name one"):
        load("tfds:NAME")


def records_of(folder, split="test"):
    from array_record.python import array_record_module

    (path,) = folder.glob(f"*-{split}.array_record-*")
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.read_all()
    reader.close()
    return found


def example_of(image, label):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.extend(image)
    example.features.feature["label"].int64_list.value.extend(label)
    return example.SerializeToString()


PNG = encoded(made_images(1, (9, 7, 1))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-1], "holds 4 examples; it should hold 5, as .*dataset_info.json says"),
        (lambda r: [*r, r[0]], "holds more examples; it should hold 5"),
        (lambda r: [b"garbage", *r[1:]], "example 0 of .* is damaged"),
        (lambda r: [*r[:-1], b""], "example 4 of .* has 0 values of image and 0 of label; it must have one of each"),
        (lambda r: [example_of([PNG], [1, 2]), *r[1:]], "has 1 values of image and 2 of label"),
        (
            lambda r: [example_of([PNG], [3]), *r[1:]],
            "example 0 of .* has the label 3, which is not one of the 3 classes",
        ),
        (lambda r: [example_of([PNG], [-1]), *r[1:]], "has the label -1, .*a split without labels"),
        (lambda r: [example_of([b"GIF"], [1]), *r[1:]], "the image of example 0 of .* cannot be read"),
        (
            lambda r: [r[0], example_of([PNG[: len(PNG) // 2]], [1]), *r[2:]],
            "the image of example 1 of .* cannot be read",
        ),
        (
            lambda r: [example_of([encoded(made_images(1, (7, 9, 1))[0])], [1]), *r[1:]],
            r"the image of example 0 of .* cannot be read \(it has 7 x 9 pixels, not 9 x 7\)",
        ),
    ],
)
def test_wrong_examples_are_named(copied, change, message):
    folder = copied / "mnist/1.2.3"
    found = records_of(folder)
    (path,) = to_tfrecord(folder).glob("*-test.tfrecord-*")
    write_tfrecord(path, change(found))
    with pytest.raises(InputError, match=message) as error:
        load("tfds:mnist", data_dir=copied)
    assert str(path) in str(error.value)
