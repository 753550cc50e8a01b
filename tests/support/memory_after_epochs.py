"""Trains a small network for thirty epochs, and prints what the process holds after each.

The output is JSON: the number of live arrays of JAX, and the resident memory in MiB. It is a process of its own,
because what other tests left to be freed, or not, is counted too.
"""

import gc
import json
import resource
import sys
import tempfile
from pathlib import Path

import jax
from training_fixtures import TINY_RUN, made_dataset, small

from seanet_jax.training.config import TrainConfig
from seanet_jax.training.loop import Loop
from seanet_jax.training.run import fit

if __name__ == "__main__":
    real, arrays, mebibytes = Loop._end_epoch, [], []

    def end_epoch(loop, state, step):
        real(loop, state, step)
        loop._checkpoints.wait()
        gc.collect()
        arrays.append(len(jax.live_arrays()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        mebibytes.append(round(pages * resource.getpagesize() / 2**20, 1))

    Loop._end_epoch = end_epoch
    with tempfile.TemporaryDirectory() as folder, small(made_dataset()):
        fit(TrainConfig(out=Path(folder) / "run", **(TINY_RUN | {"epochs": 30, "decay_every": 30})))
    sys.stdout.write("\n" + json.dumps({"arrays": arrays, "mebibytes": mebibytes}))
