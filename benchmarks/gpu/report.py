"""The results of the GPU benchmarks: one folder with ``results.json`` and ``results.md``, written as they come.

Only Python's own library is imported, so that a machine on which nothing else works still gets a report.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = 3  # the exit status of a recipe that goes on


def card() -> str:
    """Returns the name, the driver and the memory of the GPU, or what there is in place of a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return f"no GPU; {platform.machine()} with {os.cpu_count()} cores"
    name, driver, memory = (part.strip() for part in found.split(","))
    return f"{name}, driver {driver}, {memory}"


class Report:
    """The results of one part. Everything that is added is on disk at once, so that a killed part keeps what it had.

    Args:
        folder: The folder of all results. The results of other parts, which are there, stay.
        part: Name of the part, a heading. Earlier results of this name are replaced.

    Attributes:
        failures: What failed, a line each.
    """

    def __init__(self, folder: Path, part: str):
        self._folder = folder
        self._part = part
        self._found: dict[str, Any] = {"card": card(), "failures": [], "markdown": [], "data": {}}
        self.failures: list[str] = self._found["failures"]
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def text(self, line: str) -> None:
        """Adds a paragraph."""
        print(line, flush=True)
        self._found["markdown"] += [line, ""]
        self._write()

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Adds a table.

        Args:
            head: The names of the columns.
            rows: The cells of each row.
        """
        lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]
        print("\n".join(lines), flush=True)
        self._found["markdown"] += [*lines, ""]
        self._write()

    def data(self, **values: Any) -> None:
        """Adds values, which JSON can hold, to ``results.json``."""
        self._found["data"] |= values
        self._write()

    def found(self, name: str) -> Any:
        """Returns a value that ``data`` has added, or None."""
        return self._found["data"].get(name)

    def failure(self, line: str, log: str = "") -> None:
        """Adds what failed.

        Args:
            line: What failed and why, in one line.
            log: The output of what failed. Its end is kept in ``results.json``.
        """
        line = " ".join(line.split())
        print(f"failed: {line}", file=sys.stderr, flush=True)
        self.failures.append(line)
        self._found["data"].setdefault("logs", {})[line] = log[-4000:]
        self._write()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Turns an error inside into a failure, so that what comes after it is still tried."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.failure(f"{what}: {type(error).__name__}: {error}")

    def _write(self) -> None:
        path = self._folder / "results.json"
        parts = json.loads(path.read_text()) if path.exists() else {}
        parts[self._part] = self._found
        _replace(path, json.dumps(parts, indent=1))
        lines = ["# Measured on a GPU", ""]
        for name, found in parts.items():
            lines += [f"## {name}", "", f"Card: {found['card']}.", "", *found["markdown"]]
            lines += [f"- failed: {line}" for line in found["failures"]] + [""] * bool(found["failures"])
        _replace(self._folder / "results.md", "\n".join(lines))


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
