"""The layouts of folders of images, and ten kinds of bad ones: each is read correctly or refused in one sentence."""

import os
import random
import socket
import unicodedata

import pytest
from folder_fixtures import two_classes, write_images
from path_fixtures import obeying_permissions

from seanet_jax import InputError
from seanet_jax.data.folder_layout import read_layout


def found(folder):
    """The path in the folder, the class and the split of each file."""
    return [(str(f.path.relative_to(folder)), f.class_name, f.is_test) for f in read_layout(folder).files]


def refusal(folder):
    with pytest.raises(InputError) as refused:
        read_layout(folder)
    return str(refused.value)


def test_folders_of_classes_are_read_with_the_folders_in_them(tmp_path):
    write_images(tmp_path, ["cat/1.png", "cat/more/deep/2.png", "dog/1.png"])
    assert found(tmp_path) == [
        ("cat/1.png", "cat", None),
        ("cat/more/deep/2.png", "cat", None),
        ("dog/1.png", "dog", None),
    ]
    layout = read_layout(tmp_path)
    assert layout.class_names == ["cat", "dog"] and not layout.has_test and not layout.notes


@pytest.mark.parametrize("held_out", ["test", "Testing", "val", "valid", "validation"])
def test_train_and_test_have_folders_of_classes(tmp_path, held_out):
    write_images(tmp_path, ["train/cat/1.png", "train/dog/1.png", f"{held_out}/dog/2.png"])
    layout = read_layout(tmp_path)
    assert [(f.class_name, f.is_test) for f in layout.files if f.is_test] == [("dog", True)]
    assert layout.class_names == ["cat", "dog"] and layout.has_test and not layout.notes


def test_of_test_and_val_the_first_is_used_and_the_user_is_told(tmp_path):
    two_classes(tmp_path, 1, ("train", "val", "test"))
    layout = read_layout(tmp_path)
    assert {str(f.path.relative_to(tmp_path).parts[0]) for f in layout.files} == {"train", "test"}
    assert layout.notes == [f"{tmp_path}: the images of test are the test images, and those of val unused"]


def test_train_alone_is_split_later(tmp_path):
    two_classes(tmp_path, 1, ("train",))
    assert [is_test for _, _, is_test in found(tmp_path)] == [None, None]


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, ["car/1.png", "train/1.png"])
    assert read_layout(tmp_path).class_names == ["car", "train"]


def test_folders_beside_train_and_test_are_named(tmp_path):
    two_classes(tmp_path, 1, ("train", "test", "raw"))
    assert read_layout(tmp_path).notes == [f"{tmp_path}: raw beside train is not used"]


def test_test_without_train_is_refused(tmp_path):
    two_classes(tmp_path, 1, ("test",))
    assert "has a folder test, but no folder train" in refusal(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path):
    two_classes(tmp_path, 1, ("train", "Training"))
    assert "has the folders Training and train; keep one of them" in refusal(tmp_path)


def test_hidden_files_and_those_of_operating_systems_are_no_images(tmp_path):
    two_classes(tmp_path, 1)
    write_images(tmp_path, ["__MACOSX/cat/1.png", ".git/1.png", "cat/.cache/1.png", "cat/@eaDir/1.png"])
    for name in (".DS_Store", "cat/.DS_Store", "cat/._1.png", "cat/Thumbs.db", "dog/desktop.ini", "README.txt"):
        (tmp_path / name).write_bytes(b"no image")
    assert found(tmp_path) == [("cat/0.png", "cat", None), ("dog/0.png", "dog", None)]


def test_classes_and_files_come_in_the_order_of_code_points(tmp_path, monkeypatch):
    names = ["Zebra", "ant", "Ärger", "zoo", "10", "9"]
    write_images(tmp_path, [f"{name}/{i}.png" for name in names for i in ("b", "B", "é", "a")])
    layout = read_layout(tmp_path)
    assert layout.class_names == ["10", "9", "Zebra", "ant", "zoo", "Ärger"]
    assert [f.path.name for f in layout.files[:4]] == ["B.png", "a.png", "b.png", "é.png"]
    # A file system lists names in any order.
    scandir = os.scandir

    class Shuffled:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self._entries = list(entries)
            random.Random(1).shuffle(self._entries)

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert read_layout(tmp_path) == layout


def test_both_forms_of_an_accent_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_images(tmp_path, [f"train/{composed}/1.png", "train/tea/1.png", f"test/{decomposed}/2.png"])
    layout = read_layout(tmp_path)
    assert layout.class_names == [composed, "tea"]
    assert [f.class_name for f in layout.files if f.is_test] == [composed]


def test_a_missing_folder_is_refused(tmp_path):
    assert refusal(tmp_path / "none").endswith("none does not exist; name a folder that holds one for each class")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file").endswith("file is a file; name a folder that holds one for each class")


def test_an_empty_folder_is_refused(tmp_path):
    assert f"{tmp_path} holds no folder; put the images into a folder for each class" in refusal(tmp_path)
    (tmp_path / "cat").mkdir()
    assert f"{tmp_path} holds no images; a classifier needs at least two folders of images" in refusal(tmp_path)


def test_a_flat_folder_is_refused(tmp_path):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    assert "holds 3 images but no folder; put the images into a folder for each class" in refusal(tmp_path)


def test_images_beside_the_classes_are_named(tmp_path):
    two_classes(tmp_path, 1)
    write_images(tmp_path, ["1.png", "2.JPG"])
    (note,) = read_layout(tmp_path).notes
    assert note == f"{tmp_path}: images beside the folders of the classes, which are not used: 2, such as 1.png"


def test_one_class_is_refused(tmp_path):
    write_images(tmp_path, ["cat/1.png", "cat/2.png"])
    (tmp_path / "dog").mkdir()
    assert f"{tmp_path} holds one class of images, cat; a classifier needs at least two" in refusal(tmp_path)


def test_an_empty_class_is_named_and_is_no_class(tmp_path):
    two_classes(tmp_path, 1)
    (tmp_path / "emu").mkdir()
    layout = read_layout(tmp_path)
    assert layout.class_names == ["cat", "dog"] and layout.notes == [f"{tmp_path / 'emu'} holds no file"]


def test_a_class_in_test_that_train_lacks_is_refused(tmp_path):
    two_classes(tmp_path, 1, ("train", "test"))
    write_images(tmp_path, ["test/emu/1.png"])
    assert f"{tmp_path / 'test'} has classes that {tmp_path / 'train'} lacks: emu;" in refusal(tmp_path)


def test_links_are_followed_but_not_in_a_loop(tmp_path):
    two_classes(tmp_path, 1)
    outside = write_images(tmp_path / ".outside", ["5.png"])
    (tmp_path / "cat" / "linked").symlink_to(outside)
    (tmp_path / "cat" / "file.png").symlink_to(outside / "5.png")
    (tmp_path / "cat" / "parent").symlink_to("..")
    (tmp_path / "dog" / "self").symlink_to(".")
    names = [name for name, _, _ in found(tmp_path)]
    assert names == ["cat/0.png", "cat/file.png", "cat/linked/5.png", "dog/0.png"]
    (note,) = read_layout(tmp_path).notes
    assert note == f"Links to a folder above them, which are not followed: 2, such as {tmp_path}/cat/parent"


def test_what_cannot_be_opened_is_found_with_the_reason(tmp_path, monkeypatch):
    two_classes(tmp_path, 1)
    (tmp_path / "cat" / "to_itself.png").symlink_to("to_itself.png")
    (tmp_path / "cat" / "to_nothing.png").symlink_to("nothing")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made, obeying_permissions():
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        made.bind("cat/socket.png")
        (tmp_path / "dog" / "closed").mkdir(mode=0)
        (tmp_path / "dog" / "secret.png").touch(mode=0)
        problems = {f.path.name: f.problem for f in read_layout(tmp_path).files if f.problem}
    assert set(problems) == {"to_itself.png", "to_nothing.png", "pipe.png", "socket.png", "closed", "secret.png"}
    for name, reason in {
        "to_itself.png": "Too many levels of symbolic links",
        "to_nothing.png": "No such file or directory",
        "pipe.png": "it is a named pipe",
        "socket.png": "it is a socket",
        "closed": "Permission denied",
        "secret.png": "Permission denied",
    }.items():
        assert f"{name} cannot be read ({reason})" in problems[name]


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    two_classes(tmp_path, 1)
    write_images(tmp_path / os.fsdecode(b"caf\xe9"), ["1.png"])
    assert "caf\\udce9: the name of a class must be Unicode text in UTF-8; rename it" in refusal(tmp_path)


def test_names_with_line_breaks_are_read(tmp_path):
    write_images(tmp_path, ["a\nb/1\n2.png", "dog/1.png"])
    layout = read_layout(tmp_path)
    assert layout.class_names == ["a\nb", "dog"]
    assert layout.files[0].path == tmp_path / "a\nb" / "1\n2.png"
