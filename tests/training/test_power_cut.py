"""What was said to be saved survives a power cut, on real file systems. Skipped where images cannot be mounted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from disk_image import FILE_SYSTEMS, DiskImage, missing

from seanet_jax.durable import append, folder_written_whole, make_folders, write_whole

SUPPORT = Path(__file__).parents[1] / "support"


def skip_unless_mountable(file_system, scratch):
    if reason := missing(file_system, scratch):
        pytest.skip(f"needs root, loop devices and mkfs.{file_system}: {reason}")


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_a_cut_keeps_what_was_written_durably_and_loses_what_was_not(file_system, tmp_path):
    skip_unless_mountable(file_system, tmp_path)
    content = os.urandom(100_000)
    with DiskImage(file_system, tmp_path) as disk:
        write_whole(disk.folder / "replaced", b"old")
        disk.synchronize()
        write_whole(disk.folder / "replaced", content)
        make_folders(disk.folder / "a" / "b")
        append(disk.folder / "a" / "b" / "records", "one\n")
        with folder_written_whole(disk.folder / "whole") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_bytes(content)
        append(disk.folder / "a" / "b" / "records", "two\n")
        (disk.folder / "late").write_bytes(content)
        disk.cut()
        with pytest.raises(OSError, match=r"Input/output error|Read-only file system"):
            write_whole(disk.folder / "too late", content)
        disk.restart()
        assert (disk.folder / "replaced").read_bytes() == content
        assert (disk.folder / "a" / "b" / "records").read_text() == "one\ntwo\n"
        assert (disk.folder / "whole" / "inner" / "file").read_bytes() == content
        assert not (disk.folder / "too late").exists()
        # What nobody synchronized has no content, or not even a name: the cut is one.
        late = disk.folder / "late"
        assert not late.exists() or late.read_bytes() == b""
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(tmp_path.iterdir()) == []


def test_without_mkfs_the_reason_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert missing("xfs", tmp_path) == "there is no mkfs.xfs"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing("xfs", tmp_path) == "only root may mount images"


@pytest.mark.slow
def test_what_was_said_to_be_saved_survives_cuts_and_the_run_ends_like_one_left_in_peace(tmp_path, monkeypatch):
    skip_unless_mountable("ext4", tmp_path)
    # Here it is the steps that take long.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    command = [sys.executable, SUPPORT / "cut_power.py", "--cuts", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equals the one left in peace bit for bit" in done.stdout
