"""Records the system calls by which a program changes files, names and what is on disk, by strace."""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHANGES = (
    *("open", "openat", "creat", "truncate", "ftruncate"),
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat", "fsync", "fdatasync"),
)
# Other ways to change a file. A program that uses one on a recorded file needs a model of it first.
UNKNOWN = (
    *("mmap", "sendfile", "copy_file_range", "splice", "fallocate", "io_uring_setup", "mknod", "mknodat", "openat2"),
    *("sync", "syncfs"),
)
_STRACE = (
    *("strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(2**22)),
    *("-e", f"trace={','.join(_CHANGES + UNKNOWN)}"),
)

_BYTES = r"((?:\\x[0-9a-f]{2})*)"
_STRING = re.compile(rf'"{_BYTES}"(\.\.\.)?')
_DESCRIPTOR = re.compile(rf"\b(AT_FDCWD|\d+)<{_BYTES}>(\(deleted\))?")


@functools.cache
def why_not() -> str | None:
    """Returns why programs cannot be recorded here, or None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run([*_STRACE, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {tried.stderr.strip()}" if tried.returncode else None


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call that succeeded.

    Attributes:
        name: Its name.
        descriptors: Numbers and paths of its file descriptors; -1 is the working directory.
        strings: Its strings: paths, or what is written.
        rest: Its other arguments, as text.
        result: Its result.
    """

    name: str
    descriptors: list[tuple[int, str]]
    strings: list[bytes]
    rest: str
    result: int

    def __str__(self) -> str:
        paths = [path for _, path in self.descriptors if path] or [os.fsdecode(string) for string in self.strings]
        return f"{self.name} {' '.join(paths)}"


def traced(command: Sequence[str | Path], output: Path, **options: Any) -> list[tuple[Call, bool]]:
    """Runs a program and returns its calls in order.

    Each is there twice, when it starts (False) and when it has ended (True), because threads call at the same time.

    Args:
        command: The program and its arguments.
        output: A file for the output of strace, which is removed.
        options: Further arguments of ``subprocess.run``.

    Raises:
        RuntimeError: If the program failed.
    """
    done = subprocess.run([*_STRACE, "-o", output, *command], capture_output=True, text=True, check=False, **options)
    text = output.read_text()
    output.unlink()
    if done.returncode:
        raise RuntimeError(f"the recorded program failed:\n{done.stderr}")
    return _parse(text)


def _parse(text: str) -> list[tuple[Call, bool]]:
    """Parses the output of strace."""
    calls: list[tuple[Call, bool]] = []
    started: dict[str, tuple[int, str]] = {}  # by thread: its place in ``calls`` and the start of its line
    placeholder = Call("", [], [], "", 0)
    for line in text.splitlines():
        thread, _, line = line.partition(" ")
        line = line.strip()
        if line.startswith(("+++", "---")):
            continue
        if line.endswith("<unfinished ...>"):
            started[thread] = len(calls), line.removesuffix("<unfinished ...>")
            calls.append((placeholder, False))
            continue
        place = len(calls)
        if resumed := re.match(r"<\.\.\. \w+ resumed>", line):
            place, start = started.pop(thread)
            line = start + line[resumed.end() :]
        else:
            calls.append((placeholder, False))
        call = _parse_call(line)
        if call is not None:
            calls[place] = call, False
            calls.append((call, True))
    return [(call, ended) for call, ended in calls if call is not placeholder]


def _parse_call(line: str) -> Call | None:
    """Parses a line of strace. Returns None if the call failed."""
    match = re.fullmatch(r"(\w+)\((.*)\)\s+= (-?\w+|\?)(.*)", line)
    if match is None:
        raise ValueError(f"not a line of strace: {line[:200]}")
    name, text, result, _ = match.groups()
    if result in ("-1", "?"):
        return None
    descriptors = [
        (-1 if number == "AT_FDCWD" else int(number), "" if deleted else os.fsdecode(_bytes(path)))
        for number, path, deleted in _DESCRIPTOR.findall(text)
    ]
    text = _DESCRIPTOR.sub("", text)
    found = _STRING.findall(text)
    if any(cut for _, cut in found):
        raise ValueError(f"strace cut what {name} wrote")
    return Call(name, descriptors, [_bytes(string) for string, _ in found], _STRING.sub("", text), int(result, 0))


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace(r"\x", ""))
