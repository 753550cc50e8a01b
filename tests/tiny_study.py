"""A study like the others, of the tests' own small network and images: for tests that start many processes."""

import dataclasses

from training_fixtures import TINY, TINY_RUN, made_dataset

from seanet_jax import train
from seanet_jax.cli import study
from seanet_jax.models import PRESETS

if __name__ == "__main__":
    PRESETS["tiny"] = TINY
    PRESETS["tiny_plain"] = dataclasses.replace(TINY, aggregate_placement="none")
    train.load = lambda name, data_dir, mapped: made_dataset()
    study(__doc__, "compare", ("tiny", "tiny_plain"), **TINY_RUN)
