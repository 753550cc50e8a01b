"""Does SEANet learn here at all? The narrow network on real handwritten digits, with nothing to download.

Data: scikit-learn's 1,797 bundled digits, a fifth of them held back for testing.
"""

from seanet_jax.cli import main
from seanet_jax.config import TrainConfig

CONFIG = TrainConfig(
    dataset="digits",
    model="seanet20_narrow",
    epochs=20,
    decay_every=8,
    # At the published rate of 0.1 a sum-aggregated network of this width hardly moves in its first hundreds of steps.
    learning_rate=0.02,
    log_every=11,
)

if __name__ == "__main__":
    main(CONFIG, __doc__)
