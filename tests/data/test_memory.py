import os

import pytest

from seanet_jax.data import memory


def test_available_memory_is_at_most_that_of_the_machine():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**24 < memory.available_memory() <= whole


@pytest.mark.parametrize(("limit", "free"), [("max\n", 2_048_000), ("1000000\n", 1_000_000)])
def test_the_kernels_estimate_and_the_limit_of_a_container_hold(tmp_path, monkeypatch, limit, free):
    for name, text in (("_PROC", "MemTotal: 9000 kB\nMemAvailable:    2000 kB\n"), ("_CGROUP", limit)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, name, tmp_path / name)
    assert memory.available_memory() == free


def test_where_the_kernel_gives_no_estimate_all_memory_is_available(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "missing")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "missing")
    assert memory.available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
