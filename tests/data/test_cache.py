import os
from pathlib import Path

import numpy as np
import pytest

from seanet_jax.data import cache

SHAPES = {"x": ((4, 3), "u1"), "names": ((2,), "U")}


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


class Build:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": np.arange(12, dtype=np.uint8).reshape(4, 3), "names": np.array(["a", "bcd"])}


def check(source, build):
    arrays = cache.cached("made", [source], SHAPES, build)
    np.testing.assert_array_equal(arrays["x"], Build()()["x"])
    assert arrays["names"].tolist() == ["a", "bcd"]


def files() -> list[Path]:
    return sorted(cache.cache_dir().iterdir())


def test_second_load_builds_nothing(source, capsys):
    build = Build()
    check(source, build)
    check(source, build)
    assert build.calls == 1
    assert len(files()) == 1 and files()[0].suffix == ".npz"
    assert capsys.readouterr().err == ""


def test_a_mapped_array_is_read_when_it_is_used(source):
    build = Build()
    assert not isinstance(cache.cached("made", [source], SHAPES, build, mapped=True)["x"], np.memmap)  # just built
    arrays = cache.cached("made", [source], SHAPES, build, mapped=True)
    assert build.calls == 1
    np.testing.assert_array_equal(arrays["x"], build()["x"])
    assert arrays["names"].tolist() == ["a", "bcd"]
    assert isinstance(arrays["x"], np.memmap) and not arrays["x"].flags.writeable
    (path,) = files()
    content = path.read_bytes()
    place = content.index(bytes(range(12)))
    with path.open("r+b") as file:
        file.seek(place + 3)
        file.write(b"\xff")
    assert arrays["x"][1].tolist() == [255, 4, 5]


@pytest.mark.parametrize("kind", ["compressed", "of objects", "in columns"])
def test_an_archive_that_cannot_be_mapped_is_built_again(source, capsys, kind):
    build = Build()
    check(source, build)
    (path,) = files()
    arrays = build()
    if kind == "compressed":
        np.savez_compressed(path, **arrays)
    else:
        bad = np.array([[None] * 3] * 4) if kind == "of objects" else np.asfortranarray(arrays["x"])
        np.savez(path, **(arrays | {"x": bad}))
    calls = build.calls
    assert cache.cached("made", [source], SHAPES, build, mapped=True)["x"].tolist() == build()["x"].tolist()
    assert build.calls == calls + 2
    assert "cannot be read (x.npy is " in capsys.readouterr().err


def test_an_edited_source_is_built_again_and_replaces_the_cache(source):
    build = Build()
    check(source, build)
    old = files()
    os.utime(source, ns=(1, 1))
    check(source, build)
    assert build.calls == 2
    assert len(files()) == 1 and files() != old


def test_a_cache_that_got_its_name_before_it_was_on_disk_is_built_again(source, monkeypatch):
    build = Build()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_FORMAT", 1)
        check(source, build)
    (old,) = files()
    check(source, build)
    assert build.calls == 2 and not old.exists()


def test_a_cache_is_on_disk_before_it_has_its_name_so_that_a_mapped_one_holds_no_zeros(source, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((os.fstat(descriptor).st_size, files())))
    cache.cache_dir().mkdir(parents=True)
    check(source, Build())
    (path,) = files()
    size, names = seen[-2]  # the last one is the folder
    assert size == path.stat().st_size and path not in names


def test_caches_of_other_data_sets_stay(source):
    build = Build()
    cache.cached("made2", [source], SHAPES, build)
    check(source, build)
    assert len(files()) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "shape", "dtype", "member"])
def test_a_damaged_cache_is_built_again(source, capsys, damage):
    build = Build()
    check(source, build)
    (path,) = files()
    content = bytearray(path.read_bytes())
    arrays = Build()()
    match damage:
        case "flip":
            at = content.index(bytes(range(12)))
            content[at + 5] ^= 1
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[:-30])
        case "empty":
            path.write_bytes(b"")
        case "shape":
            np.savez(path, **(arrays | {"x": arrays["x"][:3]}))
        case "dtype":
            np.savez(path, **(arrays | {"x": arrays["x"].astype(np.int8)}))
        case "member":
            np.savez(path, x=arrays["x"])
    check(source, build)
    assert build.calls == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path} cannot be read" in err
    check(source, build)
    assert build.calls == 2


class Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_objects_in_a_cache_are_not_loaded(source, tmp_path):
    build = Build()
    check(source, build)
    (path,) = files()
    np.savez(path, x=np.array([Attack(tmp_path / "trace")], dtype=object), names=np.array(["a", "b"]))
    check(source, build)
    assert build.calls == 2
    assert not (tmp_path / "trace").exists()


def test_an_unwritable_cache_is_no_error(source, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file: no folder can be made in it
    build = Build()
    check(source, build)
    check(source, build)
    assert build.calls == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "nothing is cached" in err
    assert f"{source}/seanet_jax cannot be written (Not a directory); name another folder with XDG_CACHE_HOME" in err


def test_a_cache_that_cannot_be_written_is_still_read(source, monkeypatch, capsys):
    build = Build()
    check(source, build)
    monkeypatch.setattr(cache, "make_folder", lambda folder: pytest.fail("nothing has to be written"))
    check(source, build)
    assert build.calls == 1 and capsys.readouterr().err == ""


def test_without_a_home_folder_nothing_is_cached_and_one_line_says_so(source, no_home, monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() is None and cache.writable_cache_dir() is None
    build = Build()
    check(source, build)
    check(source, build)
    assert build.calls == 2
    assert capsys.readouterr().err == (
        "there is no home folder; name a folder with XDG_CACHE_HOME; until then nothing is cached, and every start "
        "takes longer\n"
    )


def test_a_failed_write_leaves_no_file(source, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    check(source, Build())
    assert files() == []
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "", "relative/folder"])
def test_default_folder(value, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache.cache_dir() == tmp_path / ".cache" / "seanet_jax"
