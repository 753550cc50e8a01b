"""What tests of several commands share: running one in this process."""

import importlib
import sys

import pytest


def check_help_or_error(module, flags, status, shown, monkeypatch, capsys):
    """Runs a command in this process: its help prints ``shown`` and succeeds, an error is one line and status 2."""
    monkeypatch.setattr("seanet_jax.commands.cli.restart_tuned", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"seanet {module.__name__.rpartition('.')[2]}", *flags])
    with pytest.raises(SystemExit) as exit:
        module.main()
    out, error = capsys.readouterr()
    assert exit.value.code == status
    if status:
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    else:
        assert shown in out


def run_here(name, arguments, monkeypatch, capsys):
    """Runs a command in this process, and returns its exit status, its stdout and its stderr."""
    monkeypatch.setattr("seanet_jax.commands.cli.restart_tuned", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"seanet {name}", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(f"seanet_jax.commands.{name}").main()
    return exit.value.code, *capsys.readouterr()
