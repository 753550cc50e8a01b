"""The table of presets: networks that have a name. A preset is one row.

Other packages add presets by ``register_preset``.
"""

import dataclasses
from typing import Any

from flax import nnx

from seanet_jax.errors import InputError, did_you_mean
from seanet_jax.models.encapnet import EncapNetConfig
from seanet_jax.models.families import build, family_of
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.seanet import SEANetConfig
from seanet_jax.plugins import load_plugins
from seanet_jax.printable import short_repr

_RESNET = SEANetConfig(widths=(16, 32, 64), squeeze_excite=False, aggregate_placement="none")
_PREACT = dataclasses.replace(_RESNET, preactivation=True)
_SEANET = SEANetConfig()
_ENCAPNET = EncapNetConfig()
_NARROW = dataclasses.replace(_SEANET, widths=(32, 64, 128))


def _deep(config: SEANetConfig, depth: int) -> SEANetConfig:
    """Returns a CIFAR residual network of ``depth`` = 6 n + 2 layers: three stages of n blocks."""
    return dataclasses.replace(config, stage_sizes=((depth - 2) // 6,) * 3)


PRESETS: dict[str, NetworkConfig] = {
    # As published: widths 128/256/512, squeeze-excitation, sum of 4 channels after each stage.
    **{f"seanet{depth}": _deep(_SEANET, depth) for depth in (20, 32, 56)},
    # The talk's wording: aggregation inside each block.
    "seanet20_block": dataclasses.replace(_SEANET, aggregate_placement="block"),
    # A quarter of the width, which a laptop can train.
    "seanet20_narrow": _NARROW,
    # As many parameters as the talk's SENet-20 (within 0.2 %) and ResNet-20 (within 2 %).
    "seanet20_small": dataclasses.replace(_SEANET, widths=(16, 32, 68)),
    # Baselines of equal capacity, for SEANet-20 and its narrow form: the same widths, nothing aggregated.
    "wide_senet20": dataclasses.replace(_SEANET, aggregate_placement="none"),
    "wide_resnet20": dataclasses.replace(_SEANET, aggregate_placement="none", squeeze_excite=False),
    "narrow_senet20": dataclasses.replace(_NARROW, aggregate_placement="none"),
    "narrow_resnet20": dataclasses.replace(_NARROW, aggregate_placement="none", squeeze_excite=False),
    # Controls: what stands in the place of the narrow network's sum. All have its widths, so that their parameters
    # differ only by those of the aggregates, 0.5 % at most, and with fewer aggregates by those of the classifier.
    "seanet20_narrow_normalized_sum": dataclasses.replace(_NARROW, aggregate_op="normalized_sum"),  # sum / 2
    "seanet20_narrow_bn": dataclasses.replace(_NARROW, aggregate_norm=True),  # sum, then batch normalization
    "seanet20_narrow_learned": dataclasses.replace(_NARROW, aggregate_op="learned"),  # a weight for each channel
    "seanet20_narrow_dense": dataclasses.replace(_NARROW, aggregate_op="dense"),  # DenseNet's 1x1 convolution
    "seanet20_narrow_drop": dataclasses.replace(_NARROW, aggregate_op="drop"),  # the first channel of each four
    "seanet20_narrow_random": dataclasses.replace(_NARROW, aggregate_op="random"),  # a sum of four drawn at random
    # No sum before the classifier, which sees all 128 channels: 0.9 % more parameters for 100 classes.
    "seanet20_narrow_stages12": dataclasses.replace(_NARROW, aggregate_stages=(1, 2)),
    # The talk's baselines.
    "senet20": dataclasses.replace(_RESNET, squeeze_excite=True),
    **{f"resnet{depth}": _deep(_RESNET, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"preact_resnet{depth}": _deep(_PREACT, depth) for depth in (20, 32, 56, 110)},
    # Capsules: master branches alone, with aide branches, and with the agreement term in training.
    "encapnet": _ENCAPNET,
    "encapnet_plus": dataclasses.replace(_ENCAPNET, aide=True),
    "encapnet_plus_plus": dataclasses.replace(_ENCAPNET, aide=True, agreement=True),
}


def register_preset(name: str, config: NetworkConfig) -> None:
    """Adds a preset, so that ``create_model`` and ``seanet train --model`` know its name.

    Args:
        name: Name of the preset.
        config: The preset's config; its family is registered first.

    Raises:
        InputError: If there is a preset of this name, or if no registered family has this type of config.
    """
    if name in PRESETS:
        raise InputError(f"register_preset: there is a preset {name!r} already; choose another name")
    family_of(config)
    PRESETS[name] = config


def list_models() -> list[str]:
    """Returns the names of all presets, including those that plugins add.

    Raises:
        InputError: If a plugin cannot be imported.
    """
    load_plugins()
    return list(PRESETS)


def find_preset(name: str) -> NetworkConfig | None:
    """Returns the config of a preset, which a plugin may add; None if there is no preset of this name.

    Raises:
        InputError: If there is no preset of this name in this package, and a plugin cannot be imported.
    """
    if not isinstance(name, str):
        return None
    if name not in PRESETS:
        load_plugins()
    return PRESETS.get(name)


def model_config(name: str, **overrides: Any) -> NetworkConfig:
    """Returns the config of a preset, with some fields replaced.

    Args:
        name: Name of a preset, see ``list_models``.
        **overrides: Fields of the preset's config, for example of ``SEANetConfig``.

    Raises:
        InputError: If there is no such preset, if its config has no such field, or if the result cannot be built.
    """
    preset = find_preset(name)
    if preset is None:
        hint = did_you_mean(name, PRESETS)
        raise InputError(
            f"there is no model {short_repr(name)}; the models are {', '.join(PRESETS)}; one of another "
            f"package is known where that package, the plugin, is installed{hint and f'; {hint}'}"
        )
    fields = [field.name for field in dataclasses.fields(preset)]
    for field in overrides:
        if field not in fields:
            raise InputError(f"{name} has no field {short_repr(field)}; its fields are {', '.join(fields)}")
    return dataclasses.replace(preset, **overrides)


def create_model(name: str, *, rngs: nnx.Rngs, **overrides: Any) -> Network:
    """Builds the network of a preset.

    Args:
        name: Name of a preset, for example "seanet20"; see ``list_models``.
        rngs: Source of the initial parameters, e.g. ``nnx.Rngs(0)``.
        **overrides: Fields of the preset's config, for example ``num_classes=100``.

    Raises:
        InputError: If there is no such preset, if its config has no such field, or if the result cannot be built.
    """
    return build(model_config(name, **overrides), rngs=rngs)
