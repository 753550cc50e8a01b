"""Sharpness-aware minimization: gradients at a point that is worse than the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# A function of the parameters that returns their loss, further results, and the gradient of the loss.
GradientFunction = Callable[[Any], tuple[tuple[jax.Array, Any], Any]]


def sharpness_aware_gradient(
    gradient_fn: GradientFunction, params: Any, rho: float
) -> tuple[tuple[jax.Array, Any], Any]:
    """Returns the loss and further results at the parameters, and the gradient at a perturbation of them.

    The perturbation goes up the gradient ``g`` by the distance ``rho``, to ``params + rho * g / |g|``, where ``|g|`` is
    the norm over all parameters. The optimizer then moves the unperturbed parameters. See Foret et al.,
    "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021, equation 2 and algorithm 1.

    The further results, among them batch statistics and scores, are those of the first pass. Those of the second pass
    belong to parameters that no one keeps. Two passes take twice the time of one.

    Args:
        gradient_fn: What ``jax.value_and_grad(loss, has_aux=True)`` returns, as a function of the parameters alone.
        params: Nested dict of parameters.
        rho: The distance, above 0.

    Returns:
        ``((loss, aux), gradients)``, as ``gradient_fn`` returns it.
    """
    result, gradients = gradient_fn(params)
    # If all gradients are zero, so is the perturbation: without the bound, it would be NaN.
    scale = rho / jnp.maximum(optax.tree.norm(gradients), 1e-12)
    perturbed = jax.tree.map(lambda p, g: p + (scale * g).astype(p.dtype), params, gradients)
    _, gradients = gradient_fn(perturbed)
    return result, gradients
