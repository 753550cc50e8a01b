"""Trains on 1, 2, 4 and 8 devices of one process, and prints the differences between the training states as JSON.

``tests/training/test_sharding.py`` starts it with eight CPU devices.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType
from training_fixtures import TINIEST, TINY_RUN, made_dataset

from seanet_jax.models import PRESETS, EncapNetConfig
from seanet_jax.models.encapnet import Agreement
from seanet_jax.models.network import split_model
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.sharding import batch_sharding
from seanet_jax.training.trainer import Trainer

STEPS = 24
NETWORKS = {
    "tiny": (TINIEST, {}),
    # Wide enough, with large enough batches, for convolutions to use Winograd's method.
    "wide": (dataclasses.replace(TINIEST, widths=(64,), stem_width=16), {"batch_size": 16}),
}


def new_trainer(network, devices, **fields):
    """Makes the trainer of a run on the first ``devices`` devices."""
    PRESETS["tiny"], fields_of_network = NETWORKS[network]
    fields = {"epochs": 15, "learning_rate": 0.01} | fields_of_network | fields
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    # 45 images are no multiple of the devices.
    return Trainer(TrainConfig(**(TINY_RUN | fields)), made_dataset(train=45), mesh, {})


def trajectory(trainer, state=None, steps=STEPS):
    """Trains, and returns the states before the first step and after each one, on the host."""
    step = trainer.lower_train_step().compile()
    state = trainer.initial_state() if state is None else state
    states = [jax.device_get(state)]
    while int(state.step) < steps:
        order = trainer.order(int(state.step) // trainer.steps_per_epoch)
        state, _ = step(state, trainer.images, order, trainer.augment_key)
        states.append(jax.device_get(state))
    return states


def difference(states, others):
    """Returns the largest difference between two arrays, relative to the largest value of the second."""
    pairs = zip(jax.tree.leaves(states), jax.tree.leaves(others), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in pairs)


def agreement(devices, images=8):
    """Returns EncapNet++'s agreement of a batch sharded across the devices, and its gradient."""
    config = EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4)
    module = Agreement(8, 4, stride=2, config=config, rngs=nnx.Rngs(0))
    graphdef, params, batch_stats = split_model(module)
    random = np.random.default_rng(0)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    maps = [
        jax.device_put(random.normal(size=(8, *shape)).astype(np.float32)[:images], batch_sharding(mesh))
        for shape in ((8, 8, 8), (16, 16, 4))
    ]
    function = jax.jit(jax.value_and_grad(lambda p, maps: nnx.merge(graphdef, p, batch_stats)(*maps)))
    return jax.device_get(function(params, maps))


def resumed(folder, state, before, after):
    """Restores a state on other devices. Returns whether it is the same bit for bit, and the states after it."""
    # Sharded as in training.
    saved = jax.device_put(state, new_trainer("tiny", before).abstract_state().step.sharding)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(int(state.step), saved, [])
    trainer = new_trainer("tiny", after)
    with Checkpoints(folder) as checkpoints:
        state, _ = checkpoints.restore_latest(trainer.abstract_state())
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(saved), strict=True)
    equal = all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {after}
    return equal and spread, trajectory(trainer, state)


def main():
    """Computes and prints everything that the tests compare."""
    found = {"differences": {}, "resumed": {}}
    # The tiny network is last, as its states are used again below.
    for network, counts in (("wide", (1, 8)), ("tiny", (1, 2, 4, 8))):
        states = {count: trajectory(new_trainer(network, count)) for count in counts}
        found["differences"][network] = [difference(states[count], states[1]) for count in counts[1:]]
    reference = states[1]
    found["movement"] = difference(reference[-1].params, reference[0].params)
    own = trajectory(new_trainer("tiny", 8, batch_size=8 * 4, batch_statistics="device"), steps=1)
    shared = trajectory(new_trainer("tiny", 8, batch_size=8 * 4), steps=1)
    on_one = trajectory(new_trainer("tiny", 1, batch_size=8 * 4), steps=1)
    found["per device"] = difference(own, on_one)
    found["global"] = difference(shared, on_one)
    found["agreement"] = difference(agreement(8), agreement(1))
    found["agreement of parts"] = difference(agreement(1, images=4)[0], agreement(1)[0])
    with tempfile.TemporaryDirectory() as folder:
        for before, after in ((1, 8), (8, 1), (2, 4)):
            equal, continued = resumed(Path(folder) / f"{before}", states[before][STEPS // 2], before, after)
            worst = difference(continued[-1], reference[-1])
            found["resumed"][f"{before} to {after}"] = {"equal": equal, "difference": worst}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
