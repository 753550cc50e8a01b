"""The command ``seanet analyze``: its help and its one-line errors."""

import pytest
from command_fixtures import check_help_or_error

from seanet_jax.commands import analyze


@pytest.mark.parametrize(("flags", "status"), [(["--help"], 0), (["a", "b", "--no-such-flag"], 2)])
def test_help_succeeds_and_a_wrong_flag_is_an_error_of_one_line(monkeypatch, capsys, flags, status):
    check_help_or_error(analyze, flags, status, "--learning-rate", monkeypatch, capsys)
