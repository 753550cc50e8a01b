import json
import os
import subprocess
import sys

import pytest

from seanet_jax import cpu_tuning
from seanet_jax.cpu_tuning import MALLOC, XLA, tuned_environment

CPU = {"JAX_PLATFORMS": "cpu"}
TUNABLES = ":".join(f"{name}={value}" for name, value in MALLOC.items())
FLAGS = " ".join(f"--{name}={value}" for name, value in XLA.items())
BOTH = {"GLIBC_TUNABLES": TUNABLES, "XLA_FLAGS": FLAGS}

# Says how often it was started and what it was given, so that a restart that loses something, or never ends, shows.
PROGRAM = """
import json, os, sys
variables = [os.environ.get(name) for name in ("GLIBC_TUNABLES", "XLA_FLAGS")]
print(json.dumps([*variables, sys.argv, sys.warnoptions, os.getpid()]), flush=True)
from seanet_jax.cpu_tuning import restart_tuned
restart_tuned()
"""


@pytest.fixture(autouse=True)
def glibc(monkeypatch):
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("glibc", "2.36"))


def test_malloc_and_xla_are_tuned():
    assert tuned_environment(CPU) == BOTH


def test_other_settings_stay():
    others = {"GLIBC_TUNABLES": "glibc.rtld.nns=4", "XLA_FLAGS": "--xla_dump_to=x"}
    expected = {"GLIBC_TUNABLES": f"glibc.rtld.nns=4:{TUNABLES}", "XLA_FLAGS": f"--xla_dump_to=x {FLAGS}"}
    assert tuned_environment(CPU | others) == expected


def test_what_is_tuned_is_left_alone():
    assert tuned_environment(CPU | tuned_environment(CPU)) == {}
    assert tuned_environment(CPU | {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}) == {"XLA_FLAGS": FLAGS}
    (option,) = XLA
    assert tuned_environment(CPU | {"XLA_FLAGS": f"--{option}="}) == {"GLIBC_TUNABLES": TUNABLES}


def test_no_other_c_library_is_tuned(monkeypatch):
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("", ""))
    assert tuned_environment(CPU) == {"XLA_FLAGS": FLAGS}


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(cpu_tuning, "XLA", {"xla_cpu_no_such_option": "1"})
    assert tuned_environment(CPU) == {"GLIBC_TUNABLES": TUNABLES}


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu", "tpu"])
def test_nothing_is_tuned_for_an_accelerator(platforms):
    assert tuned_environment({"JAX_PLATFORMS": platforms}) == {}


@pytest.mark.parametrize("plugin", ["jax_plugins", "libtpu"])
def test_nothing_is_tuned_where_an_accelerators_plugin_is_installed(monkeypatch, plugin):
    found = {None: BOTH, plugin: {}}
    for installed, expected in found.items():
        monkeypatch.setattr(cpu_tuning.importlib.util, "find_spec", lambda name, i=installed: name == i or None)
        assert tuned_environment({}) == expected


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="the C library is not glibc")
def test_a_program_restarts_once_as_it_was_called():
    environment = {name: value for name, value in os.environ.items() if name not in BOTH}
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, "--flag", "a b"]
    done = subprocess.run(command, env=environment | CPU, capture_output=True, text=True, check=True, timeout=120)
    before, after = (json.loads(line) for line in done.stdout.splitlines())
    assert (before[:2], after[:2]) == ([None, None], [TUNABLES, FLAGS])
    assert before[2:] == after[2:]
    assert after[2] == ["-c", "--flag", "a b"]
