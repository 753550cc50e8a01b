"""What a network costs, counted from the model itself: parameters, and multiply-adds of one image."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import demand_positive_integers
from seanet_jax.models import Network, NetworkConfig, build


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of a jaxpr's equations, those of the jaxprs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                open_jaxpr = getattr(inner, "jaxpr", inner)
                if hasattr(open_jaxpr, "eqns"):
                    yield from equations(open_jaxpr)


@functools.cache
def multiply_adds(config: NetworkConfig, height: int = 32, width: int = 32) -> int:
    """Multiplications, each with its addition, that classify one image: of the convolutions and matrix products.

    As in the literature, a kernel counts whole where it lies on padding, and what is done element by element
    (normalisation, recalibration, aggregation, the residual addition) does not count.

    Args:
        config: of the network.
        height: of the image, in pixels.
        width: likewise.

    Raises:
        InputError: height or width is not a positive integer.
    """
    demand_positive_integers("multiply_adds", height=height, width=width)
    # XLA's convolution is one equation; the faster ways to compute it are many.
    model = _abstract(dataclasses.replace(config, conv_method="lax"))
    model.eval()
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, height, width, config.in_channels), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, image: nnx.merge(graphdef, state)(image))(state, image)
    return sum(_products(equation) for equation in equations(jaxpr.jaxpr))


def _products(equation: Any) -> int:
    """Multiply-adds of one operation."""
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
    """How many numbers of a network are trained."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(_abstract(config), nnx.Param)))


def _abstract(config: NetworkConfig) -> Network:
    return nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
