import io
import sys

import pytest

from seanet_jax.data import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_goes_to_stderr_alone(capsys):
    progress.print_error("reading")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "reading\n")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_is_shown_if_it_is_wanted_and_stderr_is_a_terminal(terminal, wanted, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert progress.shows_bar(wanted) is (terminal and wanted)


def test_without_a_terminal_the_message_is_printed_once(capsys):
    with progress.progress_bar("Decoding", 20, True) as bar:
        for _ in range(2):
            bar.update(10)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Decoding\n")


def test_on_a_terminal_a_bar_counts_images(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.progress_bar("Decoding", 20, True) as bar:
        bar.update(20)
    assert "Decoding: 100%" in terminal.getvalue() and "20/20" in terminal.getvalue()


def test_some_bars_leave_nothing_where_there_is_no_terminal(capsys, monkeypatch):
    with progress.bar_on_terminal("evaluating", 20) as bar:
        bar.update(20)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.bar_on_terminal("evaluating", 20) as bar:
        bar.update(20)
    assert "evaluating: 100%" in terminal.getvalue()


def test_without_stderr_there_is_neither_a_bar_nor_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.shows_bar(True)
    with progress.progress_bar("Decoding", 20, True) as bar:
        bar.update(20)
