import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import data_fixtures as made
import numpy as np
import pytest
from path_fixtures import obeying_permissions

from seanet_jax.data import original, tfds
from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.errors import InputError

SPECS = {"cifar10": made.tiny(CIFAR10), "cifar100": made.tiny(CIFAR100)}
SPEC = SPECS["cifar100"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    roots = {}
    for name, spec in SPECS.items():
        roots[name] = tmp_path_factory.mktemp(name) / "data"
        made.prepare(spec, made.make_original(spec), tmp_path_factory.mktemp("scratch"), roots[name])
    return roots


@pytest.fixture
def prepared(prepared_once, tmp_path):
    return Path(shutil.copytree(prepared_once["cifar100"], tmp_path / "data"))


def file_of(root, split):
    (path,) = (root / SPEC.name / SPEC.version).glob(f"*-{split}.array_record-*")
    return path


@pytest.mark.parametrize("name", SPECS)
def test_prepared_data_read_like_the_original(name, prepared_once, tmp_path):
    spec = SPECS[name]
    made.write_binary(spec, made.make_original(spec), tmp_path / spec.binary.folder)
    data = load_cifar(spec, prepared_once[name], False)
    same = load_cifar(spec, tmp_path, False)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(data, field), getattr(same, field))
    assert data.image_spec == same.image_spec


@pytest.mark.parametrize("name", SPECS)
def test_tfds_reads_what_was_prepared(name, prepared_once):
    import tensorflow_datasets

    content = made.make_original(SPECS[name])
    builder = tensorflow_datasets.builder(name, data_dir=prepared_once[name])
    assert builder.info.splits["train"].num_examples == made.TRAIN
    for key, names in content.names.items():
        assert tuple(builder.info.features[key].names) == names
    for split, examples in (("train", content.train), ("test", content.test)):
        order = tfds.order(split, len(examples.images))
        for i, example in zip(order, builder.as_data_source(split), strict=True):
            assert example["id"] == f"{split}_{i:05d}".encode()
            np.testing.assert_array_equal(example["image"], examples.images[i])
            assert {key: example[key] for key in examples.labels} == {k: v[i] for k, v in examples.labels.items()}


def test_the_prepared_metadata_are_those_of_tfds(prepared):
    info = json.loads((prepared / SPEC.name / SPEC.version / "dataset_info.json").read_text())
    assert info["name"] == "cifar100" and info["version"] == "3.0.2"
    assert info["moduleName"] == "tensorflow_datasets.image_classification.cifar"
    assert info["fileFormat"] == "array_record"
    assert [split["shardLengths"] for split in info["splits"]] == [["20"], ["10"]]
    assert str(prepared.parent) not in json.dumps(info)
    top = {path.name for path in prepared.iterdir()}
    assert top == {"cifar100", "downloads"}  # the temporary folder is gone
    assert len([path for path in (prepared / "downloads").rglob("*.tar.gz") if path.is_file()]) == 1


def test_the_order_is_that_of_the_real_cifar100():
    assert tfds.order("train", 50_000)[:5].tolist() == [16399, 1680, 47917, 17307, 27051]
    assert tfds.order("test", 10_000)[:5].tolist() == [9933, 5669, 163, 6686, 4747]


def test_urls_are_those_whose_checksums_tfds_knows():
    import tensorflow_datasets

    for spec in (CIFAR10, CIFAR100):
        builder = tensorflow_datasets.builder_cls(spec.name)
        assert list(builder.url_infos) == [spec.url]
        assert str(builder.VERSION) == spec.version


def test_tensorflow_is_never_imported(prepared):
    code = f"""
import dataclasses, sys
from pathlib import Path
from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.original import CIFAR100
spec = dataclasses.replace(CIFAR100, train_count={made.TRAIN}, test_count={made.TEST})
load_cifar(spec, Path({str(prepared)!r}), True)
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("Decoding CIFAR-100")


def test_the_second_load_is_from_the_cache(prepared, monkeypatch):
    first = load_cifar(SPEC, prepared, False)
    monkeypatch.setattr(tfds, "read_prepared", None)  # would fail when called
    second = load_cifar(SPEC, prepared, False)
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert first.image_spec == second.image_spec


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (lambda p: p.write_bytes(b""), "truncated or damaged"),
        (lambda p: p.write_bytes(b"x" * 200_000), "truncated or damaged"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated or damaged"),
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "truncated or damaged"),
        (lambda p: flip(p, 74), "truncated or damaged"),
        (lambda p: flip(p, 500), "truncated or damaged"),
        (lambda p: flip(p, 30_000), "truncated or damaged"),
        (lambda p: flip(p, (p.stat().st_size - 1) // 65536 * 65536 + 10), "truncated or damaged"),
    ],
)
def test_damaged_records_are_named(split, damage, message, prepared):
    path = file_of(prepared, split)
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        load_cifar(SPEC, prepared, False)
    assert str(path) in str(error.value)


def write_records(path, records):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def read_records(path):
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    return records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-1], "holds 9 images; it should hold 10"),
        (lambda r: [*r, r[0]], "holds 11 images; it should hold 10"),
        (lambda r: [*r[:-1], b"garbage"], "truncated or damaged"),
        (lambda r: [*r[:-1], b""], "truncated or damaged"),
        (lambda r: [*r[:-1], r[-1].replace(b"\x89PNG", b"\x89GIF")], "truncated or damaged"),
        (lambda r: [*r[:-1], r[-1].replace(b"IDAT", b"IDAX")], "truncated or damaged"),
        (lambda r: [*r[:-1], r[-1].replace(b"\0\0\0\x20\0\0\0\x20", b"\0\0\0\x10\0\0\0\x20")], "truncated or damaged"),
    ],
)
def test_well_formed_files_with_wrong_content_are_named(change, message, prepared):
    path = file_of(prepared, "test")
    write_records(path, change(read_records(path)))
    with pytest.raises(InputError, match=message) as error:
        load_cifar(SPEC, prepared, False)
    assert str(path) in str(error.value)


def test_images_of_another_size_are_refused(tmp_path, monkeypatch):
    encode = tfds._encode_png
    monkeypatch.setattr(tfds, "_encode_png", lambda pixels: encode(pixels[:1, :1]))  # would broadcast
    made.prepare(SPEC, made.make_original(SPEC), tmp_path / "scratch", tmp_path / "data")
    with pytest.raises(InputError, match=r"an image is \[1, 1, 3\]"):
        load_cifar(SPEC, tmp_path / "data", False)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset_info.json", lambda text: text[:100], "damaged"),
        ("dataset_info.json", lambda text: "", "damaged"),
        ("dataset_info.json", lambda text: text.replace('"20"', '"19"'), "19 training and 10 test images"),
        ("dataset_info.json", lambda text: text.replace("array_record", "tfrecord"), "prepared as tfrecord"),
        ("dataset_info.json", lambda text: re.sub(r'"splits".*\],\n', "", text, flags=re.DOTALL), "damaged"),
        ("label.labels.txt", lambda text: "only\n", "100 class names"),
        ("label.labels.txt", lambda text: None, "label.labels.txt is missing"),
    ],
)
def test_damaged_metadata_is_named(file, change, message, prepared):
    folder = prepared / SPEC.name / SPEC.version
    text = change((folder / file).read_text())
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_cifar(SPEC, prepared, False)
    assert str(folder) in str(error.value)


def test_missing_data_are_downloaded_prepared_and_read(tmp_path, monkeypatch, capsys):
    scratch, root = tmp_path / "scratch", tmp_path / "new" / "data"
    content = made.make_original(SPEC)
    archive = made.write_archive(
        made.write_binary(SPEC, content, scratch / SPEC.binary.folder), scratch / SPEC.binary.archive
    )
    with made.served(scratch) as url:
        spec = made.dataclasses.replace(SPEC, url=f"{url}/{archive.name}")
        made.know_checksum(monkeypatch, spec.url, archive.read_bytes())
        data = load_cifar(spec, root, True)
    np.testing.assert_array_equal(data.train_images, content.train.images[tfds.order("train", made.TRAIN)])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split()[0] for line in printed.err.splitlines()] == ["Downloading", "Decoding"]
    assert load_cifar(SPEC, root, False).image_spec == data.image_spec  # and now without the server


@pytest.fixture
def served(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    folder = made.write_binary(SPEC, made.make_original(SPEC), scratch / SPEC.binary.folder)
    archive = made.write_archive(folder, scratch / SPEC.binary.archive)
    with made.served(scratch) as url:
        spec = made.dataclasses.replace(SPEC, url=f"{url}/{archive.name}")
        made.know_checksum(monkeypatch, spec.url, archive.read_bytes())
        yield spec, archive


@pytest.mark.parametrize("exists", [True, False])
def test_a_wrong_checksum_leaves_no_trace(exists, served, tmp_path):
    spec, archive = served
    archive.write_bytes(archive.read_bytes() + b"more")
    root = tmp_path / "deep" / "data"
    if exists:
        (root / "cifar100").mkdir(parents=True)
    before = made.tree(tmp_path)
    with pytest.raises(InputError, match="checksum") as error:
        load_cifar(spec, root, False)
    assert spec.url in str(error.value)
    assert made.tree(tmp_path) == before


def test_a_missing_page_is_named_as_the_reason(served, tmp_path):
    spec, _ = served
    spec = made.dataclasses.replace(spec, url=spec.url + "x")
    before = made.tree(tmp_path)
    with pytest.raises(InputError, match="HTTP status 404"):
        load_cifar(spec, tmp_path / "data", False)
    assert made.tree(tmp_path) == before


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), InputError("odd"), KeyboardInterrupt()])
def test_a_failed_preparation_leaves_no_trace(failure, served, tmp_path, monkeypatch):
    spec, _ = served
    calls = []

    def fail(image):
        calls.append(image)
        if len(calls) == 7:
            raise failure
        return b"png"

    monkeypatch.setattr(tfds, "_encode_png", fail)
    before = made.tree(tmp_path)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else InputError
    with pytest.raises(expected, match=r"No space left|odd|^$"):
        load_cifar(spec, tmp_path / "data", False)
    assert len(calls) == 7
    assert made.tree(tmp_path) == before


def test_a_folder_that_cannot_be_created_is_refused(served, tmp_path):
    spec, archive = served
    before = made.tree(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        load_cifar(spec, archive / "data", False)
    assert made.tree(tmp_path) == before


def test_the_process_that_finishes_first_wins(served, prepared, tmp_path):
    spec, _ = served
    info = prepared / SPEC.name / SPEC.version / "dataset_info.json"
    before = info.stat().st_ino
    tfds.download_and_prepare(spec, prepared, lambda path: original.read(spec, spec.binary, path), False)
    assert info.stat().st_ino == before
    assert {path.name for path in prepared.iterdir()} == {"cifar100", "downloads"}


@pytest.mark.parametrize("split", ["train", "test", None])
def test_prepared_data_that_may_not_be_read_are_not_called_damaged(split, prepared):
    closed = file_of(prepared, split) if split else prepared / SPEC.name / SPEC.version / "dataset_info.json"
    closed.chmod(0)
    with obeying_permissions(), pytest.raises(InputError) as error:
        load_cifar(SPEC, prepared, False)
    assert str(error.value) == f"{closed} cannot be read (Permission denied)"
