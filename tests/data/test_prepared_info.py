import json
import re

import pytest
from prepared_fixtures import encoded, made_images, prepare

from seanet_jax.data import load
from seanet_jax.data.prepared_info import is_prepared_name, read_info
from seanet_jax.errors import InputError

EXAMPLE = {"image": encoded(made_images(1, (4, 4, 3))[0]), "label": 1}
SPLIT = {
    "name": "train",
    "shardLengths": ["2", "1"],
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
}
INFO = {"name": "made", "fileFormat": "array_record", "splits": [SPLIT, SPLIT | {"name": "test"}]}
IMAGE = {"image": {"shape": {"dimensions": ["4", "4", "3"]}, "dtype": "uint8"}}
LABEL = {"classLabel": {"numClasses": "2"}}
TEXT = {"text": {}}


@pytest.fixture
def made(tmp_path):
    """Returns a function that writes the files of a prepared data set by hand, and reads them."""

    def read(info=(), features=None, names="cat\ndog\n", name="tfds:made"):
        folder = tmp_path / "made" / "1.0.0"
        folder.mkdir(parents=True, exist_ok=True)
        found = {"featuresDict": {"features": features if features is not None else {"image": IMAGE, "label": LABEL}}}
        (folder / "dataset_info.json").write_text(json.dumps(INFO | dict(info)))
        (folder / "features.json").write_text(json.dumps(found))
        if names is not None:
            (folder / "label.labels.txt").write_bytes(names if isinstance(names, bytes) else names.encode())
        return read_info(name, tmp_path)

    return read


def test_files_written_by_hand_are_those_that_tfds_writes(tmp_path, made):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=["cat", "dog"])
    features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": label}
    splits = {"train": [EXAMPLE] * 3, "test": [EXAMPLE] * 3}
    prepare(tmp_path / "real", "made", splits, features, supervised=("image", "label"))
    split = SPLIT | {"shardLengths": ["3"]}
    real, ours = (
        read_info("tfds:made", tmp_path / "real"),
        made({"splits": [split, split | {"name": "test"}]}),
    )
    assert real.train.files[0].name == ours.train.files[0].name == "made-train.array_record-00000-of-00001"
    assert [file.is_file() for file in (*real.train.files, *real.test.files)] == [True, True]
    for field in ("file_format", "image_key", "label_key", "size", "channels", "class_names"):
        assert getattr(real, field) == getattr(ours, field)


def test_the_files_of_all_shards_are_named(made):
    assert [path.name for path in made().train.files] == [
        "made-train.array_record-00000-of-00002",
        "made-train.array_record-00001-of-00002",
    ]
    assert made({"fileFormat": "tfrecord"}).test.files[1].name == "made-test.tfrecord-00001-of-00002"


def test_classes_without_names_are_numbered(made):
    assert made(names=None).class_names == ("0", "1")


@pytest.mark.parametrize(
    ("dimensions", "size"), [(["4", "5", "1"], (4, 5)), (["-1", "-1", "3"], None), (["4", "-1", "3"], None)]
)
def test_the_size_is_known_if_all_images_have_it(made, dimensions, size):
    info = made(features={"image": {"image": {"shape": {"dimensions": dimensions}}}, "label": LABEL})
    assert (info.size, info.channels) == (size, int(dimensions[-1]))


def supervised(image, label):
    return {"supervisedKeys": {"tuple": {"items": [{"featureKey": image}, {"featureKey": label}]}}}


def test_of_several_images_or_labels_those_that_tfds_prefers_are_taken(made):
    several = {"image": IMAGE, "mask": IMAGE, "coarse_label": LABEL, "label": LABEL, "id": TEXT}
    info = made(supervised("image", "label"), several)
    assert (info.image_key, info.label_key) == ("image", "label")
    for keys in ({}, supervised("image", "other"), supervised("id", "label"), {"supervisedKeys": {"tuple": []}}):
        with pytest.raises(
            InputError,
            match="the features coarse_label, id, image, label, mask, of which 2 images and 2 labels; examples must "
            "have one image, and one label that is a class",
        ):
            made(keys, several)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"info": {"fileFormat": "riegeli"}},
            "is prepared as riegeli; without TensorFlow only array_record and tfrecord",
        ),
        ({"info": {"name": 3}}, "dataset_info.json is damaged .*; prepare the data set again"),
        ({"info": {"name": "../../etc"}}, "gives files other names than TFDS does by default"),
        (
            {"info": {"splits": [SPLIT | {"filepathTemplate": "{X}"}, SPLIT | {"name": "test"}]}},
            "other names than TFDS",
        ),
        ({"info": {"splits": []}}, "has the splits none, but no train"),
        ({"info": {"splits": [SPLIT]}}, "has the splits train, but no test or validation; give a data set with images"),
        ({"info": {"splits": [SPLIT | {"name": "test\n"}]}}, r"has the splits test\\n, but no train"),
        ({"info": {"splits": [SPLIT, {"name": "test"}]}}, "gives the split test no number of examples"),
        ({"info": {"splits": [SPLIT, SPLIT | {"name": "test", "shardLengths": ["x"]}]}}, "no number of examples"),
        ({"info": {"splits": [SPLIT, SPLIT | {"name": "test", "shardLengths": ["-1"]}]}}, "no number of examples"),
        ({"features": {}}, "has the features none, of which 0 images and 0 labels"),
        (
            {"features": {"image": IMAGE, "objects": TEXT}},
            "the features image, objects, of which 1 images and 0 labels",
        ),
        ({"features": {"image": {"image": {}}, "label": LABEL}}, "features.json is damaged .*image has no shape"),
        (
            {"features": {"image": {"image": {"shape": {"dimensions": ["4"]}}}, "label": LABEL}},
            "the shape of image is 4",
        ),
        (
            {"features": {"image": {"image": {"shape": {"dimensions": ["4", "4", "4"]}}}, "label": LABEL}},
            "image has 4 channels of uint8; it must have 1",
        ),
        (
            {"features": {"image": {"image": IMAGE["image"] | {"dtype": "uint16"}}, "label": LABEL}},
            "image has 3 channels of uint16; it must have 1",
        ),
        ({"features": {"image": IMAGE, "label": {"classLabel": {}}}}, "gives no number of classes from 1 to 1,000,000"),
        ({"features": {"image": IMAGE, "label": {"classLabel": {"numClasses": "999999999"}}}}, "no number of classes"),
        ({"names": "cat\n\n"}, "label.labels.txt must hold 2 class names, as .*features.json says, but holds 1"),
        ({"names": b"cat\n\xff\n"}, "label.labels.txt must be a text file with one class name per line"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_a_sentence(made, changes, message):
    with pytest.raises(InputError, match=message) as error:
        made(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", '{"name": "a", "name": "b"}'])
def test_damaged_files_are_named(made, file, content):
    folder = made().folder
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=f"{file} is damaged"):
        read_info("tfds:made", folder.parent.parent)


def test_a_class_name_with_a_line_break_stays_in_its_line(made):
    assert made(names="ca\rt\x1b[31m\ndog\n").class_names == ("ca\rt\x1b[31m", "dog")


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        (["a/1.0.0", "a/1.10.0", "a/1.9.0"], "tfds:a", "a/1.10.0"),
        (["a/1.0.0", "a/2.0.0"], "tfds:a:1.0.0", "a/1.0.0"),
        (["a/blur/1.0.0"], "tfds:a", "a/blur/1.0.0"),
        (["a/blur/1.0.0", "a/noise/1.0.0"], "tfds:a/noise", "a/noise/1.0.0"),
        (["a/blur/1.0.0", "a/noise/1.0.0", "a/noise/2.0.0"], "tfds:a/noise:1.0.0", "a/noise/1.0.0"),
    ],
)
def test_the_folder_is_that_of_the_name_the_config_and_the_version(tmp_path, there, name, found):
    folders(tmp_path, *there)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / found / 'dataset_info.json'} is damaged")):
        read_info(name, tmp_path)


@pytest.mark.parametrize("name", ["tfds:a", "tfds:b/x", "tfds:a:3.0.0"])
def test_what_is_not_prepared_is_refused_with_the_command_that_prepares_it(tmp_path, name):
    folders(tmp_path, "b/1.0.0")
    (tmp_path / "a" / "3.0.0").mkdir(parents=True)  # not finished
    title = name.removeprefix("tfds:").split(":")[0]
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} does not hold {title} as prepared by TFDS")) as error:
        load(name, data_dir=tmp_path)
    assert f"'tfds build {title} --file_format=array_record --data_dir={tmp_path}'" in str(error.value)


def test_a_config_must_be_named_if_there_are_several(tmp_path):
    folders(tmp_path, "a/blur/1.0.0", "a/noise/1.0.0")
    with pytest.raises(InputError, match="has the configs blur, noise; name one, such as --dataset tfds:a/blur"):
        read_info("tfds:a", tmp_path)


@pytest.mark.parametrize(
    ("name", "known"), [("tfds:a", True), ("tfds:a/b-1.0+c:1.2.3", True), ("tfds:a/../b", False), ("mnist", False)]
)
def test_names_have_the_form_of_tfds(name, known):
    assert is_prepared_name(name) == known
