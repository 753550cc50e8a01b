import importlib.metadata
import os
import platform

import jax
import numpy as np
import pytest

import seanet_jax
from seanet_jax import environment, jax_settings
from seanet_jax.errors import InputError


def test_settings_are_the_variables_that_are_set_and_those_of_jax_and_the_compiler_options(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("UNRELATED", "1")
    monkeypatch.setattr(jax_settings, "recorded", lambda: {"jax_default_matmul_precision": "highest"})
    found = environment.process_settings({"xla_cpu_enable_fast_math": "true"})
    assert found == {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "jax_default_matmul_precision": "highest",
        "xla_cpu_enable_fast_math": "true",
    }


def test_without_settings_there_are_none(monkeypatch):
    for name in ("GLIBC_TUNABLES", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax_settings, "recorded", dict)  # these tests themselves disable most optimizations
    assert environment.process_settings({}) == {}


def test_rounding_depends_on_devices_versions_and_settings_but_not_on_the_allocator(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    found = environment.rounding({"xla_option": "1"})
    assert {
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        "xla_option": "1",
        "jax": jax.__version__,
    }.items() <= found.items()
    assert found["device"] == environment.describe_devices() and "GLIBC_TUNABLES" not in found


def test_changes_are_listed_by_name():
    saved, now = {"jax": "0.10.2", "device": "1 x cpu"}, {"device": "1 x cpu", "XLA_FLAGS": "--a"}
    lines = ["XLA_FLAGS: unset was saved, --a is in use", "jax: 0.10.2 was saved, unset is in use"]
    assert environment.rounding_changes(saved, now) == lines
    assert environment.rounding_changes(now, now) == []


def test_without_a_record_only_settings_of_jax_are_compared_with_its_defaults():
    now = {"jax": "0.10.2", "XLA_FLAGS": "--a", "jax_default_matmul_precision": "highest"}
    line = "jax_default_matmul_precision: unset was saved, highest is in use"
    assert environment.rounding_changes(None, now) == [line]


def test_versions_are_those_that_are_imported():
    versions = environment.versions()
    assert versions["python"] == platform.python_version()
    assert (versions["jax"], versions["numpy"]) == (jax.__version__, np.__version__)
    assert {"seanet-jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(versions)


def test_a_package_without_metadata_is_left_out_and_this_one_has_the_version_of_its_code(monkeypatch):
    def version(name):
        if name in ("seanet-jax", "optax"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    expected = {"python": platform.python_version(), "seanet-jax": seanet_jax.__version__}
    assert environment.versions() == expected | dict.fromkeys(
        ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy"), "1.0"
    )


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


@pytest.mark.parametrize(
    ("error", "asked", "sentence"),
    [
        (
            AssertionError(),
            "cuda",
            "JAX_PLATFORMS is 'cuda', and JAX finds no such device here; install JAX's build for it",
        ),
        (
            RuntimeError("Unable to initialize backend 'tpu': no libtpu. (set JAX_PLATFORMS='' to choose)"),
            "tpu",
            "JAX_PLATFORMS is 'tpu', and JAX finds no such device here (Unable to initialize backend 'tpu': no libtpu",
        ),
        (RuntimeError("no driver\nmore"), None, "JAX finds no device (no driver); "),
    ],
)
def test_devices_that_cannot_start_are_one_sentence(error, asked, sentence, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", asked)
    try:
        with pytest.raises(InputError) as raised:
            environment.start_devices()
    finally:
        jax.config.update("jax_platforms", before)
    assert str(raised.value).startswith(sentence) and str(raised.value).endswith("or set JAX_PLATFORMS to cpu")


def test_devices_that_are_there_start():
    environment.start_devices()
