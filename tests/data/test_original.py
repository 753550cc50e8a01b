import builtins
import io
import os
import pickle
import tarfile
from pathlib import Path

import data_fixtures as made
import numpy as np
import pytest

from seanet_jax.data import original
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.errors import InputError

SPEC = made.tiny(CIFAR100)


def read(data_dir, spec=SPEC):
    return original.read(spec, *original.find(spec, data_dir))


def assert_original(found, spec=SPEC):
    """Asserts that the content is that of the fixtures, in the order of the files."""
    content = made.make_original(spec)
    for split, expected in ((found.train, content.train), (found.test, content.test)):
        np.testing.assert_array_equal(split.images, expected.images)
        assert split.labels.keys() == expected.labels.keys()
        for key, values in expected.labels.items():
            np.testing.assert_array_equal(split.labels[key], values)
    assert found.names == content.names


@pytest.mark.parametrize("spec", [made.tiny(CIFAR10), SPEC], ids=lambda spec: spec.name)
@pytest.mark.parametrize("form", ["binary", "python 2"])
@pytest.mark.parametrize("place", ["folder", "archive"])
def test_images_labels_and_names_are_in_the_order_of_the_files(spec, form, place, tmp_path):
    assert_original(read(made.write(spec, form, tmp_path, place), spec), spec)


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert original.find(SPEC, tmp_path) is None
    assert original.find(SPEC, tmp_path / "missing") is None


def test_binary_records_are_found_before_pickles_and_folders_before_archives(tmp_path):
    binary, python = tmp_path / SPEC.binary.folder, tmp_path / SPEC.python.folder
    archive = tmp_path / SPEC.binary.archive
    archive.touch()
    assert original.find(SPEC, tmp_path) == (SPEC.binary, archive)
    python.mkdir()
    assert original.find(SPEC, tmp_path) == (SPEC.python, python)
    binary.mkdir()
    assert original.find(SPEC, tmp_path) == (SPEC.binary, binary)


def test_a_renamed_folder_is_found_only_if_it_is_complete(tmp_path):
    folder = made.write(SPEC, "binary", tmp_path, "renamed")
    assert original.find(SPEC, folder) == (SPEC.binary, folder)
    (folder / "test.bin").unlink()
    assert original.find(SPEC, folder) is None
    # Under its own name, an incomplete folder is found, so that reading it names the missing file.
    folder = folder.rename(tmp_path / SPEC.binary.folder)
    assert original.find(SPEC, folder) == (SPEC.binary, folder)


def flip_label(path):
    content = bytearray(path.read_bytes())
    content[1] = 100
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
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
def test_damaged_binary_files_are_named(file, damage, message, tmp_path):
    made.write(SPEC, "binary", tmp_path)
    path = tmp_path / SPEC.binary.folder / file
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path)
    assert str(path) in str(error.value)


def repickle(**changes):
    def damage(path):
        value = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(value | changes))

    return damage


@pytest.mark.parametrize(
    ("file", "damage", "message"),
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
def test_damaged_pickles_are_named(file, damage, message, tmp_path):
    made.write(SPEC, "python 2", tmp_path)
    path = tmp_path / SPEC.python.folder / file
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path)
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
    made.write(SPEC, "python 2", tmp_path)
    trace = tmp_path / "trace"
    function, *args = function
    attack = Attack(function, *[a.format(trace) if isinstance(a, str) else a for a in args])
    path = tmp_path / SPEC.python.folder / "train"
    path.write_bytes(pickle.dumps({"data": attack}))
    with pytest.raises(InputError, match="refers to"):
        read(tmp_path)
    assert not list(tmp_path.glob("trace*"))
    pickle.loads(path.read_bytes())
    assert list(tmp_path.glob("trace*"))  # an unpickler that admits everything runs it


def rewrite(archive, members):
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members_of(archive):
    with tarfile.open(archive) as tar:
        return [(m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar]


def test_archive_members_elsewhere_are_ignored_and_never_written(tmp_path):
    data_dir = made.write(SPEC, "binary", tmp_path / "data", "archive")
    archive = data_dir / SPEC.binary.archive
    members = members_of(archive)
    for name in ("../escaped", "/" + str(tmp_path / "absolute").lstrip("/"), f"{SPEC.binary.folder}/../../escaped"):
        members.insert(0, (tarfile.TarInfo(name), b"evil"))
    rewrite(archive, members)
    before = made.tree(tmp_path)
    assert_original(read(data_dir))
    assert made.tree(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_not_a_regular_file_counts_as_missing(kind, tmp_path):
    data_dir = made.write(SPEC, "binary", tmp_path / "data", "archive")
    archive = data_dir / SPEC.binary.archive
    members = members_of(archive)
    for member, _ in members:
        if member.name.endswith("/train.bin"):
            member.type, member.linkname = kind, "/etc/passwd"
    rewrite(archive, [(m, c if m.isreg() else b"") for m, c in members])
    with pytest.raises(InputError, match=r"lacks the file cifar-100-binary/train\.bin"):
        read(data_dir)


def swap(name, content):
    def damage(archive):
        rewrite(archive, [(m, content if m.name.endswith(f"/{name}") else c) for m, c in members_of(archive)])

    return damage


def flip(archive, at):
    content = bytearray(archive.read_bytes())
    content[at] ^= 1
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
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
def test_damaged_archives_are_named(damage, message, tmp_path):
    made.write(SPEC, "binary", tmp_path, "archive")
    archive = tmp_path / SPEC.binary.archive
    damage(archive)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path)
    assert str(archive) in str(error.value)
