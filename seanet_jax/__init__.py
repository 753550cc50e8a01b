"""SEANet in JAX and Flax NNX: squeeze-excitation and aggregation on a residual network.

The names below are the blocks and the networks. Training is in ``seanet_jax.training``, data in ``seanet_jax.data``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seanet_jax.errors import InputError
    from seanet_jax.image_spec import ImageSpec
    from seanet_jax.layers.functional import aggregate, squeeze_excite
    from seanet_jax.layers.modules import Aggregate, ResidualBlock, SqueezeExcite
    from seanet_jax.models import PRESETS, EncapNet, EncapNetConfig, SEANet, SEANetConfig, create_model

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Aggregate",
    "EncapNet",
    "EncapNetConfig",
    "ImageSpec",
    "InputError",
    "ResidualBlock",
    "SEANet",
    "SEANetConfig",
    "SqueezeExcite",
    "aggregate",
    "create_model",
    "squeeze_excite",
]

_HOMES = {
    "errors": ("InputError",),
    "layers.functional": ("aggregate", "squeeze_excite"),
    "image_spec": ("ImageSpec",),
    "models": ("PRESETS", "EncapNet", "EncapNetConfig", "SEANet", "SEANetConfig", "create_model"),
    "layers.modules": ("Aggregate", "ResidualBlock", "SqueezeExcite"),
}


# Found when first asked for (PEP 562): an experiment restarts its process before it spends a second on importing JAX.
def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
