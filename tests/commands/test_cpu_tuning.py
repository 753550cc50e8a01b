import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from seanet_jax.commands import cpu_tuning
from seanet_jax.commands.cpu_tuning import MALLOC, XLA, compiler_options, tuned_environment

CPU = {"JAX_PLATFORMS": "cpu"}
TUNABLES = ":".join(f"{name}={value}" for name, value in MALLOC.items())
TUNED = {"GLIBC_TUNABLES": TUNABLES}

# Says how often it was started and what it was given, so that a restart that loses something, or never ends, shows; and
# what was imported before, since all of that is imported twice.
PROGRAM = """
import json, os, sys
from seanet_jax.commands.train import main
print(json.dumps([os.environ.get("GLIBC_TUNABLES"), sys.argv, sys.warnoptions, os.getpid()]), flush=True)
slow = {"jax", "flax", "numpy", "tyro"} & set(sys.modules)
print(json.dumps(sorted(slow)), flush=True)
main("A test.", dataset="digits")
"""


@pytest.fixture(autouse=True)
def glibc(monkeypatch):
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("glibc", "2.36"))


def test_malloc_is_tuned():
    assert tuned_environment(CPU) == TUNED


def test_other_settings_stay():
    assert tuned_environment(CPU | {"GLIBC_TUNABLES": "glibc.rtld.nns=4"}) == {
        "GLIBC_TUNABLES": f"glibc.rtld.nns=4:{TUNABLES}"
    }


def test_what_is_tuned_is_left_alone():
    assert tuned_environment(CPU | tuned_environment(CPU)) == {}
    assert tuned_environment(CPU | {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}) == {}
    (option,) = XLA
    assert compiler_options(CPU | {"XLA_FLAGS": f"--{option}="}) == {}


def test_no_other_c_library_is_tuned(monkeypatch):
    monkeypatch.setattr(cpu_tuning.platform, "libc_ver", lambda: ("", ""))
    assert tuned_environment(CPU) == {}


def test_xla_compiles_with_its_options():
    options = compiler_options(CPU | {"XLA_FLAGS": "--xla_dump_to=x"})
    assert options == XLA
    x = jnp.arange(1e4).reshape(100, 100)
    assert jax.jit(lambda x: x.sum(0), compiler_options=dict(options))(x)[0] == 495000


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(cpu_tuning, "XLA", {"xla_cpu_no_such_option": "1"})
    assert compiler_options(CPU) == {}


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu", "tpu"])
def test_nothing_is_tuned_for_an_accelerator(platforms):
    assert tuned_environment({"JAX_PLATFORMS": platforms}) == compiler_options({"JAX_PLATFORMS": platforms}) == {}


@pytest.mark.parametrize("plugin", ["jax_plugins", "libtpu"])
def test_nothing_is_tuned_where_an_accelerators_plugin_is_installed(monkeypatch, plugin):
    found = {None: (TUNED, XLA), plugin: ({}, {})}
    for installed, expected in found.items():
        monkeypatch.setattr(cpu_tuning.importlib.util, "find_spec", lambda name, i=installed: name == i or None)
        assert (tuned_environment({}), compiler_options({})) == expected


def started(*arguments):
    """What each start of the program says: its settings, arguments and number, and its imports."""
    environment = {name: value for name, value in os.environ.items() if name not in TUNED} | CPU
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, "error: epochs is 0; it must be a positive integer\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[1::2] == [[]] * (len(lines) // 2)
    return lines[::2]


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="the C library is not glibc")
def test_an_experiment_restarts_once_as_it_was_called():
    before, after = started("--epochs", "0", "--out", "a b")
    assert (before[0], after[0]) == (None, TUNABLES)
    assert before[1:] == after[1:]
    assert after[1] == ["-c", "--epochs", "0", "--out", "a b"]


@pytest.mark.parametrize("flag", ["--no-tune-cpu", "--no-tune_cpu"])
def test_an_experiment_stays_as_it_is_where_that_is_asked(flag):
    (only,) = started("--epochs", "0", flag)
    assert only[0] is None
