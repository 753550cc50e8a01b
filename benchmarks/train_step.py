"""How fast are a training step and an evaluation step, compared with the same network in PyTorch?

    pip install -e '.[bench]'
    python benchmarks/train_step.py --model seanet20 --batch-size 64

Prints Markdown. The implementations take turns (interleaved.py), each with a tuned malloc.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import roofline
import tyro
from implementations import MATMUL_SIZE, Task
from interleaved import Result, compare

OURS = "seanet_jax"
FLOAT32_BASELINES = ("torch", "torch channels_last", "torch compile")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to compare."""

    model: str = "seanet20"
    """Preset of the network."""

    batch_size: int = 64
    """Images per step."""

    implementations: tuple[str, ...] = (OURS, "seanet_jax lax", *FLOAT32_BASELINES)
    """Names of implementations, from implementations.py."""

    rounds: int = 5
    """Turns of each implementation."""

    steps: int = 2
    """Training steps in a turn."""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Formats the median of values, with their range in parentheses."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(results: dict[str, Result], ours: str, theirs: str, what: str) -> list[float]:
    """Returns how many times as fast ours is as theirs, for each round."""
    pairs = zip(results[ours].seconds[what], results[theirs].seconds[what], strict=True)
    return [their_seconds / our_seconds for our_seconds, their_seconds in pairs]


def markdown(task: Task, results: dict[str, Result]) -> str:
    """Returns the table of a comparison with training, evaluation and matrix products."""
    # Operations of direct convolutions. The batch is 61, as roofline.py tells images from channels by their number.
    operations = sum(one.flops for one in roofline.work(task.model, 61, "train")) / 61
    lines = [
        f"{task}: medians over the rounds, in parentheses their range.",
        "",
        f"| | training, images/s | {OURS} is x times as fast | evaluation, images/s | {OURS} is x times as fast "
        "| peak memory, GiB | compilation, s | training, GFLOP/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        train, evaluate = (
            [task.batch_size / seconds for seconds in result.seconds[what]] for what in ("train", "evaluate")
        )
        cells = [
            name,
            spread(train, 1),
            spread(ratios(results, OURS, name, "train")),
            spread(evaluate, 1),
            spread(ratios(results, OURS, name, "evaluate")),
            f"{result.memory / 2**30:.2f}",
            f"{result.compile_seconds:.1f}",
            f"{statistics.median(train) * operations / 1e9:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    peak = max(2 * MATMUL_SIZE**3 / min(result.seconds["matmul"]) for result in results.values())
    return "\n".join(
        [
            *lines,
            "",
            f"GFLOP/s count {operations / 1e9:.2f} GFLOP for an image, direct convolution's, whatever an "
            f"implementation does instead. Fastest float32 product of matrices of {MATMUL_SIZE:,} x {MATMUL_SIZE:,} "
            f"seen in the same run: {peak / 1e9:.0f} GFLOP/s.",
        ]
    )


def main() -> None:
    """Reads the flags, measures and prints the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    task = Task(arguments.model, arguments.batch_size)
    print(markdown(task, compare(task, arguments.implementations, rounds=arguments.rounds, steps=arguments.steps)))


if __name__ == "__main__":
    main()
