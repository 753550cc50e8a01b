"""The networks: each family one class described by one config, and the table of named configs."""

from seanet_jax.models.encapnet import EncapNet, EncapNetConfig
from seanet_jax.models.families import build, config_from_json, config_to_json, from_pretrained
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.presets import PRESETS, create_model, model_config
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
    "from_pretrained",
    "model_config",
]
