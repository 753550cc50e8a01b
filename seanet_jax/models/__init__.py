"""The networks: one class described by one config, and the table of named configs."""

from seanet_jax.models.presets import PRESETS, create_model, model_config
from seanet_jax.models.seanet import SEANet, SEANetConfig

__all__ = ["PRESETS", "SEANet", "SEANetConfig", "create_model", "model_config"]
