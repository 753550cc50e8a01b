import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seanet_jax import console
from seanet_jax.errors import RunError

ROOT = Path(__file__).parents[1]


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def full():
    return Path("/dev/full").open("w", encoding="utf-8")


@contextlib.contextmanager
def replaced(monkeypatch, stdout):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(console, "stdout", console.SafeStream("stdout"))
        yield
        console.discard_unwritten()
    if stdout is not None:
        stdout.close()


@pytest.mark.parametrize("broken", [lambda: None, closed, without_reader, full])
def test_a_report_is_dropped_where_it_cannot_be_written(broken, capsys, monkeypatch):
    with replaced(monkeypatch, broken()):
        for _ in range(3):
            print("a report", file=console.stdout, flush=True)
        assert not console.stdout.isatty()
        expected = 0 if sys.stdout is None else 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == expected
    assert all(line.startswith("warning: stdout cannot be written (") for line in lines)


@pytest.mark.parametrize("broken", [lambda: None, closed, without_reader, full])
def test_a_missing_stderr_is_no_error_either(broken, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with replaced(monkeypatch, broken()):
        print("a report", file=console.stdout, flush=True)
        print("a warning", file=console.stderr, flush=True)


def test_a_result_without_stdout_is_dropped(monkeypatch):
    with replaced(monkeypatch, None):
        console.print_result("a result")


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch):
    message = rf"the output could not be written \({os.strerror(errno.ENOSPC)}\)"
    with replaced(monkeypatch, full()), pytest.raises(RunError, match=message):
        console.print_result("a result")


def test_a_result_that_nobody_reads_is_a_broken_pipe(monkeypatch):
    with replaced(monkeypatch, without_reader()), pytest.raises(BrokenPipeError):
        console.print_result("a result")


@pytest.mark.parametrize("show", [console.print_result, lambda text: print(text, file=console.stdout, flush=True)])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "café 猫 \\udcff"),
        ("cp1252", "café \\u732b \\udcff"),
        ("ascii", "caf\\xe9 \\u732b \\udcff"),
    ],
)
def test_a_letter_that_the_encoding_lacks_is_escaped(show, encoding, text, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n"))
    show("café 猫 \udcff")
    assert sys.stdout.buffer.getvalue() == f"{text}\n".encode(encoding)
    assert console.stdout.encoding == encoding


def test_a_stream_without_a_file_descriptor_says_so(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(io.UnsupportedOperation):
        console.stdout.fileno()


def run(code, redirections="", **environment):
    script = f'unset PYTHONUNBUFFERED; exec "$0" -W error -c "$1" {redirections}'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_no_file_gets_the_descriptor_of_a_missing_stream(tmp_path):
    """XLA writes to descriptor 2, whatever that is."""
    code = f"""
import os, sys
from seanet_jax import console
console.prepare()
print("result")
print("progress", file=sys.stderr)
with open({str(tmp_path / "file")!r}, "w") as file:
    assert file.fileno() > 2
    os.write(1, b"output of a library")
    os.write(2, b"message of a library")
"""
    done = run(code, "<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "file").read_text() == ""


def test_any_code_of_a_command_may_print_letters_that_the_encoding_lacks():
    code = "from seanet_jax import console; console.prepare(); print('caf\\xe9')"
    done = run(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9\n", "")


def test_what_cannot_be_written_does_not_change_the_exit_status():
    code = "from seanet_jax import console; print('unwritten'); console.discard_unwritten()"
    assert (done := run(code, ">/dev/full")).returncode == 0, done.stderr
    assert done.stderr == ""


def test_messages_and_results_cannot_command_a_terminal(capsys):
    console.print_error("error: \x1b[2J\nnext")
    console.print_result("a\x1b]0;title\x07\nb\u202e")
    assert tuple(capsys.readouterr()) == ("a\\x1b]0;title\\x07\nb\\u202e\n", "error: \\x1b[2J\nnext\n")
