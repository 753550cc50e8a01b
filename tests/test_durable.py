import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seanet_jax.durable import (
    append,
    folder_written_whole,
    leftovers,
    locked,
    make_folders,
    sync_folder,
    unique_beside,
    write_together,
    write_whole,
)


def path_of(descriptor):
    """Returns the path of an open file, on Linux."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@pytest.mark.parametrize(("content", "expected"), [("é\n", b"\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_are_written(content, expected, tmp_path):
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_existing_file_is_replaced_and_not_overwritten(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    os.link(path, link)
    write_whole(path, "new")
    assert (path.read_text(), link.read_text()) == ("new", "old")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(function, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if function == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_disk_before_it_has_its_name_and_its_name_when_writing_ends(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(("folder" if is_folder else "file", path.exists(), *map(Path.read_text, leftovers(path))))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, "new")
    assert seen == [("file", False, "new"), ("folder", True)]


def test_a_folder_and_its_files_are_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    target, seen = tmp_path / "folder", []

    def fsync(descriptor):
        seen.append((path_of(descriptor).name, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with folder_written_whole(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        (folder / "link").symlink_to("deep")
        os.mkfifo(folder / "pipe")
        temporary = folder.name
    assert seen == [("file", False), ("deep", False), (temporary, False), (tmp_path.name, True)]
    assert (target / "deep" / "file").read_text() == "content" and list(tmp_path.iterdir()) == [target]


def test_nothing_is_left_of_a_folder_whose_writing_fails(tmp_path):
    with pytest.raises(ValueError, match="half"), folder_written_whole(tmp_path / "folder") as folder:
        (folder / "file").write_text("content")
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_new_folders_are_on_disk(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path_of(descriptor)))
    make_folders(tmp_path / "a" / "b")
    assert set(seen) == {tmp_path, tmp_path / "a"} and (tmp_path / "a" / "b").is_dir()
    make_folders(tmp_path / "a" / "b")
    assert len(seen) == 2


def test_what_is_appended_is_on_disk_and_so_is_the_name_of_a_new_file(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((os.fstat(descriptor).st_ino, path.read_text())))
    append(path, "a\n")
    append(path, "é\n")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert seen == [(file, "a\n"), (folder, "a\n"), (file, "a\né\n")]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_synchronize_folders_is_no_error_but_a_failing_disk_is(
    number, fails, tmp_path, monkeypatch
):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="error") if fails else contextlib.nullcontext():
        sync_folder(tmp_path)


def test_files_that_belong_together_are_all_on_disk_before_the_first_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    names, seen = ["deep/a", "b"], []

    def fsync(descriptor):
        path = path_of(descriptor)
        seen.append((path if path.is_dir() else "file", [name for name in names if (tmp_path / name).exists()]))

    monkeypatch.setattr(os, "fsync", fsync)
    write_together(tmp_path, {"deep/a": "a", "b": b"b"})
    assert seen[:2] == [("file", []), ("file", [])]
    assert sorted(seen[2:]) == [(tmp_path, names), (tmp_path / "deep", names)]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "deep"]


def test_files_that_belong_together_are_removed_together(tmp_path):
    write_together(tmp_path, {"a": "1", "b": "1"})
    write_together(tmp_path, {"a": None, "c": None, "b": "2"})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("b", "2")]


def test_if_one_of_several_files_cannot_be_written_all_the_old_ones_stay(tmp_path):
    write_together(tmp_path, {"a": "old", "b": "old"})
    with pytest.raises(FileNotFoundError):
        write_together(tmp_path, {"a": "new", "missing/b": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


def test_files_get_no_name_while_another_reads_and_readers_do_not_wait_for_one_another(tmp_path):
    write_together(tmp_path, {"a": "old", "b": "old"})
    writer = threading.Thread(target=write_together, args=(tmp_path, {"a": "new", "b": "new"}))
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True):
        writer.start()
        writer.join(0.3)
        assert writer.is_alive() and (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "old"
    writer.join()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"


def test_a_folder_that_cannot_be_locked_is_written_without(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # as NFS answers

    monkeypatch.setattr(fcntl, "flock", flock)
    write_together(tmp_path, {"a": "new"})
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_a_day_ago_is_removed_by_the_next_writer(kind, tmp_path):
    old, new = unique_beside(tmp_path / "a"), unique_beside(tmp_path / "a")
    for path, age in ((old, 25), (new, 23)):
        path.mkdir() if kind == "folder" else path.touch()
        os.utime(path, times=(time.time() - 3600 * age,) * 2)
    write_whole(tmp_path / "a", "new")
    assert leftovers(tmp_path / "a") == [new]


def test_what_a_killed_process_leaves_is_found_by_the_name_of_its_file_and_harms_no_later_writer(tmp_path):
    for name in ("lr0.1", "lr0", "lr0.1-a"):
        killed = (
            "import os, pathlib, sys; from seanet_jax.durable import write_whole; os.fsync = lambda _: os._exit(9);"
            "write_whole(pathlib.Path(sys.argv[1]), 'new')"
        )
        assert subprocess.run([sys.executable, "-c", killed, tmp_path / name], check=False).returncode == 9
    (left,) = leftovers(tmp_path / "lr0.1")
    assert left.name.startswith(".lr0.1-") and not (tmp_path / "lr0.1").exists()
    write_whole(tmp_path / "lr0.1", "again")
    assert (tmp_path / "lr0.1").read_text() == "again" and leftovers(tmp_path / "lr0.1") == [left]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    for name in (255 * "x", 85 * "字"):
        write_whole(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new" and leftovers(tmp_path / name) == []


def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_two_writers_and_a_reader_of_one_file_see_whole_files_and_no_error(tmp_path):
    path, size = tmp_path / "file", 20_000
    write_whole(path, "a" * size)
    errors = []

    def write(letter):
        try:
            for _ in range(15):
                write_whole(path, letter * size)
        except OSError as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "bc"]
    for writer in writers:
        writer.start()
    read = [path.read_text() for _ in iter(lambda: any(writer.is_alive() for writer in writers), False)]
    for writer in writers:
        writer.join()
    assert not errors
    assert {(len(text), len(set(text))) for text in read} <= {(size, 1)}
    assert list(tmp_path.iterdir()) == [path]
