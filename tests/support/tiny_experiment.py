"""An experiment on a small network and small images, for tests that start many processes."""

from training_fixtures import TINIEST, TINY_RUN, made_dataset

from seanet_jax.commands.train import main
from seanet_jax.models import PRESETS
from seanet_jax.training import images

if __name__ == "__main__":
    PRESETS["tiny"] = TINIEST
    images.load = lambda name, data_dir, mapped: made_dataset()
    main(__doc__, **TINY_RUN)
