import json
import os
import shlex
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


UNTUNED = f"malloc is not tuned; training is faster if Python starts with GLIBC_TUNABLES={TUNABLES}\n"


def environment():
    return {name: value for name, value in os.environ.items() if name not in TUNED} | CPU


def started(*arguments):
    """What each start of the program says: its settings, arguments and number, and its imports."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, "error: epochs is 0; it must be a positive integer\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[1::2] == [[]] * (len(lines) // 2)
    return lines[::2]


on_glibc = pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="the C library is not glibc")


@pytest.mark.slow
@on_glibc
def test_an_experiment_restarts_once_as_it_was_called():
    before, after = started("--epochs", "0", "--out", "a b")
    assert (before[0], after[0]) == (None, TUNABLES)
    assert before[1:] == after[1:]
    assert after[1] == ["-c", "--epochs", "0", "--out", "a b"]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--no-tune-cpu", "--no-tune_cpu"])
def test_an_experiment_stays_as_it_is_where_that_is_asked(flag):
    (only,) = started("--epochs", "0", flag)
    assert only[0] is None


PYTHON = shlex.quote(sys.executable)

# Each of them would lose something if it were replaced by itself. {program} prints "started" and trains.
NOT_ALONE = {
    "piped": "cat {program} | {python} - --epochs 0",
    "here-document": "{python} - --epochs 0 <<'END'\n{code}\nEND",
    "pipe with a name": "mkfifo fifo; cat {program} > fifo & {python} fifo --epochs 0",
    "prompt": "{python} -i - --epochs 0 <<'END'\n{code}\nEND",
    "inspected": "PYTHONINSPECT=1 {python} {program} --epochs 0 < /dev/null",
    "profiled": "{python} -m cProfile -o profile {program} --epochs 0",
}
DRIVERS = {
    "runpy": "import runpy; runpy.run_path('program.py', run_name='__main__')",
    "exec": "exec(open('program.py').read())",
    "importing": "import program",
    "thread": "import threading; t = threading.Thread(target=__import__, args=['program']); t.start(); t.join()",
    "sweep": "import sys; sys.argv += ['--no-augment']; from seanet_jax.commands.train import main; main()",
    "multiprocessing": """
import multiprocessing, sys
if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=__import__, args=['program'])
    process.start()
    process.join()
    sys.exit(process.exitcode)
""",
}


def started_by(folder, script):
    """How often a shell script starts programs that print "started", its status and its errors."""
    script = script.format(python=PYTHON, program="program.py", code=STARTING)
    (folder / "program.py").write_text(STARTING)
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout.count("started"), done.returncode, done.stderr


STARTING = """
print("started", flush=True)
from seanet_jax.commands.train import main
main("A test.", dataset="digits")
"""
WRONG = "error: epochs is 0; it must be a positive integer\n"


@on_glibc
@pytest.mark.slow
@pytest.mark.parametrize("how", NOT_ALONE)
def test_a_program_that_cannot_start_again_is_not_replaced(how, tmp_path):
    count, status, errors = started_by(tmp_path, NOT_ALONE[how])
    assert count == 1
    assert UNTUNED + WRONG in errors.replace(">>> ", "")
    assert status == 2 or how in ("prompt", "inspected", "profiled")  # these end with a status of their own


@on_glibc
@pytest.mark.slow
@pytest.mark.parametrize("how", DRIVERS)
def test_another_program_that_runs_a_command_is_not_replaced(how, tmp_path):
    (tmp_path / "driver.py").write_text(f"print('started', flush=True)\n{DRIVERS[how]}")
    count, status, errors = started_by(tmp_path, "{python} driver.py --epochs 0")
    assert count == (1 if how == "sweep" else 3 if how == "multiprocessing" else 2)
    assert UNTUNED + WRONG in errors
    assert status == (0 if how == "thread" else 2)


@on_glibc
@pytest.mark.slow
@pytest.mark.parametrize("call", ["program.py", "-m program", "-Im seanet_jax train", "-Xutf8 ./program.py"])
def test_a_program_that_only_runs_a_command_is_replaced(call, tmp_path):
    count, status, errors = started_by(tmp_path, f"{{python}} {call} --epochs 0")
    assert count == (0 if "seanet_jax" in call else 2)
    assert (status, errors) == (2, WRONG)
