"""How long does saving a checkpoint keep training waiting, and how long until it is on disk?

    python benchmarks/saving.py

Prints Markdown. The state is that of training: parameters, batch statistics and momentum. It is saved to the folder of
temporary files (``TMPDIR``), so name one on the disk that matters.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax
from flax import nnx

from seanet_jax.models import build
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.step import create_state

MODELS = ("seanet20", "seanet20_narrow")


def seconds_to_save(model: str, saves: int = 9) -> tuple[float, float, float]:
    """Returns medians: the seconds that a save keeps the caller waiting, those until it is on disk, and the megabytes.

    Args:
        model: Name of a preset.
        saves: Number of checkpoints to write. The first one is not counted: it starts Orbax.
    """
    config = TrainConfig(dataset="cifar100", model=model)
    network = build(config.model_config(100, in_channels=3), rngs=nnx.Rngs(0))
    state = create_state(network, optimizer(config, 781))
    waited, complete = [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        for step in range(saves):
            records = [{"epoch": n + 1, "step": n, "test_accuracy": n / saves} for n in range(step + 1)]
            started = time.perf_counter()
            checkpoints.save(step, state, records)
            waited.append(time.perf_counter() - started)
            checkpoints.wait()
            complete.append(time.perf_counter() - started)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    return statistics.median(waited[1:]), statistics.median(complete[1:]), size


def markdown() -> str:
    """Returns the table of all models."""
    rows = ["| network | state | training waits | until it is on disk |", "|---|---|---|---|"]
    for model in MODELS:
        waited, complete, size = seconds_to_save(model)
        rows.append(f"| `{model}` | {size:.0f} MB | {1000 * waited:.0f} ms | {1000 * complete:.0f} ms |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
