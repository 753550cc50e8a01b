"""SEANet in JAX and Flax NNX: squeeze-excitation and aggregation on a residual network.

The names below are the blocks and the networks. Training lives in ``seanet_jax.train``, data in ``seanet_jax.data``.
"""

from seanet_jax.errors import InputError
from seanet_jax.functional import aggregate, squeeze_excite
from seanet_jax.models import PRESETS, SEANet, SEANetConfig, create_model
from seanet_jax.modules import Aggregate, ResidualBlock, SqueezeExcite

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Aggregate",
    "InputError",
    "ResidualBlock",
    "SEANet",
    "SEANetConfig",
    "SqueezeExcite",
    "aggregate",
    "create_model",
    "squeeze_excite",
]
