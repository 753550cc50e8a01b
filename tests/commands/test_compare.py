"""The command ``seanet compare``: its default networks and its one-line errors."""

import sys

import pytest

from seanet_jax.commands import compare
from seanet_jax.models import PRESETS


def test_the_default_networks_are_distinct_presets():
    names = (*compare.MODELS, *compare.ENCAPNETS)
    assert len(set(names)) == len(names) and set(names) <= PRESETS.keys()


@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["--no-such-flag", "--no-tune-cpu"], 2)])
def test_help_succeeds_and_a_wrong_flag_is_an_error_of_one_line(monkeypatch, capsys, flags, status):
    monkeypatch.setattr("seanet_jax.commands.cli.restart_tuned", lambda: None)
    monkeypatch.setattr(sys, "argv", ["seanet compare", *flags])
    with pytest.raises(SystemExit) as exit:
        compare.main()
    out, error = capsys.readouterr()
    assert exit.value.code == status
    if status:
        assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and "--no-such-flag" in error
    else:
        assert "encapnet_plus_plus" in out
