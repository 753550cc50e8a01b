"""The command ``seanet export``: its help and its one-line errors."""

import sys

import pytest

from seanet_jax.commands import export


@pytest.mark.parametrize(
    ("flags", "status"), [(["--help"], 0), (["run"], 2), (["run", "net.stablehlo", "--no-such-flag"], 2)]
)
def test_help_succeeds_and_a_wrong_flag_is_an_error_of_one_line(monkeypatch, capsys, flags, status):
    monkeypatch.setattr("seanet_jax.commands.cli.restart_tuned", lambda: None)
    monkeypatch.setattr(sys, "argv", ["seanet export", *flags])
    with pytest.raises(SystemExit) as exit:
        export.main()
    out, error = capsys.readouterr()
    assert exit.value.code == status
    if status:
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    else:
        assert "artifact to write" in out
