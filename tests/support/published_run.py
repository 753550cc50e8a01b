"""Trains a tiny network by its published recipe, and measures every step.

    python tests/support/published_run.py

writes ``tests/training/golden/published.json``, which ``tests/training/test_published_recipe.py`` compares with what
training computes. The numbers in it are those of the code before recipes had other fields. They change only if the
published recipe is meant to change. With the name of a run, the script prints what it measures of that run instead.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import jax
import numpy as np
from training_fixtures import TINY, made_dataset

from seanet_jax.data import Dataset
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import PRESETS, EncapNetConfig
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.run import fit

GOLDEN = Path(__file__).parents[1] / "training" / "golden" / "published.json"

ENCAPNET = EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4, image_size=8)
# Four epochs of five steps, two images left out of each. The learning rate decays inside the run, and weight decay is
# large enough to be seen.
SHORT: dict[str, Any] = {
    **{"dataset": "digits", "epochs": 4, "batch_size": 8, "eval_batch_size": 10, "weight_decay": 0.01},
    "checkpoint_steps": 1,
}
SEANET = SHORT | {"model": "tiny", "decay_every": 2}
RUNS: dict[str, dict[str, Any]] = {
    "seanet": SEANET,
    "seanet_on_two_devices": SEANET | {"batch_statistics": "device"},
    "encapnet": published_recipe("encapnet")
    | SHORT
    | {"model": "tiny_encapnet", "learning_rate": 1e-3, "decay_at": (1, 3)},
}


@dataclasses.dataclass(frozen=True)
class RecordedSpec(ImageSpec):
    """An image spec that records the images it normalizes while a network trains."""

    seen: ClassVar[list[np.ndarray]] = []

    def normalize(self, images: jax.Array) -> jax.Array:
        """Computes the same as ``ImageSpec.normalize``."""
        if len(images) == SHORT["batch_size"]:  # a batch of training
            jax.debug.callback(lambda pixels: self.seen.append(np.array(pixels)), images)
        return super().normalize(images)


def recorded_dataset() -> Dataset:
    """Makes a data set whose training images are recorded as the network gets them."""
    made = made_dataset(train=42, test=23)
    return dataclasses.replace(made, image_spec=RecordedSpec(**dataclasses.asdict(made.image_spec)))


def measure(name: str) -> dict[str, Any]:
    """Trains a network and returns what every step and every epoch has computed.

    Args:
        name: The run, a key of ``RUNS``.
    """
    dataset = recorded_dataset()
    states: list[Any] = []
    seen = RecordedSpec.seen
    seen.clear()

    def save(checkpoints: Checkpoints, step: int, state: Any, history: Any) -> None:
        """Takes the place of saving a checkpoint, which the loop does after every step."""
        jax.effects_barrier()
        if not states or int(states[-1].step) != step:
            states.append(jax.device_get(state))

    with tempfile.TemporaryDirectory() as folder:
        with (
            mock.patch.dict(PRESETS, {"tiny": TINY, "tiny_encapnet": ENCAPNET}),
            mock.patch("seanet_jax.training.images.load", lambda name, data_dir, mapped: dataset),
            mock.patch.object(Checkpoints, "save", save),
        ):
            config = TrainConfig(out=Path(folder) / "run", **RUNS[name])
            fit(config)
        records = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert len(states) == len(seen) == 20
    return {
        "images": [hashlib.sha256(batch.tobytes()).hexdigest() for batch in seen],
        "learning_rates": [record["learning_rate"] for record in records],
        "num_correct": [int(state.metrics.num_correct) for state in states],
        "loss_sums": [float(state.metrics.loss_sum) for state in states],
        "test_losses": [record["test_loss"] for record in records],
        "first": summary(states[0]),
        "last": summary(states[-1]),
    }


def summary(state: Any) -> dict[str, list[float]]:
    """Returns the mean of each array of a state, its norm, and its product with fixed random numbers."""
    parts = {"params": state.params, "batch_stats": state.batch_stats, "opt_state": state.opt_state}
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(parts)[0]:
        values = np.asarray(leaf, np.float64).ravel()
        directions = np.random.RandomState(values.size).standard_normal(values.size)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = [
            float(f"{x:.9g}") for x in (values.mean(), np.linalg.norm(values), directions @ values / values.size**0.5)
        ]
    return found


def main() -> None:
    """Prints what is measured of the run that is named, or writes what is measured of all."""
    if sys.argv[1:]:
        json.dump(measure(sys.argv[1]), sys.stdout)
        return
    lines = []
    for name in RUNS:
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if name.endswith("two_devices") else {}
        done = subprocess.run(
            [sys.executable, __file__, name], env=os.environ | flags, stdout=subprocess.PIPE, check=True
        )
        lines.append(f'"{name}": {done.stdout.decode().splitlines()[-1]}')
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
