"""The networks, the functions that build them by name, and their weights in files.

Start at ``create_model`` and the table ``PRESETS``. ``seanet.py`` and ``encapnet.py`` hold one family of networks each:
a config and the network that it describes. ``network.py`` has their base classes. Other packages add networks by
``register_family`` and ``register_preset``.
"""

from seanet_jax.models.encapnet import EncapNet, EncapNetConfig
from seanet_jax.models.families import (
    build,
    config_from_json,
    config_to_json,
    family_of,
    from_pretrained,
    register_family,
)
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.presets import PRESETS, create_model, find_preset, list_models, model_config, register_preset
from seanet_jax.models.seanet import SEANet, SEANetConfig

__all__ = [
    "PRESETS",
    "EncapNet",
    "EncapNetConfig",
    "Network",
    "NetworkConfig",
    "SEANet",
    "SEANetConfig",
    "build",
    "config_from_json",
    "config_to_json",
    "create_model",
    "family_of",
    "find_preset",
    "from_pretrained",
    "list_models",
    "model_config",
    "register_family",
    "register_preset",
]
