import os
from pathlib import Path

import pytest

from seanet_jax.file_systems import network_file_system


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Returns a function that has the folder of the test mounted as a type, and answers what is said about it."""
    device = tmp_path.stat().st_dev
    read_text = Path.read_text

    def ask(text):
        text = text.format(device=f"{os.major(device)}:{os.minor(device)}")

        def read(path, *arguments, **options):
            return text if path == Path("/proc/self/mountinfo") else read_text(path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", read)
            return network_file_system(tmp_path)

    return ask


LINE = "36 35 {{device}} / /data rw,relatime shared:1 master:2 - {} server:/export rw,vers=4.2\n"


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "fuse.sshfs", "fuse.gcsfuse", "virtiofs"]
)
def test_network_file_systems_are_named(kind, mounted):
    assert mounted(LINE.format(kind)) == kind


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuseblk", "nfsd", "unknown"])
def test_of_local_and_unknown_file_systems_nothing_is_said(kind, mounted):
    assert mounted(LINE.format(kind)) is None


def test_the_file_system_is_that_of_the_path_wherever_others_are_mounted(mounted):
    others = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 0:999 / /with\\040space\\134 rw - nfs4 other:/ rw\n"
        "24 22 {device} /folder /data/bound rw,nosuid - nfs server:/ rw\n"
        "25 22 0:998 / /data rw - ext4 /dev/sdb rw\n"
    )
    assert mounted(others) == "nfs"
    assert mounted(others.replace("{device}", "0:997")) is None


@pytest.mark.parametrize("text", ["", "\n", "36 35\n", "36 35 {device} / /data rw\n", "36 35 {device} / / rw - \n"])
def test_of_a_list_of_mounts_that_says_nothing_nothing_is_said(text, mounted):
    assert mounted(text) is None


def test_without_a_list_of_mounts_nothing_is_said(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert network_file_system(tmp_path) is None
    assert network_file_system(tmp_path / "missing") is None


def test_proc_is_on_no_network():
    assert network_file_system(Path("/proc/self")) is None
