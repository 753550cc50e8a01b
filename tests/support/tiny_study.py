"""A study of small networks on small images, for tests that start many processes."""

import dataclasses

from training_fixtures import TINIEST, TINY_RUN, made_dataset

from seanet_jax.commands.compare import run_comparison
from seanet_jax.commands.study import study
from seanet_jax.models import PRESETS
from seanet_jax.training import images

if __name__ == "__main__":
    PRESETS["tiny"] = TINIEST
    PRESETS["tiny_plain"] = dataclasses.replace(TINIEST, aggregate_placement="none")
    images.load = lambda name, data_dir, mapped: made_dataset()
    study(__doc__, run_comparison, ("tiny", "tiny_plain"), (0.1,), **TINY_RUN)
