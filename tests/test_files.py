import os
from pathlib import Path

import pytest

from seanet_jax.files import printable, temporary_path, write_whole


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
    assert set(tmp_path.iterdir()) == {path, temporary_path(path)}


def test_the_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((path.exists(), temporary_path(path).read_text())))
    write_whole(path, "new")
    assert seen == [(False, "new")]


def test_the_temporary_file_is_beside_the_file_and_keeps_its_whole_name():
    assert temporary_path(Path("runs/lr0.1")) == Path("runs/lr0.1.tmp")


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
