"""Paths are read in one way, and what cannot be used is refused in one sentence."""

import errno
import os
import re
from pathlib import Path

import pytest
from path_fixtures import obeying_permissions

import seanet_jax
from seanet_jax import paths
from seanet_jax.errors import InputError


@pytest.fixture
def forbidden(tmp_path, monkeypatch):
    """Returns a file and a folder at which the user may not look. The tests may be run by root, who may everything."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "file").write_text("text")
    stat = Path.stat

    def refuse(path, **options):
        if private in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    return private / "file"


@pytest.mark.parametrize("path", ["runs/x", Path("runs/x"), "./runs//x"])
def test_a_string_and_a_path_are_read_alike(path):
    assert paths.user_path(path) == Path("runs/x")


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/runs/x", Path("~/runs/x")):
        assert paths.user_path(path) == tmp_path / "runs/x"
    assert paths.user_path("~") == tmp_path
    assert paths.user_path("runs/~/x") == Path("runs/~/x")
    assert paths.user_path(paths.user_path("~/x")) == tmp_path / "x"


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket", "hf://owner/name", "file:///runs", "host.org:/runs"])
def test_a_url_is_refused_also_after_it_was_a_path(url):
    for path in (url, Path(url)):
        with pytest.raises(InputError, match="only local folders and files can be used") as error:
            paths.user_path(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["C:/runs", "a:b", "runs/gs://x", "10:30.png", "2026-11-26T10:30/run"])
def test_a_colon_makes_no_url(path):
    assert paths.user_path(path) == Path(path)


@pytest.mark.parametrize("path", ["", "a\0b", b"runs", None, 3, Path])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InputError, match="path"):
        paths.user_path(path)


def test_a_home_folder_that_does_not_exist_is_refused_unless_a_file_has_this_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="~nobody-has-this-name has no home folder here; give the whole path"):
        paths.user_path("~nobody-has-this-name/x")
    Path("~nobody-has-this-name").mkdir()
    assert paths.user_path("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")


def test_without_a_home_folder_a_path_in_it_is_refused(no_home):
    assert paths.home_folder() is None
    with pytest.raises(InputError, match="~ has no home folder here"):
        paths.user_path("~/runs")


def test_what_is_at_a_path_is_seen(tmp_path):
    file, nothing = tmp_path / "file", tmp_path / "nothing"
    file.write_text("text")
    for path, seen in ((tmp_path, (True, False, True)), (file, (True, True, False)), (nothing, (False, False, False))):
        assert (paths.exists(path), paths.is_file(path), paths.is_folder(path)) == seen
    assert not paths.exists(file / "below")


def test_a_path_at_which_nobody_may_look_is_not_called_missing(forbidden):
    for ask in (paths.exists, paths.is_file, paths.is_folder, paths.check_readable):
        with pytest.raises(InputError, match=r"file cannot be read \(Permission denied\)$"):
            ask(forbidden)
    with pytest.raises(InputError, match="cannot be read"):
        paths.check_readable(forbidden.parent)


def test_a_name_that_is_too_long_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\)$"):
        paths.exists(tmp_path / ("a" * 300))
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
        paths.make_folder(tmp_path / ("a" * 300))


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "one").write_text("text")
    paths.check_readable(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"sub/link cannot be read \(No such file or directory\)"):
        paths.check_readable(tmp_path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a named pipe"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
)
def test_what_is_no_file_is_not_opened(make, kind, tmp_path):
    make(tmp_path / "x")
    for check in (paths.check_regular, paths.read_bytes):
        with pytest.raises(InputError, match=f"/x cannot be read .it is {kind}.; a file must be there$"):
            check(tmp_path / "x")
    paths.check_regular(tmp_path / "nothing")
    if kind == "a named pipe":
        with pytest.raises(InputError, match="it is a named pipe"):
            paths.check_readable(tmp_path)


def test_a_file_is_read_unless_it_is_too_large(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert paths.read_bytes(tmp_path / "x") == b"abc"
    os.truncate(tmp_path / "x", 2**40)
    with pytest.raises(InputError, match=r"/x cannot be read .it has more than 268,435,456 bytes."):
        paths.read_bytes(tmp_path / "x")


def test_a_folder_is_made_once_and_refused_where_a_file_is(tmp_path):
    for _ in range(2):
        paths.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").rglob("*")) == [tmp_path / "a" / "b"]
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="file is a file; name a folder"):
        paths.make_folder(tmp_path / "file")
    with pytest.raises(InputError, match=r"below cannot be written \(Not a directory\)"):
        paths.make_folder(tmp_path / "file" / "below")


def test_permissions_decide_what_can_be_seen(tmp_path):
    for name, mode in (("closed", 0), ("listed", 0o400), ("entered", 0o100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
        (tmp_path / name).chmod(mode)
    with obeying_permissions():
        for name in ("closed", "listed"):
            with pytest.raises(InputError, match=rf"{name}/file cannot be read \(Permission denied\)"):
                paths.exists(tmp_path / name / "file")
        assert paths.is_file(tmp_path / "entered/file")
        with pytest.raises(InputError, match=r"entered cannot be read \(Permission denied\)"):
            paths.check_readable(tmp_path / "entered")
        with pytest.raises(InputError, match=r"entered cannot be written \(Permission denied\); name another folder"):
            paths.make_folder(tmp_path / "entered")
    for folder in tmp_path.iterdir():
        folder.chmod(0o700)


def test_a_link_to_itself_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop cannot be read \(Too many levels of symbolic links\)"):
        paths.is_folder(tmp_path / "loop")


def test_no_module_asks_pathlib_what_is_at_a_path():
    """It would raise a PermissionError, or answer False from Python 3.14 on."""
    question = re.compile(r"\.(exists|is_file|is_dir|expanduser)\(|os\.path\.|Path\.home\(")
    asked = {
        f"{path.name}: {line.strip()}"
        for path in Path(seanet_jax.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if path.name != "paths.py" and question.search(line)
    }
    # An entry of os.scandir: most are answered without asking, and the errors of the others are caught.
    assert asked == {"folder_layout.py: return entry.is_dir()"}
