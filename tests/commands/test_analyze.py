"""The command ``seanet analyze``: its help and its one-line errors."""

import sys

import pytest

from seanet_jax.commands import analyze


@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["a", "b", "--no-such-flag"], 2)])
def test_help_succeeds_and_a_wrong_flag_is_an_error_of_one_line(monkeypatch, capsys, flags, status):
    monkeypatch.setattr("seanet_jax.commands.cli.restart_tuned", lambda: None)
    monkeypatch.setattr(sys, "argv", ["seanet analyze", *flags])
    with pytest.raises(SystemExit) as exit:
        analyze.main()
    out, error = capsys.readouterr()
    assert exit.value.code == status
    if status:
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    else:
        assert "--learning-rate" in out
