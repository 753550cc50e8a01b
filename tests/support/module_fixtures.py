"""What the tests of layers share: inputs, modules without values, and a compiled call."""

import numpy as np
from flax import nnx


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def abstract(kind, *arguments, **options):
    """Builds a module whose arrays have shapes but no values, which takes no compilation."""
    return nnx.eval_shape(lambda: kind(*arguments, **options, rngs=nnx.Rngs(0)))


@nnx.jit
def run(module, x):
    return module(x)
