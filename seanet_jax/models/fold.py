"""Batch normalisation folded into the convolutions before it, for inference.

In evaluation mode a convolution and the normalisation of its result, with running mean m and variance v,

    y = (x * kernel - m) / sqrt(v + epsilon) * scale + bias

is one convolution with a bias: with a = scale / sqrt(v + epsilon) its kernel is ``kernel * a``, channel by channel, and
its bias ``bias - m * a`` (Jacob et al., CVPR 2018, section 3.2); a bias that the convolution has is normalised with it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import Network


class Folded(nnx.Module):
    """What stands in place of a normalisation that is part of its convolution."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """x, as it is."""
        return x


def fold_batch_norm(model: Network) -> Network:
    """The network in which the normalisations that follow a convolution are folded into it.

    Those are all of a SEANet, unless it is pre-activated: then each block's ``bn2``, after ``conv1``. Of an EncapNet
    they are those of the stem, of the masters and of the aides; the others are left as they are. Folding is computed in
    float64 and stored in float32.

    Args:
        model: in evaluation mode; it is left as it is.

    Returns:
        A network that gives the same logits and features but for rounding, and is for that alone: it can be neither
        trained nor saved.

    Raises:
        InputError: the network is in training mode, where a normalisation depends on the batch.
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
    """Folds a normalisation into a convolution, if the module has both."""
    conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
    if not isinstance(norm, BatchNorm):
        return
    mean, var, scale, bias, kernel, offset = (
        np.asarray(0 if variable is None else variable.get_value(), np.float64)
        for variable in (norm.mean, norm.var, norm.scale, norm.bias, conv.kernel, conv.bias)
    )
    multiplier = scale / np.sqrt(var + norm.epsilon)
    conv.kernel.set_value(jnp.asarray(kernel * multiplier, jnp.float32))
    conv.bias = nnx.data(nnx.Param(jnp.asarray(bias + (offset - mean) * multiplier, jnp.float32)))
    setattr(owner, norm_name, Folded())
