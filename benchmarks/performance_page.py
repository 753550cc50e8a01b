"""Measures the figures of docs/performance.md and docs/scaling.md and writes them between the pages' markers.

    pip install -e '.[bench]'
    python benchmarks/performance_page.py                      # all sections: about an hour on two idle cores
    python benchmarks/performance_page.py narrow startup       # two sections

A section that depends on the processor is there once for each kind of processor that was measured. It replaces that of
this machine's kind, or comes after those of the other kinds.

The text around the markers is written by hand.
"""

import datetime
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import augmentation
import processor
import roofline
import saving
import scaling
import startup
import train_step
from implementations import Task
from interleaved import compare
from train_step import FLOAT32_BASELINES, OURS, ratios, spread

DOCS = Path(__file__).parent.parent / "docs"


def steps(model: str) -> str:
    """Returns the table of training and evaluation in float32, with PyTorch as the baseline."""
    task = Task(model, 64)
    names = (OURS, "seanet_jax lax", *FLOAT32_BASELINES)
    rounds, steps_a_turn = (4, 1) if model == "seanet20" else (5, 8)
    return train_step.markdown(task, compare(task, names, rounds=rounds, steps=steps_a_turn))


def bfloat16() -> str:
    """Returns the table of training and evaluation in bfloat16, for which few CPUs have instructions."""
    task = Task("seanet20", 64)
    names = (OURS, "seanet_jax bfloat16", "torch bfloat16")
    return train_step.markdown(task, compare(task, names, rounds=2, steps=1))


def growth(tasks: Sequence[Task]) -> str:
    """Returns the table of training speed and memory for several tasks, ours and eager PyTorch's."""
    theirs = FLOAT32_BASELINES[0]
    columns = [f"{name}, images/s | memory, GiB" for name in (OURS, theirs)]
    lines = [f"| | {' | '.join(columns)} | {OURS} is x times as fast |", "|---" * 6 + "|"]
    for task in tasks:
        results = compare(task, (OURS, theirs), rounds=2, steps=1, do=("train",))
        cells = [str(task)]
        for result in results.values():
            rates = [task.batch_size / seconds for seconds in result.seconds["train"]]
            cells += [spread(rates, 1), f"{result.memory / 2**30:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {spread(ratios(results, OURS, theirs, 'train'))} |")
    return "\n".join(lines)


def batches() -> str:
    """Returns the table of training speed and memory by batch size."""
    return growth([Task("seanet20", size) for size in (16, 64, 256)])


def widths() -> str:
    """Returns the table of training speed and memory by width."""
    return growth([Task("seanet20", 64, (width, 2 * width, 4 * width)) for width in (32, 64, 128, 192)])


def loop() -> str:
    """Returns the table that compares the whole of ``fit`` with its training step alone."""
    # The digits make 22 batches of 64: the steps of one turn, and the one that is not measured.
    lines = [f"| | step alone, images/s | `fit()`, images/s | `fit()` / {OURS} step |", "|---|---|---|---|"]
    for model, steps_a_turn in (("seanet20_narrow", 21), ("seanet20", 4)):
        task = Task(model, 64)
        results = compare(task, (OURS, "fit"), rounds=4, steps=steps_a_turn, do=("train",))
        rates = [spread([task.batch_size / s for s in result.seconds["train"]], 1) for result in results.values()]
        cells = [str(task), *rates, spread(ratios(results, "fit", OURS, "train"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tuning() -> str:
    """Returns the table of the effect of a tuned malloc."""
    lines = [
        "| | tuned, images/s | as Python starts, images/s | tuned / not | peak memory, GiB, tuned | not |",
        "|---" * 6 + "|",
    ]
    for model, steps_a_turn in (("seanet20_narrow", 8), ("seanet20", 2)):
        task = Task(model, 64)
        for name in (OURS, "torch"):
            results = compare(task, (name, f"{name} untuned"), rounds=4, steps=steps_a_turn, do=("train",))
            tuned, untuned = results.values()
            rates = [[task.batch_size / s for s in result.seconds["train"]] for result in (tuned, untuned)]
            cells = [
                f"{name}, {task}",
                *(spread(rate, 1) for rate in rates),
                spread(ratios(results, name, f"{name} untuned", "train")),
                *(f"{result.memory / 2**30:.2f}" for result in (tuned, untuned)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "performance.md": {
        "full": lambda: steps("seanet20"),
        "narrow": lambda: steps("seanet20_narrow"),
        "bfloat16": bfloat16,
        "batches": batches,
        "widths": widths,
        "augmentation": augmentation.markdown,
        "loop": loop,
        "tuning": tuning,
        "startup": startup.markdown,
        "saving": saving.markdown,
        "roofline": lambda: roofline.markdown("seanet20", (64, 256, 1024)).strip(),
    },
    "scaling.md": {
        "overhead": scaling.overhead,
        "collectives": scaling.collectives,
        "paper": scaling.paper,
    },
}


# Sections that are computed and not timed, so that they are the same on every machine.
COMPUTED = ("roofline", "collectives", "paper")


def replaced(page: str, section: str, text: str, kind: str | None = None) -> str:
    """Returns the page with a section's text replaced, or added after the same section of other processors.

    Args:
        page: The page.
        section: The name of the section.
        text: The new text between the section's markers.
        kind: The kind of processor; None for a section that is the same on every machine.

    Raises:
        ValueError: If the page has no such section, or has it twice.
    """
    name = section if kind is None else f"{section} on {kind}"
    begin, end = f"<!-- measured: {name} -->\n", f"<!-- end: {name} -->\n"
    others = list(re.finditer(rf"<!-- end: {section} on .+ -->\n", page))
    if kind is not None and begin not in page and others:
        at = others[-1].end()
        return f"{page[:at]}\n{begin}{text}\n{end}{page[at:]}"
    if (page.count(begin), page.count(end)) != (1, 1):
        raise ValueError(f"the page must have the markers {begin.strip()} and {end.strip()} once each")
    return page[: page.index(begin) + len(begin)] + text + "\n" + page[page.index(end) :]


def main(chosen: Sequence[str]) -> None:
    """Measures the named sections, or all of them."""
    sections = {name: (DOCS / page, table) for page, tables in PAGES.items() for name, table in tables.items()}
    if unknown := [name for name in chosen if name not in sections]:
        raise SystemExit(f"error: no section {', '.join(unknown)}; the sections are {', '.join(sections)}")
    for name in chosen or sections:
        print(f"section {name}", file=sys.stderr)
        page, table = sections[name]
        kind = None if name in COMPUTED else processor.kind()
        where = "" if kind is None else f" on {processor.describe()}"
        command = f"`python benchmarks/performance_page.py {name}`"
        text = f"{table()}\n\nMeasured on {datetime.date.today()}{where}: {command}"
        page.write_text(replaced(page.read_text(), name, text, kind))


if __name__ == "__main__":
    main(sys.argv[1:])
