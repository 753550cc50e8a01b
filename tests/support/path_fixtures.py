"""What tests of paths share: a process without a home folder, and files that may not be read."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_home(monkeypatch):
    """Takes the home folder away: HOME is not set, and the system does not know the user."""
    from seanet_jax.data import cache

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    cache._print_once.cache_clear()


# From linux/capability.h: the bits by which root passes over permissions of files, and a version of the structures.
_PASSING_OVER_PERMISSIONS = 1 << 1 | 1 << 2
_VERSION = 0x20080522


@contextlib.contextmanager
def obeying_permissions() -> Iterator[None]:
    """Inside, permissions of files hold for this thread and those that it starts, even if they are root's."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root passes over permissions")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    before, fewer = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for capabilities in (before, fewer):
        assert libc.capget(header, capabilities) == 0
    fewer[0] &= ~_PASSING_OVER_PERMISSIONS
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
