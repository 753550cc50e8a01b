"""How long does it take from a command to the first training step, with and without caches, and how long to import?

    python benchmarks/startup.py

Prints Markdown. Each start is a separate process. Later starts find the compiled programs of the first in the
compilation cache. CIFAR-100 is measured only if it is prepared.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seanet_jax.data.original import CIFAR100
from seanet_jax.data.tfds import default_data_dir, is_prepared

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FLAGS = ("--batch-size", "64", "--max-steps", "1", "--limit-train", "64", "--limit-test", "1", "--eval-batch-size", "1")


def import_seconds(module: str, repetitions: int = 5) -> float:
    """Returns the median seconds that a new interpreter takes to import a module and exit."""
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def seconds_to_first_step(dataset: str, model: str, cache: Path) -> float:
    """Returns the seconds from the command to the start of its first training step.

    Args:
        dataset: Data set whose experiment is started.
        model: Name of a preset.
        cache: Folder of the caches of compiled programs and decoded images.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, EXPERIMENTS / f"{dataset}.py", "--model", model, *FLAGS, "--out", Path(folder) / "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | {"XDG_CACHE_HOME": str(cache)},
        )
        assert process.stdout is not None
        seconds = next(time.perf_counter() - started for line in process.stdout if line.startswith("compiled"))
        process.communicate()
    return seconds


def markdown(repetitions: int = 3) -> str:
    """Returns the table of start times.

    Args:
        repetitions: Number of starts with filled caches.
    """
    lines = ["| | seconds |", "|---|---|"]
    # Not seanet_jax itself, which imports a module only when one of its names is used.
    for module in ("jax", "seanet_jax.models"):
        lines.append(f"| `import {module}`, interpreter included | {import_seconds(module):.2f} |")
    starts = [("digits", "seanet20"), ("digits", "seanet20_narrow")]
    if is_prepared(CIFAR100, default_data_dir()):
        starts.append(("cifar100", "seanet20"))
    for dataset, model in starts:
        with tempfile.TemporaryDirectory() as cache:
            first = seconds_to_first_step(dataset, model, Path(cache))
            again = [seconds_to_first_step(dataset, model, Path(cache)) for _ in range(repetitions)]
        start = f"`experiments/{dataset}.py --model {model}`, from the command to the first step"
        lines.append(f"| {start}, nothing in the caches | {first:.1f} |")
        lines.append(f"| the same again (median of {repetitions}) | {statistics.median(again):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
