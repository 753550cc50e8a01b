"""The command line as a user runs it, in processes of its own."""

from pathlib import Path

import forks
import pytest

import seanet_jax
from seanet_jax import console
from seanet_jax.__main__ import COMMANDS, main


def run(*arguments):
    return forks.run(["-m", "seanet_jax", *arguments])


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "usage: seanet COMMAND [arguments]"
    for name, description in COMMANDS.items():
        assert [line.split() for line in lines].count([name, *description.split()]) == 1


def test_the_version_is_the_packages():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"seanet_jax {seanet_jax.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: seanet {name} ")
    assert f"    seanet {name} " in done.stdout.replace("usage: ", "", 1)
    assert "--help" in done.stdout


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("tain", "did you mean train?"),
        ("evalute", "did you mean evaluate?"),
        ("analyse", "did you mean analyze?"),
        ("serve", f"the commands are {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest_name(word, hint):
    done = run(word, "--epochs", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: there is no command '{word}'; {hint}\n"


@pytest.mark.parametrize("arguments", [["--version"], ["tain"], ["evaluate", "--help"]])
def test_the_streams_are_prepared_once(arguments, monkeypatch):
    calls = []
    monkeypatch.setattr(console, "prepare", lambda: calls.append(1))
    monkeypatch.setattr("sys.argv", ["seanet", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert calls == [1]


def test_every_command_is_a_module():
    folder = Path(seanet_jax.__file__).parent / "commands"
    assert {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {
        "--init--",
        "cli",
        "cpu-tuning",
        "study",
    } == set(COMMANDS)
