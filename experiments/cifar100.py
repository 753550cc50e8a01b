"""The published recipe on CIFAR-100."""

from seanet_jax.cli import main
from seanet_jax.config import TrainConfig

CONFIG = TrainConfig(dataset="cifar100")

if __name__ == "__main__":
    main(CONFIG, __doc__)
