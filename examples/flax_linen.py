"""Uses the residual block in a Linen network, through Flax's bridge ``nnx.bridge.ToLinen``.

    python examples/flax_linen.py

The block's parameters are in Linen's collection "params" and its running averages in "batch_stats", like those of
Linen's layers. Trains for a few seconds on 1,500 of the handwritten digits in scikit-learn, and prints the accuracy on
the others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from sklearn.datasets import load_digits

from seanet_jax import Aggregate, ResidualBlock


def residual_block(train: bool, *, rngs: nnx.Rngs) -> ResidualBlock:
    """Returns the block in training or evaluation mode. The bridge calls this each time the network is applied."""
    block = ResidualBlock(8, 32, stride=2, reduction=8, aggregate=Aggregate(4), rngs=rngs)
    if not train:
        block.eval()
    return block


class Network(linen.Module):
    """Layers of Linen around the block."""

    classes: int

    @linen.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[N, H, W, 1]`` to logits ``[N, classes]``."""
        x = linen.relu(linen.Conv(8, (3, 3))(x))
        x = nnx.bridge.ToLinen(residual_block, args=(train,), name="block")(x)
        return linen.Dense(self.classes)(x.mean((1, 2)))


def main() -> None:
    """Trains the network and prints its accuracy."""
    digits = load_digits()
    images, labels = jnp.asarray(digits.images[..., None] / 16, jnp.float32), jnp.asarray(digits.target)
    network = Network(10)
    variables = network.init(jax.random.key(0), images[:2], train=True)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables: Any, state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, moved = network.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), moved

        gradients, moved = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state)
        return {"params": optax.apply_updates(variables["params"], updates)} | moved, state

    source = np.random.default_rng(0)
    for _ in range(300):
        batch = source.integers(0, 1500, 64)
        variables, state = step(variables, state, images[batch], labels[batch])
    logits = network.apply(variables, images[1500:], train=False)
    print(f"accuracy: {(logits.argmax(-1) == labels[1500:]).mean():.3f}")


if __name__ == "__main__":
    main()
