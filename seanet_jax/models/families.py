"""The table of network families. A family is found by the type of a config, or by its name in a file.

A family is a subclass of ``Network`` with a config class of its own. The families of this package are rows of
``_FAMILIES``; other packages add theirs by ``register_family``.
"""

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.json_files import written_by
from seanet_jax.models import weights
from seanet_jax.models.encapnet import EncapNet
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.seanet import SEANet
from seanet_jax.paths import UserPath
from seanet_jax.plugins import load_plugins

_NetworkT = TypeVar("_NetworkT", bound=Network)

_FAMILIES: list[type[Network]] = [SEANet, EncapNet]


def register_family(network_class: type[_NetworkT]) -> type[_NetworkT]:
    """Adds a family of networks, so that its configs can be built, saved, trained and loaded by name.

    Args:
        network_class: A subclass of ``Network`` that defines ``model_type`` and ``config_class``, each its own, and
          ``recipe`` if the family is trained by other settings than the defaults of ``TrainConfig``.

    Returns:
        The same class, so that this can decorate it.

    Raises:
        InputError: If another family has the same ``model_type`` or ``config_class``.
    """
    for family in _FAMILIES:
        for name in ("model_type", "config_class"):
            if getattr(family, name) == getattr(network_class, name):
                raise InputError(
                    f"register_family: {network_class.__name__} has the {name} of {family.__name__}, "
                    f"{getattr(family, name)!r}; each family must have its own"
                )
    _FAMILIES.append(network_class)
    return network_class


def family_of(config: NetworkConfig) -> type[Network]:
    """Returns the network class that is built from configs of this type.

    Raises:
        InputError: If no registered family has this type of config.
    """
    for family in _FAMILIES:
        if family.config_class is type(config):
            return family
    known = ", ".join(family.config_class.__name__ for family in _FAMILIES)
    raise InputError(f"{type(config).__name__} is no registered family's config_class; those are {known}")


def build(config: NetworkConfig, *, rngs: nnx.Rngs) -> Network:
    """Builds the network of a config.

    Args:
        config: A config of any family.
        rngs: Source of the initial parameters, e.g. ``nnx.Rngs(0)``.

    Raises:
        InputError: If no registered family has this type of config.
    """
    return family_of(config)(config, rngs=rngs)


def from_pretrained(folder: UserPath, **options: Any) -> Network:
    """Builds the network of a folder of weights, whatever its family.

    Args:
        folder: Folder written by ``save_pretrained`` or ``seanet convert``, or the name of a network that comes with
            the package.
        **options: Options of ``Network.from_pretrained``.

    Raises:
        InputError: If no family has the folder's ``model_type``, or if ``Network.from_pretrained`` raises it.
    """
    return from_saved(weights.read(folder), **options)


def from_saved(saved: weights.Saved, **options: Any) -> Network:
    """Builds a network from what ``weights.read`` returned; see ``from_pretrained``."""
    family = _family_named(saved.model_type, str(saved.folder / weights.CONFIG), saved.version)
    return family.from_saved(saved, **options)


def config_from_json(
    fields: Mapping[str, Any], *, where: str = "the network's config", version: str | None = None
) -> NetworkConfig:
    """Returns the config that ``config_to_json`` wrote, for example in the folder of a run.

    Args:
        fields: The fields of the config, and ``model_type``.
        where: Name of their source, for the error message.
        version: The version of seanet_jax that wrote the source; None if the source does not say.

    Raises:
        InputError: If no family has this ``model_type``, if the family's config has no such field, or if a field or a
            combination of fields cannot be built.
    """
    values = dict(fields)
    # Runs that were written when there was one family do not name it.
    model_type = values.pop("model_type", SEANet.model_type)
    return _family_named(model_type, where, version).config_class.from_fields(values, where, version)


def config_to_json(config: NetworkConfig) -> dict[str, Any]:
    """Returns a config as JSON values, for ``config_from_json``."""
    return {"model_type": family_of(config).model_type, **dataclasses.asdict(config)}


def _family_named(model_type: Any, where: str, version: str | None) -> type[Network]:
    """Returns the family of a name, which a plugin may add."""

    def find() -> type[Network] | None:
        return next((family for family in _FAMILIES if family.model_type == model_type), None)

    if (family := find()) is not None:
        return family
    load_plugins()
    if (family := find()) is not None:
        return family
    known = " or ".join(family.model_type for family in _FAMILIES)
    raise InputError(
        f"{where} is of the model_type {reprlib.repr(model_type)}; it must be {known}, or one of a plugin or "
        f"a newer version of seanet_jax, which has to be installed here{written_by(version)}"
    )
