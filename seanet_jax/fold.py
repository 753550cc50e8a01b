"""Batch normalisation folded into the convolutions before it, for inference.

In evaluation mode a convolution and the normalisation of its result, with running mean m and variance v,

    y = (x * kernel - m) / sqrt(v + epsilon) * scale + bias

is one convolution with a bias: with a = scale / sqrt(v + epsilon) its kernel is ``kernel * a``, channel by channel, and
its bias ``bias - m * a`` (Jacob et al., CVPR 2018, section 3.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.functional import conv2d
from seanet_jax.models import SEANet
from seanet_jax.modules import BatchNorm, Conv


class FoldedConv(nnx.Module):
    """A convolution with a bias: what a convolution and the normalisation after it compute together.

    Args:
        conv: the convolution.
        norm: the normalisation of its result, in evaluation mode.
    """

    def __init__(self, conv: Conv, norm: BatchNorm):
        mean, var, scale, bias, kernel = (
            np.asarray(variable.get_value(), np.float64)
            for variable in (norm.mean, norm.var, norm.scale, norm.bias, conv.kernel)
        )
        multiplier = scale / np.sqrt(var + norm.epsilon)
        self.kernel = nnx.Param(jnp.asarray(kernel * multiplier, jnp.float32))
        self.bias = nnx.Param(jnp.asarray(bias - mean * multiplier, jnp.float32))
        self.stride = conv.stride
        self.method = conv.method

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``, of x's dtype."""
        y = conv2d(x, self.kernel[...], stride=self.stride, method=self.method)
        return (y + self.bias[...]).astype(x.dtype)


class Folded(nnx.Module):
    """What stands in place of a normalisation that is part of its convolution."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """x, as it is."""
        return x


def fold_batch_norm(model: SEANet) -> SEANet:
    """The network in which every normalisation that follows a convolution is folded into it.

    Those are all of them, unless the network is pre-activated: then each block's ``bn2``, after ``conv1``. Folding is
    computed in float64 and stored in float32.

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
    _fold(folded, "stem", "stem_bn")
    for stage in folded.stages:
        for block in stage.blocks:
            if block.preactivation:
                _fold(block, "conv1", "bn2")
            else:
                _fold(block, "conv1", "bn1")
                _fold(block, "conv2", "bn2")
                _fold(block, "shortcut", "shortcut_bn")
    return folded


def _fold(owner: nnx.Module, conv_name: str, norm_name: str) -> None:
    """Folds a normalisation into a convolution, if the module has both."""
    norm = getattr(owner, norm_name)
    if isinstance(norm, BatchNorm):
        setattr(owner, conv_name, FoldedConv(getattr(owner, conv_name), norm))
        setattr(owner, norm_name, Folded())
