import os
import platform

import jax
import numpy as np

from seanet_jax import environment


def test_settings_are_the_variables_that_are_set_and_the_compiler_options(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("UNRELATED", "1")
    found = environment.process_settings({"xla_cpu_enable_fast_math": "true"})
    assert found == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "xla_cpu_enable_fast_math": "true"}


def test_without_settings_there_are_none(monkeypatch):
    for name in ("GLIBC_TUNABLES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    assert environment.process_settings({}) == {}


def test_versions_are_those_that_are_imported():
    versions = environment.versions()
    assert versions["python"] == platform.python_version()
    assert (versions["jax"], versions["numpy"]) == (jax.__version__, np.__version__)
    assert {"seanet-jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(versions)


class Device:
    def __init__(self, platform, kind):
        self.platform, self.device_kind = platform, kind


def describe(monkeypatch, devices, processes=1):
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    return environment.describe_devices()


def test_devices_are_counted_and_a_cpu_has_its_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert describe(monkeypatch, [Device("cpu", "cpu")]) == "1 x cpu (2 cores)"
    gpus = [Device("gpu", "NVIDIA H100")] * 8
    assert describe(monkeypatch, gpus) == "8 x NVIDIA H100"
    assert describe(monkeypatch, gpus, processes=2) == "8 x NVIDIA H100, of 2 processes"
