"""Fine-tunes a pretrained network on other classes, with a new classifier and the first layers frozen.

    python examples/fine_tune.py FOLDER

FOLDER holds pretrained weights: model.safetensors and config.json, which ``SEANet.save_pretrained`` writes. The network
learns 1,500 of the handwritten digits in scikit-learn. The script prints its accuracy on the others.

The stem and the first stage are frozen. Optax sets the updates of their parameters to zero, and their batch
normalizations stay in evaluation mode, in which batch statistics do not change.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from seanet_jax import SEANet


def is_frozen(path: tuple[Any, ...]) -> bool:
    """Returns whether the parameter at a path of the network is frozen."""
    return path[0] in ("stem", "stem_bn") or path[:2] == ("stages", 0)


def set_modes(model: SEANet) -> None:
    """Puts the network into training mode, except for its frozen layers."""
    model.train()
    for path, module in nnx.iter_modules(model):
        if path and is_frozen(path):
            module.eval()


def make_optimizer(model: SEANet) -> nnx.Optimizer:
    """Returns an optimizer: SGD for trained parameters, no update for frozen ones."""

    def labels(params: nnx.State) -> nnx.State:
        return nnx.map_state(lambda path, _: "frozen" if is_frozen(path) else "trained", params)

    transforms = {"trained": optax.sgd(0.02, momentum=0.9), "frozen": optax.set_to_zero()}
    return nnx.Optimizer(model, optax.multi_transform(transforms, labels), wrt=nnx.Param)


@nnx.jit
def step(model: SEANet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    """Updates the parameters once. XLA removes the gradients of frozen parameters, which nothing uses."""

    def loss(model: SEANet) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def fine_tune(model: SEANet, images: jax.Array, labels: jax.Array, steps: int) -> None:
    """Trains the network in place and leaves it in evaluation mode."""
    set_modes(model)
    optimizer = make_optimizer(model)
    source = np.random.default_rng(0)
    for _ in range(steps):
        batch = source.integers(0, len(images), 64)
        step(model, optimizer, images[batch], labels[batch])
    model.eval()


def main() -> None:
    """Fine-tunes the network of a folder and prints its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of pretrained weights")
    arguments = parser.parse_args()
    model = SEANet.from_pretrained(arguments.folder, num_classes=10, rngs=nnx.Rngs(0))
    digits = load_digits()
    # Gray images are repeated in every channel. They have 8x8 pixels, and the network takes any size.
    images = jnp.asarray(digits.images[..., None] / 8 - 1, jnp.float32).repeat(model.config.in_channels, -1)
    labels = jnp.asarray(digits.target)
    fine_tune(model, images[:1500], labels[:1500], steps=200)
    print(f"accuracy: {(model(images[1500:]).argmax(-1) == labels[1500:]).mean():.3f}")


if __name__ == "__main__":
    main()
