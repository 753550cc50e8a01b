"""Which class a config, or a folder of weights, is of."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.models import weights
from seanet_jax.models.encapnet import EncapNet
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.seanet import SEANet

_FAMILIES: tuple[type[Network], ...] = (SEANet, EncapNet)


def build(config: NetworkConfig, *, rngs: nnx.Rngs) -> Network:
    """The network of a config.

    Args:
        config: of either family.
        rngs: source of the initial parameters, e.g. ``nnx.Rngs(0)``.
    """
    return _family_of(config)(config, rngs=rngs)


def from_pretrained(folder: str | os.PathLike[str], **options: Any) -> Network:
    """The network of a folder of weights, of whatever family.

    Args:
        folder: written by ``save_pretrained`` or ``seanet convert``.
        **options: see ``Network.from_pretrained``.

    Raises:
        InputError: the folder's network is of a family that there is not, or as ``Network.from_pretrained``.
    """
    path = Path(folder)
    found = weights.read_about(path).model_type
    for family in _FAMILIES:
        if family.model_type == found:
            return family.from_pretrained(path, **options)
    known = " or ".join(family.model_type for family in _FAMILIES)
    raise InputError(f"{path / weights.CONFIG} is of the model_type {found!r}; it must be {known}")


def config_from_json(fields: Mapping[str, Any]) -> NetworkConfig:
    """The config that a run's folder holds as JSON, see ``config_to_json``.

    Args:
        fields: of the config, and ``model_type``.

    Raises:
        InputError: a field, or a combination of fields, cannot be built.
        StopIteration: there is no such family.
        TypeError: there is no such field.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    # A run that does not say is from when there was one family.
    model_type = values.pop("model_type", SEANet.model_type)
    family = next(family for family in _FAMILIES if family.model_type == model_type)
    return family.config_class(**values)


def config_to_json(config: NetworkConfig) -> dict[str, Any]:
    """A config as JSON values, for ``config_from_json``."""
    return {"model_type": _family_of(config).model_type, **dataclasses.asdict(config)}


def _family_of(config: NetworkConfig) -> type[Network]:
    (family,) = (family for family in _FAMILIES if family.config_class is type(config))
    return family
