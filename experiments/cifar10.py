"""The published recipe on CIFAR-10."""

from seanet_jax.cli import main
from seanet_jax.config import TrainConfig

CONFIG = TrainConfig(dataset="cifar10")

if __name__ == "__main__":
    main(CONFIG, __doc__)
