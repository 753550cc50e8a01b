"""What does one training step spend its time on? A profile, read without a browser, with the largest costs first.

The profile is JAX's own (``jax.profiler``). On a GPU its events are kernels, on a CPU the operations of the compiled
program. Where there are none, what XLA itself counts of the program is all there is.
"""

import collections
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from report import Report

if TYPE_CHECKING:
    from measure import Options

SHOWN = 25  # rows of the table of single operations
# Instructions of a program that start no kernel.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}


class Event(NamedTuple):
    """One kernel, or one operation of a CPU.

    Attributes:
        operation: Name of the instruction of the program that it belongs to, or its own name.
        start: When it began, in nanoseconds.
        duration: How long it took, in nanoseconds.
    """

    operation: str
    start: float
    duration: float


class Instruction(NamedTuple):
    """One instruction of a compiled program.

    Attributes:
        opcode: What it does, such as "fusion" or "custom-call".
        source: The operation of JAX that it comes from, such as "jit(train_step)/jvp/conv_general_dilated".
    """

    opcode: str
    source: str


def profile(options: "Options") -> int:
    """Writes what a step of the first batch size costs, in both dtypes. Returns the exit status."""
    # In a CUDA graph, a kernel does not say which operation it belongs to.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    failed = False
    for name in ("seanet_jax bfloat16", "seanet_jax"):
        report = Report(options.out, f"Profile of {name}, batch {options.batch_sizes[0]}")
        with report.attempt(name):
            _profile(report, name, options)
        failed |= bool(report.failures)
    return failed


def _profile(report: Report, name: str, options: "Options") -> None:
    from implementations import IMPLEMENTATIONS, Task

    steps = 2 if options.quick else 20
    implementation: Any = IMPLEMENTATIONS[name](Task(options.model, options.batch_sizes[0]))
    with tempfile.TemporaryDirectory() as folder:
        program = implementation.profile(Path(folder), steps)
        text = program.as_text()
        with report.attempt("the compiled program"):
            _program(report, text, program.cost_analysis())
        with report.attempt("the profile"):
            _times(report, list(events(Path(folder))), instructions(text), steps)


def _program(report: Report, text: str, analysis: dict[str, float]) -> None:
    """Adds what XLA counts of a program."""
    counts = collections.Counter(one.opcode for one in instructions(text[text.index("ENTRY") :]).values())
    busy = {opcode: count for opcode, count in counts.most_common() if opcode not in _FREE}
    flops, moved = analysis.get("flops", 0), analysis.get("bytes accessed", 0)
    report.text(
        f"The program has {sum(busy.values())} instructions that do something "
        f"({', '.join(f'{count} {opcode}' for opcode, count in busy.items())}). "
        f"XLA counts {flops / 1e9:.1f} GFLOP and {moved / 1e9:.2f} GB a step."
    )
    report.data(instructions=busy, flops=flops, bytes=moved)


def _times(report: Report, found: list[Event], program: dict[str, Instruction], steps: int) -> None:
    """Adds the tables of the times of a profile."""
    if not found:
        report.failure("the profile has no kernels; only what XLA counts of the program is known")
        return
    total = sum(event.duration for event in found)
    span = max(event.start + event.duration for event in found) - min(event.start for event in found)
    report.text(
        f"A step takes {span / steps / 1e6:.3f} ms, and its {len(found) / steps:.0f} kernels together "
        f"{total / steps / 1e6:.3f} ms (profile of {steps} steps, without CUDA graphs)."
    )
    spent: dict[str, list[float]] = collections.defaultdict(list)
    for event in found:
        spent[event.operation].append(event.duration)
    groups: dict[tuple[str, ...], list[float]] = collections.defaultdict(list)
    for operation, durations in spent.items():
        groups[_group(program.get(operation))] += durations

    def rows(of: Iterable[tuple[tuple[str, ...], list[float]]]) -> list[list[str]]:
        largest = sorted(of, key=lambda item: -sum(item[1]))[:SHOWN]
        return [
            [
                *names,
                f"{sum(durations) / steps / 1e6:.4f}",
                f"{100 * sum(durations) / total:.1f}",
                f"{len(durations) / steps:.3g}",
            ]
            for names, durations in largest
        ]

    numbers = ("ms a step", "share, %", "kernels a step")
    by_group, by_operation = (
        rows(groups.items()),
        rows(((name, *_described(program.get(name))), durations) for name, durations in spent.items()),
    )
    report.table(("pass", "operation of JAX", *numbers), by_group)
    report.table(("instruction", "kind", "comes from", *numbers), by_operation)
    report.data(milliseconds=span / steps / 1e6, kernels=len(found) / steps, groups=by_group, operations=by_operation)


def events(folder: Path) -> Iterator[Event]:
    """Returns the kernels of a profile, or on a CPU the operations of the program.

    Args:
        folder: The folder that ``jax.profiler.trace`` has written.
    """
    import jax

    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith("/device:GPU")
            if not on_gpu and plane.name != "/host:CPU":
                continue
            for line in plane.lines:
                # The other lines of a GPU show the same time again, by module and by name.
                if on_gpu and not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    about = dict(event.stats)
                    if on_gpu or ("hlo_op" in about and not event.name.startswith("end: ")):
                        yield Event(str(about.get("hlo_op", event.name)), event.start_ns, event.duration_ns)


def instructions(text: str) -> dict[str, Instruction]:
    """Returns the instructions of a program by name.

    Args:
        text: The text of a compiled program.
    """
    found = {}
    for line in text.splitlines():
        # name = type opcode(operands), attributes, metadata={op_name="..." ...}; a type may be a tuple in parentheses
        if match := re.match(r"\s*(?:ROOT )?%?([\w.-]+) = .*?\s([a-z][a-z0-9-]*)\(", line):
            source = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = Instruction(match[2], source[1] if source else "")
    return found


def _group(instruction: Instruction | None) -> tuple[str, str]:
    """Returns the pass and the operation of JAX that an instruction belongs to."""
    if instruction is None:
        return "unknown", "unknown"
    source = instruction.source
    side = "backward" if "transpose(" in source else "forward" if "jvp" in source else "around"
    return side, source.rpartition("/")[2] or instruction.opcode


def _described(instruction: Instruction | None) -> tuple[str, str]:
    if instruction is None:
        return "unknown", "unknown"
    return instruction.opcode, "/".join(instruction.source.split("/")[-3:]).replace("|", " ")
