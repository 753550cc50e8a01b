"""The command ``seanet export``: its help and its one-line errors."""

import sys

import pytest
from command_fixtures import check_help_or_error

from seanet_jax.commands import export


@pytest.mark.parametrize(
    ("flags", "status"), [(["--help"], 0), (["run"], 2), (["run", "net.stablehlo", "--no-such-flag"], 2)]
)
def test_help_succeeds_and_a_wrong_flag_is_an_error_of_one_line(monkeypatch, capsys, flags, status):
    check_help_or_error(export, flags, status, "artifact to write", monkeypatch, capsys)


@pytest.mark.parametrize(("flags", "which"), [((), "best"), (("--which", "ema"), "ema")])
def test_the_network_of_a_run_is_chosen_by_a_flag(monkeypatch, capsys, flags, which):
    monkeypatch.setattr("seanet_jax.inference.stablehlo.write", lambda *arguments: " ".join(arguments))
    monkeypatch.setattr(sys, "argv", ["export", "run", "net.stablehlo", *flags])
    export.run()
    assert capsys.readouterr().out == f"run net.stablehlo {which}\n"
