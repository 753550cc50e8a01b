"""Uses SEANet's modules in an NNX network, beside Flax's own layers, and trains it with Optax.

    python examples/flax_nnx.py

Trains for a few seconds on 1,500 of the handwritten digits in scikit-learn, and prints the accuracy on the others.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from seanet_jax import Aggregate, ResidualBlock, SqueezeExcite


class Network(nnx.Module):
    """A convolution of Flax, a residual block, an aggregate layer and a squeeze-excitation."""

    def __init__(self, classes: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.block = ResidualBlock(8, 32, stride=2, reduction=8, rngs=rngs)
        self.aggregate = Aggregate(factor=4)
        self.recalibrate = SqueezeExcite(8, reduction=2, rngs=rngs)
        self.classifier = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``[N, H, W, 1]`` to logits ``[N, classes]``."""
        x = self.aggregate(self.block(nnx.relu(self.conv(x))))
        return self.classifier(self.recalibrate(x).mean((1, 2)))


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    """Updates the parameters once. The block updates its batch statistics itself."""

    def loss(model: Network) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def main() -> None:
    """Trains the network and prints its accuracy."""
    digits = load_digits()
    images, labels = jnp.asarray(digits.images[..., None] / 16, jnp.float32), jnp.asarray(digits.target)
    model = Network(10, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    source = np.random.default_rng(0)
    for _ in range(300):
        batch = source.integers(0, 1500, 64)
        step(model, optimizer, images[batch], labels[batch])
    model.eval()  # running statistics instead of the batch's
    print(f"accuracy: {(model(images[1500:]).argmax(-1) == labels[1500:]).mean():.3f}")


if __name__ == "__main__":
    main()
