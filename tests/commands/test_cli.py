import os
import signal
import subprocess
import sys
from pathlib import Path

import forks
import jax
import pytest

from seanet_jax.commands import cli


@pytest.mark.parametrize("chosen", [None, "own"])
def test_what_is_compiled_is_kept_where_the_user_says_or_in_the_cache(tmp_path, chosen):
    code = (
        "import jax; from seanet_jax.commands.cli import keep_what_is_compiled; keep_what_is_compiled(); "
        "jax.jit(lambda x: x + 1)(1.0).block_until_ready()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if chosen:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / chosen)
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True, timeout=120)
    folder = tmp_path / (chosen or "cache/seanet_jax/compiled")
    assert any(folder.iterdir())
    assert (tmp_path / "cache").exists() == (chosen is None)


def test_without_a_home_folder_a_command_keeps_nothing_that_it_compiles(no_home, monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.jax_compilation_cache_dir
    cli.keep_what_is_compiled()
    assert jax.config.jax_compilation_cache_dir == before
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("results.py", ["--nothing"], "error: unrecognized arguments: --nothing; --help lists the arguments\n"),
        (
            "results.py",
            ["--ablatoin=x"],
            "error: unrecognized arguments: --ablatoin=x; did you mean --ablation? --help lists the arguments\n",
        ),
        ("analyze.py", ["one"], "error: the following arguments are required: baseline; --help lists the arguments\n"),
    ],
)
def test_commands_that_train_nothing_complain_in_one_line(script, arguments, message):
    path = Path(__file__).parents[2] / "experiments" / script
    done = forks.run([path, *arguments])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_reader_who_has_read_enough_is_no_error():
    printing = "from seanet_jax.commands.cli import command; command(lambda: print('line\\n' * 100_000))"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", printing], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 128 + signal.SIGPIPE
