"""Uses the pure functions of ``seanet_jax.layers.functional`` without a framework; the parameters are a dict.

    python examples/plain_jax.py

Trains for a few seconds on 1,500 of the handwritten digits in scikit-learn, and prints the accuracy on the others.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from seanet_jax.layers.functional import aggregate, batch_norm, batch_statistics, conv2d, squeeze_excite

Arrays = dict[str, jax.Array]
CHANNELS, HIDDEN, FACTOR = 32, 4, 4


def initial(key: jax.Array, classes: int) -> tuple[Arrays, Arrays]:
    """Returns the initial parameters, and the running averages of the batch normalization."""
    shapes = {
        "kernel": (3, 3, 1, CHANNELS),
        "reduce": (CHANNELS, HIDDEN),
        "expand": (HIDDEN, CHANNELS),
        "classifier": (8 * 8 * CHANNELS // FACTOR, classes),
    }
    keys = jax.random.split(key, len(shapes))
    initializer = jax.nn.initializers.he_normal()
    params = {name: initializer(one, shape) for one, (name, shape) in zip(keys, shapes.items(), strict=True)}
    zeros = {"bias": CHANNELS, "reduce_bias": HIDDEN, "expand_bias": CHANNELS, "classifier_bias": classes}
    params |= {"scale": jnp.ones(CHANNELS)} | {name: jnp.zeros(size) for name, size in zeros.items()}
    return params, {"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)}


def logits_of(params: Arrays, averages: Arrays, x: jax.Array, *, train: bool) -> tuple[jax.Array, Arrays]:
    """Maps images ``[N, 8, 8, 1]`` to logits ``[N, classes]``; also returns the averages, updated in training."""
    x = conv2d(x, params["kernel"])
    mean, var = batch_statistics(x) if train else (averages["mean"], averages["var"])
    if train:
        averages = {"mean": 0.9 * averages["mean"] + 0.1 * mean, "var": 0.9 * averages["var"] + 0.1 * var}
    x = jax.nn.relu(batch_norm(x, mean, var, params["scale"], params["bias"]))
    x = squeeze_excite(x, params["reduce"], params["reduce_bias"], params["expand"], params["expand_bias"])
    x = aggregate(x, FACTOR, op="sum")
    return x.reshape(len(x), -1) @ params["classifier"] + params["classifier_bias"], averages


@jax.jit
def step(params: Arrays, averages: Arrays, images: jax.Array, labels: jax.Array) -> tuple[Arrays, Arrays]:
    """Returns parameters and averages after one step of gradient descent."""

    def loss(params: Arrays) -> tuple[jax.Array, Arrays]:
        logits, moved = logits_of(params, averages, images, train=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), moved

    gradients, averages = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda parameter, gradient: parameter - 0.1 * gradient, params, gradients), averages


def main() -> None:
    """Trains the network and prints its accuracy."""
    digits = load_digits()
    images, labels = jnp.asarray(digits.images[..., None] / 16, jnp.float32), jnp.asarray(digits.target)
    params, averages = initial(jax.random.key(0), classes=10)
    source = np.random.default_rng(0)
    for _ in range(300):
        batch = source.integers(0, 1500, 64)
        params, averages = step(params, averages, images[batch], labels[batch])
    logits, _ = logits_of(params, averages, images[1500:], train=False)
    print(f"accuracy: {(logits.argmax(-1) == labels[1500:]).mean():.3f}")


if __name__ == "__main__":
    main()
