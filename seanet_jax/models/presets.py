"""The networks that have a name: rows of one table."""

import dataclasses
from typing import Any

from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.models.encapnet import EncapNetConfig
from seanet_jax.models.families import build
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.seanet import SEANetConfig

_RESNET = SEANetConfig(widths=(16, 32, 64), squeeze_excite=False, aggregate_placement="none")
_PREACT = dataclasses.replace(_RESNET, preactivation=True)
_SEANET = SEANetConfig()
_ENCAPNET = EncapNetConfig()
_NARROW = dataclasses.replace(_SEANET, widths=(32, 64, 128))


def _deep(config: SEANetConfig, depth: int) -> SEANetConfig:
    """A CIFAR residual network of ``depth`` = 6 n + 2 layers: three stages of n blocks."""
    return dataclasses.replace(config, stage_sizes=((depth - 2) // 6,) * 3)


PRESETS: dict[str, NetworkConfig] = {
    # As published: widths 128/256/512, squeeze-excitation, sum of 4 channels after each stage.
    **{f"seanet{depth}": _deep(_SEANET, depth) for depth in (20, 32, 56)},
    # The talk's wording: aggregation inside each block.
    "seanet20_block": dataclasses.replace(_SEANET, aggregate_placement="block"),
    # A quarter of the width: what a laptop can train.
    "seanet20_narrow": _NARROW,
    # As many parameters as the talk's SENet-20, within 0.2 %, and ResNet-20, within 2 %.
    "seanet20_small": dataclasses.replace(_SEANET, widths=(16, 32, 68)),
    # Equals in capacity, of SEANet-20 and of its narrow form: the same widths, nothing aggregated.
    "wide_senet20": dataclasses.replace(_SEANET, aggregate_placement="none"),
    "wide_resnet20": dataclasses.replace(_SEANET, aggregate_placement="none", squeeze_excite=False),
    "narrow_senet20": dataclasses.replace(_NARROW, aggregate_placement="none"),
    "narrow_resnet20": dataclasses.replace(_NARROW, aggregate_placement="none", squeeze_excite=False),
    # The talk's opponents.
    "senet20": dataclasses.replace(_RESNET, squeeze_excite=True),
    **{f"resnet{depth}": _deep(_RESNET, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"preact_resnet{depth}": _deep(_PREACT, depth) for depth in (20, 32, 56, 110)},
    # Capsules: with masters alone, with aides, and with the agreement in training.
    "encapnet": _ENCAPNET,
    "encapnet_plus": dataclasses.replace(_ENCAPNET, aide=True),
    "encapnet_plus_plus": dataclasses.replace(_ENCAPNET, aide=True, agreement=True),
}


def model_config(name: str, **overrides: Any) -> NetworkConfig:
    """The config of a preset, with some fields replaced.

    Args:
        name: a key of ``PRESETS``.
        **overrides: fields of its config: ``SEANetConfig`` or ``EncapNetConfig``.

    Raises:
        InputError: there is no such preset, no such field, or the result cannot be built.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"there is no model {name!r}; the models are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    fields = [field.name for field in dataclasses.fields(preset)]
    for field in overrides:
        if field not in fields:
            raise InputError(f"{name} has no field {field!r}; its fields are {', '.join(fields)}")
    return dataclasses.replace(preset, **overrides)


def create_model(name: str, *, rngs: nnx.Rngs, **overrides: Any) -> Network:
    """Builds a network by the name of its preset.

    Args:
        name: a key of ``PRESETS``, for example "seanet20".
        rngs: source of the initial parameters, e.g. ``nnx.Rngs(0)``.
        **overrides: fields of its config, for example ``num_classes=100``.

    Raises:
        InputError: there is no such preset, no such field, or the result cannot be built.
    """
    return build(model_config(name, **overrides), rngs=rngs)
