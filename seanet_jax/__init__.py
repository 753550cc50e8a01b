"""SEANet in JAX and Flax NNX: squeeze-excitation and aggregation on a residual network.

Where to start:

    Blocks for your own network   ``SqueezeExcite``, ``Aggregate`` and ``ResidualBlock`` are Flax NNX modules;
                                  ``squeeze_excite`` and ``aggregate`` are the same as pure functions, and
                                  ``functional`` has all of these.
    Whole networks                ``create_model("seanet20", num_classes=100, rngs=nnx.Rngs(0))``; ``list_models()``
                                  has the names, ``PRESETS`` their configs. ``from_pretrained`` reads a folder of
                                  weights.
    Training                      ``fit(TrainConfig(dataset="digits", epochs=12))`` leaves a run folder behind, and
                                  ``load(folder)`` returns its network. ``fit`` and ``TrainConfig``
                                  need the extra "train", ``load`` the extra "predict".
    Command line                  ``seanet --help``, or ``python -m seanet_jax --help``.

The folders are layers, models, data, training, inference, studies and commands. Each imports only from those before it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seanet_jax.version import __version__ as __version__

# What type checkers and editors read; _HOMES is what happens when the program runs.
if TYPE_CHECKING:
    from seanet_jax.errors import InputError, RunError
    from seanet_jax.image_spec import ImageSpec
    from seanet_jax.inference.trained import load
    from seanet_jax.layers import functional
    from seanet_jax.layers.functional import aggregate, squeeze_excite
    from seanet_jax.layers.modules import Aggregate, ResidualBlock, SqueezeExcite
    from seanet_jax.models import (
        PRESETS,
        EncapNet,
        EncapNetConfig,
        SEANet,
        SEANetConfig,
        create_model,
        from_pretrained,
        list_models,
    )
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.run import fit

__all__ = [
    "PRESETS",
    "Aggregate",
    "EncapNet",
    "EncapNetConfig",
    "ImageSpec",
    "InputError",
    "ResidualBlock",
    "RunError",
    "SEANet",
    "SEANetConfig",
    "SqueezeExcite",
    "TrainConfig",
    "aggregate",
    "create_model",
    "fit",
    "from_pretrained",
    "functional",
    "list_models",
    "load",
    "squeeze_excite",
]

_HOMES = {
    "errors": ("InputError", "RunError"),
    "image_spec": ("ImageSpec",),
    "inference.trained": ("load",),
    "layers": ("functional",),
    "layers.functional": ("aggregate", "squeeze_excite"),
    "layers.modules": ("Aggregate", "ResidualBlock", "SqueezeExcite"),
    "models": (
        *("PRESETS", "EncapNet", "EncapNetConfig", "SEANet", "SEANetConfig"),
        *("create_model", "from_pretrained", "list_models"),
    ),
    "training.config": ("TrainConfig",),
    "training.run": ("fit",),
}

# Names that the dependencies of the core are not enough for.
_EXTRAS = {"TrainConfig": "train", "fit": "train", "load": "predict"}


# Imports a name when it is first asked for (PEP 562). A command restarts its process with other settings before it
# spends a second on importing JAX, so importing the package must not import JAX. Type checkers do not see the function:
# they would take every misspelled name for one that it finds.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names:
                return _find(f"{__name__}.{module}", name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _find(module: str, name: str) -> Any:
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        from seanet_jax.extras import explain

        sentence = explain(error, f"{__name__}.{name}", _EXTRAS.get(name, ""))
        if sentence is None:
            raise
        raise ImportError(sentence, name=error.name) from error
    # A module is an attribute of its folder only once something has imported it.
    return getattr(home, name, None) or importlib.import_module(f"{module}.{name}")


def __dir__() -> list[str]:
    """The public names, without those whose extra is not installed: ``help`` imports every name it finds here."""
    from seanet_jax.extras import is_installed

    return sorted(name for name in __all__ if name not in _EXTRAS or is_installed(_EXTRAS[name]))
