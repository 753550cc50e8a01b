import builtins
import io
import os
import pickle
import shutil
import tarfile
import time
from pathlib import Path

import data_fixtures as made
import numpy as np
import pytest

from seanet_jax.data import image_spec, load, tfds, train_count
from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.errors import InputError

SPECS = {"cifar10": made.tiny(CIFAR10), "cifar100": made.tiny(CIFAR100)}
SPEC = SPECS["cifar100"]

WRITERS = {
    "binary": made.write_binary,
    "python 2": made.write_python,
    **{
        f"python 3, protocol {p}": lambda spec, content, folder, p=p: made.write_python(spec, content, folder, p)
        for p in (0, 2, 4, 5)
    },
}


@pytest.fixture(autouse=True)
def no_prepared_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write(spec, form, data_dir, place="folder"):
    layout = spec.binary if form == "binary" else spec.python
    content = made.make_original(spec)
    folder = WRITERS[form](spec, content, data_dir / layout.folder)
    if place == "archive":
        made.write_archive(folder, data_dir / layout.archive)
        shutil.rmtree(folder)
    elif place == "itself":
        return folder
    elif place == "renamed":
        return folder.rename(data_dir / "renamed")
    return data_dir


def check(spec, data):
    content = made.make_original(spec)
    for name, split in (("train", content.train), ("test", content.test)):
        order = tfds.order(name, len(split.images))
        np.testing.assert_array_equal(getattr(data, f"{name}_images"), split.images[order])
        np.testing.assert_array_equal(getattr(data, f"{name}_labels"), split.labels["label"][order])
    assert data.image_spec.class_names == content.names["label"]
    assert data.flip and data.name == spec.name


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("place", ["folder", "archive", "itself", "renamed"])
def test_every_form_gives_the_same_data(name, form, place, tmp_path):
    spec = SPECS[name]
    data_dir = write(spec, form, tmp_path / "data", place)
    before = made.tree(tmp_path)
    check(spec, load_cifar(spec, data_dir, False))
    assert made.tree(tmp_path) == before  # archives are not unpacked


def test_a_folder_goes_before_an_archive(tmp_path):
    write(SPEC, "binary", tmp_path)
    (tmp_path / SPEC.python.archive).write_bytes(b"never opened")
    check(SPEC, load_cifar(SPEC, tmp_path, False))


def flip_label(path):
    content = bytearray(path.read_bytes())
    content[1] = 100
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("train.bin", Path.unlink, "is missing"),
        ("train.bin", lambda p: p.write_bytes(p.read_bytes()[:-1]), "61479 bytes; .* 20 records of 3074"),
        ("train.bin", lambda p: p.write_bytes(p.read_bytes() + b"x"), "61481 bytes"),
        ("test.bin", lambda p: p.write_bytes(b""), "0 bytes"),
        ("test.bin", flip_label, "the label of image 0 is 100"),
        ("fine_label_names.txt", Path.unlink, "is missing"),
        ("fine_label_names.txt", lambda p: p.write_text("one\ntwo\n"), "100 class names .* holds 2"),
        ("fine_label_names.txt", lambda p: p.write_bytes(b"\xff\xfe"), "text file"),
        ("coarse_label_names.txt", lambda p: p.write_text("x\n" * 100_000), "200000 bytes"),
    ],
)
def test_spoilt_binary_files_are_named(file, spoil, said, tmp_path):
    write(SPEC, "binary", tmp_path)
    path = tmp_path / SPEC.binary.folder / file
    spoil(path)
    with pytest.raises(InputError, match=said) as error:
        load_cifar(SPEC, tmp_path, False)
    assert str(path) in str(error.value)


def repickle(**changes):
    def spoil(path):
        value = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(value | changes))

    return spoil


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("train", lambda p: p.write_bytes(p.read_bytes()[:-2000]), "damaged or not a pickled batch"),
        ("train", lambda p: p.write_bytes(b""), "damaged or not a pickled batch"),
        ("train", lambda p: p.write_bytes(b"\x80\x02" + b"x" * 100), "damaged or not a pickled batch"),
        ("train", lambda p: p.write_bytes(bytes(1_000_000)), "1000000 bytes"),
        ("train", lambda p: p.write_bytes(pickle.dumps([1, 2])), "dictionary, not list"),
        ("train", repickle(data=np.zeros((19, 3072), np.uint8)), r"uint8 \[20, 3072\], not uint8 \[19, 3072\]"),
        ("train", repickle(data=np.zeros((20, 3072), np.int8)), "not int8"),
        ("train", repickle(data=None), "not NoneType"),
        ("train", repickle(fine_labels=[0] * 19), "'fine_labels' must be a list of 20"),
        ("train", repickle(fine_labels=["0"] * 20), "'fine_labels' must be a list of 20"),
        ("train", repickle(fine_labels=[2**40] * 20), "the label of image 0"),
        ("test", repickle(coarse_labels=[-1] * 10), "the coarse_label of image 0 is -1"),
        ("test", Path.unlink, "is missing"),
        ("meta", repickle(fine_label_names=["a"]), "100 class names"),
        ("meta", repickle(fine_label_names=None), "100 class names"),
    ],
)
def test_spoilt_pickles_are_named(file, spoil, said, tmp_path):
    write(SPEC, "python 2", tmp_path)
    path = tmp_path / SPEC.python.folder / file
    spoil(path)
    with pytest.raises(InputError, match=said) as error:
        load_cifar(SPEC, tmp_path, False)
    assert str(path) in str(error.value)


class Attack:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function",
    [
        (os.system, "touch {}"),
        (builtins.eval, "__import__('pathlib').Path('{}').touch()"),
        (os.mkdir, "{}"),
        (np.save, "{}", [1]),
    ],
)
def test_a_pickle_that_calls_anything_else_runs_nothing(function, tmp_path):
    write(SPEC, "python 2", tmp_path)
    trace = tmp_path / "trace"
    function, *args = function
    attack = Attack(function, *[a.format(trace) if isinstance(a, str) else a for a in args])
    path = tmp_path / SPEC.python.folder / "train"
    path.write_bytes(pickle.dumps({"data": attack}))
    with pytest.raises(InputError, match="refers to"):
        load_cifar(SPEC, tmp_path, False)
    assert not list(tmp_path.glob("trace*"))
    pickle.loads(path.read_bytes())
    assert list(tmp_path.glob("trace*"))  # the same pickle does its work where everything is admitted


def rewrite(archive, members):
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members_of(archive):
    with tarfile.open(archive) as tar:
        return [(m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar]


def test_archive_members_elsewhere_are_ignored_and_never_written(tmp_path):
    data_dir = write(SPEC, "binary", tmp_path / "data", "archive")
    archive = data_dir / SPEC.binary.archive
    members = members_of(archive)
    for name in ("../escaped", "/" + str(tmp_path / "absolute").lstrip("/"), f"{SPEC.binary.folder}/../../escaped"):
        members.insert(0, (tarfile.TarInfo(name), b"evil"))
    rewrite(archive, members)
    before = made.tree(tmp_path)
    check(SPEC, load_cifar(SPEC, data_dir, False))
    assert made.tree(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_regular_file_is_missing(kind, tmp_path):
    data_dir = write(SPEC, "binary", tmp_path / "data", "archive")
    archive = data_dir / SPEC.binary.archive
    members = members_of(archive)
    for member, _ in members:
        if member.name.endswith("/train.bin"):
            member.type, member.linkname = kind, "/etc/passwd"
    rewrite(archive, [(m, c if m.isreg() else b"") for m, c in members])
    with pytest.raises(InputError, match=r"lacks the file cifar-100-binary/train\.bin"):
        load_cifar(SPEC, data_dir, False)


def swap(name, content):
    def spoil(archive):
        rewrite(archive, [(m, content if m.name.endswith(f"/{name}") else c) for m, c in members_of(archive)])

    return spoil


def flip(archive, at):
    content = bytearray(archive.read_bytes())
    content[at] ^= 1
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: a.write_bytes(b""), "damaged|lacks"),
        (lambda a: a.write_bytes(b"not an archive"), "damaged"),
        (lambda a: a.write_bytes(a.read_bytes()[:-1000]), "damaged"),
        (lambda a: a.write_bytes(a.read_bytes()[:-5]), "damaged"),
        (lambda a: flip(a, 50_000), "damaged|unpacks to more"),
        (lambda a: flip(a, -6), "damaged"),
        (swap("train.bin", bytes(61_479)), "61479 bytes"),
        (swap("train.bin", bytes(61_481)), "61481 bytes"),
        (swap("train.bin", bytes(50_000_000)), "unpacks to more than"),
        (lambda a: rewrite(a, members_of(a)[:-1]), "lacks the file"),
    ],
)
def test_spoilt_archives_are_named(spoil, said, tmp_path):
    write(SPEC, "binary", tmp_path, "archive")
    archive = tmp_path / SPEC.binary.archive
    spoil(archive)
    with pytest.raises(InputError, match=said) as error:
        load_cifar(SPEC, tmp_path, False)
    assert str(archive) in str(error.value)


@pytest.mark.parametrize("exists", [True, False])
def test_without_data_and_network_one_sentence_and_no_trace(exists, tmp_path):
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


def test_a_data_dir_that_is_a_file(tmp_path):
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


@pytest.mark.parametrize("spec", [CIFAR10, CIFAR100], ids=lambda spec: spec.name)
def test_what_the_classes_are_called_is_known_without_the_data(spec):
    images = image_spec(spec.name)
    assert len(set(images.class_names)) == spec.num_classes and train_count(spec.name) == spec.train_count
    prepared = tfds.prepared_folder(spec, tfds.default_data_dir())
    if not tfds.is_prepared(spec, prepared.parent.parent):
        pytest.skip(f"no prepared {spec.title} in $TFDS_DATA_DIR")
    assert images.class_names == tuple((prepared / "label.labels.txt").read_text().split())
