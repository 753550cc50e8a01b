"""How the time of a run is spent: on training steps, evaluation, compiling, saving and the rest."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seanet_jax.training.progress import format_duration
from seanet_jax.training.records import Record

# The parts of a run's time beside its training steps, in the order in which they are told.
PARTS = ("evaluation", "compiling", "saving")


class Stopwatch:
    """Measures the time between two records of a run, in which every second counts, and the parts of it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._began = time.perf_counter()
        self._seconds = {f"{name}_seconds": 0.0 for name in (*PARTS, "total")}

    def carry(self, carried: Mapping[str, float]) -> None:
        """Adds the time of an earlier process, which was stopped between two records.

        Args:
            carried: What ``so_far`` returned there. Other entries of a record are ignored.
        """
        for name in self._seconds:
            self._seconds[name] += carried.get(name, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A context whose duration counts as a part.

        Args:
            name: One of ``PARTS``.
        """
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[f"{name}_seconds"] += time.perf_counter() - began

    def so_far(self) -> dict[str, float]:
        """Returns the seconds since the last record: ``total_seconds``, and one such entry for each part that is not 0.

        The parts are in the total, as are the training steps, which the records count as ``seconds``.
        """
        passed = self._seconds | {"total_seconds": self._seconds["total_seconds"] + time.perf_counter() - self._began}
        return {name: round(seconds, 3) for name, seconds in passed.items() if seconds}

    def lap(self) -> dict[str, float]:
        """Returns what ``so_far`` returns, and begins anew."""
        passed = self.so_far()
        self._begin()
        return passed


def time_spent(records: Sequence[Record], since: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds of a whole run by part: training, evaluation, compiling, saving, other, and the total.

    The time of steps that were lost by a kill, and done again, counts once. Of records by version 0.1.0, only the
    training steps are known.

    Args:
        records: The records of the run.
        since: The seconds since the last record, as ``Stopwatch.so_far`` returns them.
    """
    pieces = [*records, {"seconds": 0.0, **since}]
    spent = {"training": sum(piece["seconds"] for piece in pieces)}
    spent |= {part: sum(piece.get(f"{part}_seconds", 0.0) for piece in pieces) for part in PARTS}
    known = sum(spent.values())
    total = sum(piece.get("total_seconds", piece["seconds"]) for piece in pieces)
    spent |= {"other": max(0.0, total - known), "total": max(total, known)}
    return {part: round(seconds, 3) for part, seconds in spent.items()}


def describe_time(spent: Mapping[str, float]) -> str:
    """Describes the time of a run: ``4 min 46 s: 1 min 23 s of training, 3 min 20 s of evaluation, 3 s of the rest``.

    Args:
        spent: What ``time_spent`` returns. Parts of less than half a second are left out.
    """
    named = {"other": "the rest"}
    parts = [
        f"{format_duration(seconds)} of {named.get(part, part)}"
        for part, seconds in spent.items()
        if part != "total" and seconds >= 0.5
    ]
    total = format_duration(spent["total"])
    return f"{total}: {', '.join(parts)}" if parts else total


def spent_seconds(summary: Mapping[str, Any]) -> float:
    """Returns the seconds that a run took, of which version 0.1.0 recorded only the training steps.

    Args:
        summary: The contents of the run's ``summary.json``.
    """
    time_by_part = summary.get("time")
    return float(summary["training_seconds"] if time_by_part is None else time_by_part["total"])
