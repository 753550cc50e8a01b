"""How much faster is inference with batch normalization folded, and with an exported artifact?

    python benchmarks/inference.py

Prints Markdown. The plain network, the folded one and the artifact take turns in one process. Each computes
probabilities from uint8 images. A ratio compares turns of the same round.
"""

import dataclasses
import time

import jax
import numpy as np
import tyro
from flax import nnx
from jax import export
from train_step import spread

from seanet_jax import ImageSpec, create_model
from seanet_jax.inference.stablehlo import export_network, probabilities
from seanet_jax.inference.trained import Trained
from seanet_jax.models.fold import fold_batch_norm

IMAGES = ImageSpec(32, 32, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(100))))


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to compare."""

    models: tuple[str, ...] = ("seanet20", "seanet20_narrow")
    """Presets to measure."""

    batch_sizes: tuple[int, ...] = (1, 64)
    """Images per call."""

    rounds: int = 7
    """Turns of each of the three."""

    seconds: float = 1.0
    """Minimum duration of a turn."""


def rows(model: str, arguments: Arguments) -> list[str]:
    """Returns the rows of the table for one model."""
    network = create_model(model, num_classes=len(IMAGES.class_names), rngs=nnx.Rngs(0))
    network.eval()
    artifact = export.deserialize(export_network(Trained(network, IMAGES)).serialize())
    functions = {
        "network": probabilities(network, IMAGES),
        "folded": probabilities(fold_batch_norm(network), IMAGES),
        "artifact": artifact.call,
    }
    found = []
    for batch_size in arguments.batch_sizes:
        images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
        compiled, compiling = {}, {}
        for name, function in functions.items():
            started = time.perf_counter()
            compiled[name] = jax.jit(function).lower(images).compile()
            compiling[name] = time.perf_counter() - started
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(arguments.rounds):
            # The order alternates, so that none always follows the same one.
            for name in functions if turn % 2 else reversed(functions):
                seconds[name].append(_seconds_per_call(compiled[name], images, arguments.seconds))
        ratios = {name: [a / b for a, b in zip(seconds["network"], seconds[name], strict=True)] for name in functions}
        speeds = [batch_size / value for value in seconds["network"]]
        cells = [model, str(batch_size), spread(speeds, 1), spread(ratios["folded"]), spread(ratios["artifact"])]
        cells += [f"{compiling[name]:.1f}" for name in ("network", "artifact")]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _seconds_per_call(compiled: jax.stages.Compiled, images: np.ndarray, at_least: float) -> float:
    # One call is not measured: it fills the processor's caches, which another function used before.
    compiled(images).block_until_ready()
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < at_least or not calls:
        compiled(images).block_until_ready()
        calls += 1
    return elapsed / calls


def main() -> None:
    """Reads the arguments and prints the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    lines = [
        f"jax {jax.__version__}, {jax.default_backend()}, float32; medians of {arguments.rounds} rounds, in "
        "parentheses their range.",
        "",
        "| | batch | network, images/s | folded is x times as fast | artifact is x times as fast "
        "| compiling the network, s | compiling the artifact, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in arguments.models:
        lines += rows(model, arguments)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
