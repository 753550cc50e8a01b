import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seanet_jax.files import leftovers, printable, printable_list, write_whole


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


def test_the_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((path.exists(), *map(Path.read_text, leftovers(path)))))
    write_whole(path, "new")
    assert seen == [(False, "new")]


def test_what_a_killed_process_leaves_is_found_by_the_name_of_its_file_and_harms_no_later_writer(tmp_path):
    for name in ("lr0.1", "lr0", "lr0.1-a"):
        killed = (
            "import os, pathlib, sys; from seanet_jax.files import write_whole; os.fsync = lambda _: os._exit(9);"
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 字", "plain é 字"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\udcff", r"\udcff"),
        (Path("a\rb"), r"a\rb"),
        ("\u202eleft", r"\u202eleft"),
    ],
)
def test_what_would_break_a_line_or_command_a_terminal_is_escaped(text, expected):
    assert printable(text) == expected


def test_a_list_of_texts_is_cut_and_printable():
    assert printable_list(["a", "b\n"], "; ") == r"a; b\n" and printable_list([]) == ""
    assert printable_list([str(number) for number in range(22)]).endswith("18, 19, and 2 more")
    assert printable_list(["x" * 301]) == "x" * 300 + "…"
