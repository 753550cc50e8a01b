"""Counts a network's parameters and features, and the multiply-adds that classify one image, from the model itself."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import positive_integers
from seanet_jax.models import Network, NetworkConfig, build


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields all equations of a jaxpr, including those of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                open_jaxpr = getattr(inner, "jaxpr", inner)
                if hasattr(open_jaxpr, "eqns"):
                    yield from equations(open_jaxpr)


@functools.cache
def multiply_adds(config: NetworkConfig, height: int = 32, width: int = 32) -> int:
    """Counts the multiply-adds of the convolutions and matrix products that classify one image.

    As in the literature, a kernel counts in full where it overlaps the padding, and operations on single elements
    (normalization, recalibration, aggregation, the residual addition) do not count.

    Args:
        config: The network's config.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.

    Raises:
        InputError: If height or width is not a positive integer.
    """
    height, width = positive_integers("multiply_adds", height=height, width=width)
    # XLA's convolution is one equation, which can be counted; the faster methods consist of many, which compute less.
    model = _abstract(dataclasses.replace(config, conv_method="lax"))
    model.eval()
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, height, width, config.in_channels), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, image: nnx.merge(graphdef, state)(image))(state, image)
    return jaxpr_multiply_adds(jaxpr.jaxpr)


def jaxpr_multiply_adds(jaxpr: Any) -> int:
    """Counts the multiply-adds of the convolutions and matrix products in a jaxpr and in those inside it."""
    return sum(_products(equation) for equation in equations(jaxpr))


def _products(equation: Any) -> int:
    """Returns the multiply-adds of one equation."""
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    if equation.primitive.name == "conv_general_dilated":
        _, kernel, (_, rows, columns, _) = shapes
        return rows * columns * math.prod(kernel)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(shapes[0][axis] for axis in contracted) * math.prod(shapes[-1])
    return 0


@functools.cache
def parameters(config: NetworkConfig) -> int:
    """Counts the trained parameters of a network."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(_abstract(config), nnx.Param)))


@functools.cache
def features(config: NetworkConfig) -> int:
    """Returns the number of features of an image that a network's classifier sees."""
    return _abstract(config).num_features


def _abstract(config: NetworkConfig) -> Network:
    """Builds a network whose arrays have shapes but no values, which takes no time."""
    return nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
