"""Folds batch normalization into the convolution before it, which makes inference cheaper.

In evaluation mode, a convolution and the normalization of its result by a running mean m and variance v,

    y = (x * kernel - m) / sqrt(v + epsilon) * scale + bias,

equal one convolution with a bias. With a = scale / sqrt(v + epsilon), its kernel is ``kernel * a``, channel by channel,
and its bias is ``bias - m * a`` (Jacob et al., CVPR 2018, section 3.2). If the convolution has a bias b already, the
new one is ``bias + (b - m) * a``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import Network


class Folded(nnx.Module):
    """The identity, which replaces a normalization that was folded into its convolution."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x unchanged."""
        return x


def fold_batch_norm(model: Network) -> Network:
    """Returns a network in which each normalization that directly follows a convolution is folded into it.

    In a SEANet, these are all normalizations; in a pre-activated one, each block's ``bn2``, which follows ``conv1``. In
    an EncapNet, they are those of the stem, the masters and the aides. All others stay as they are. Folding is computed
    in float64 and stored in float32.

    Args:
        model: A network in evaluation mode. It is not changed.

    Returns:
        A network for inference only, which returns the same scores and features but for rounding. It can neither be
        trained nor saved.

    Raises:
        InputError: If the network is in training mode, where a normalization depends on the batch.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm) and not module.use_running_average:
            name = ".".join(map(str, path))
            raise InputError(f"fold_batch_norm: {name} is in training mode; call model.eval() before folding")
    folded = nnx.clone(model)
    for _, module in list(nnx.iter_modules(folded)):
        for conv_name, norm_name in getattr(module, "folds", ()):
            _fold(module, conv_name, norm_name)
    return folded


def _fold(owner: nnx.Module, conv_name: str, norm_name: str) -> None:
    """Folds a normalization into a convolution, if the module has both."""
    conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
    if not isinstance(norm, BatchNorm):
        return
    # In float64, so that folding adds no rounding of its own but the last one to float32.
    mean, var, scale, bias, kernel, offset = (
        np.asarray(0 if variable is None else variable.get_value(), np.float64)
        for variable in (norm.mean, norm.var, norm.scale, norm.bias, conv.kernel, conv.bias)
    )
    multiplier = scale / np.sqrt(var + norm.epsilon)
    conv.kernel.set_value(jnp.asarray(kernel * multiplier, jnp.float32))
    conv.bias = nnx.data(nnx.Param(jnp.asarray(bias + (offset - mean) * multiplier, jnp.float32)))
    setattr(owner, norm_name, Folded())
