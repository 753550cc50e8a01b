"""Lists the layers of a network: what each gives for one image, and what it costs."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import positive_integers
from seanet_jax.models.families import build
from seanet_jax.models.module_calls import Around, calls_go_through
from seanet_jax.models.multiply_adds import jaxpr_multiply_adds
from seanet_jax.models.network import NetworkConfig


class Layer(NamedTuple):
    """A module of a network, in the order of the calls.

    Attributes:
        path: Its path in the network, for example ``stages.0.blocks.1.conv1``, which its weights' names begin with.
        kind: The name of its class.
        output: The shape of its output for one image, without the batch; of several outputs, that of the first.
        parameters: Number of trained parameters, with those of the modules inside it.
        multiply_adds: Number of multiply-adds for one image, with those of the modules inside it.
        has_layers: Whether it consists of further modules, which follow it.
    """

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    has_layers: bool


def layers(config: NetworkConfig, height: int = 32, width: int = 32) -> list[Layer]:
    """Returns the modules of a network for images of a size. Nothing is computed, so that any network takes seconds.

    Multiply-adds are counted as ``multiply_adds`` does.

    Args:
        config: The network's config.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.

    Raises:
        InputError: If height or width is not a positive integer.
    """
    height, width = positive_integers("layers", height=height, width=width)
    config = dataclasses.replace(config, conv_method="lax")  # the faster methods have other multiply-adds
    found: list[Layer] = []

    def call(image: jax.Array) -> jax.Array:
        model = build(config, rngs=nnx.Rngs(0))
        model.eval()
        with calls_go_through(_recorder(found), model):
            return model(image)

    jax.eval_shape(call, jax.ShapeDtypeStruct((1, height, width, config.in_channels), jnp.float32))
    return found


def _recorder(found: list[Layer]) -> Around:
    """Returns a function that appends each module that is called to a list, before those that it calls."""
    inside: list[bool] = []

    def record(path: str, module: nnx.Module, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if inside:
            return call(*arguments, **keywords)
        at = len(found)
        found.append(Layer("", "", (), 0, 0, False))
        result = call(*arguments, **keywords)
        inside.append(True)
        jaxpr = jax.make_jaxpr(lambda *values: call(*values, **keywords))(*arguments)
        inside.pop()
        found[at] = Layer(
            path,
            type(module).__name__,
            jax.tree.leaves(result)[0].shape[1:],
            sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))),
            jaxpr_multiply_adds(jaxpr.jaxpr),
            len(found) > at + 1,
        )
        return result

    return record
