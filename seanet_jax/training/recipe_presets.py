"""The table of recipes by name.

To add a recipe, add a row: the fields of ``Recipe`` in which it differs from the published one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from seanet_jax.errors import InputError, did_you_mean
from seanet_jax.models.encapnet import EncapNet
from seanet_jax.printable import short_repr
from seanet_jax.training.recipe import Recipe

# What stays as it is whatever the recipe: how numbers are computed, and which images and random numbers are used.
_NOT_OF_A_RECIPE = ("dtype", "conv_method", "limit_train", "limit_test", "seed")

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # The talk's, for SEANet (MIND 2019).
    "published": {},
    "encapnet": EncapNet.recipe,
    # For a short budget: the rate ends at 0 however few the epochs are, and images are changed little.
    "fast": {
        "epochs": 30,
        "batch_size": 128,
        "nesterov": True,
        "schedule": "one_cycle",
        "learning_rate": 0.2,
        "weight_decay": 5e-4,
        "decay_vectors": False,
        "label_smoothing": 0.1,
        "padding": "reflect",
    },
    # For the best accuracy that many epochs give.
    "modern": {
        "epochs": 200,
        "batch_size": 128,
        "nesterov": True,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "decay_vectors": False,
        "label_smoothing": 0.1,
        "padding": "reflect",
        "trivial_augment": True,
        "cutmix": 0.2,
        "ema_decay": 0.999,
    },
}
"""The fields of ``Recipe`` in which each recipe differs from the published one of SEANet, whose fields are defaults."""


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """Returns the fields of ``TrainConfig`` that a recipe sets: ``TrainConfig(dataset="digits", **recipe("fast"))``.

    Args:
        name: Name of the recipe, a key of ``RECIPES``.
        **changes: Fields that have other values than in the recipe, for example ``epochs=60``.

    Returns:
        All fields that describe a recipe, those at their defaults too. The dtype, the method of convolutions, the
        limits of images and the seed are not among them.

    Raises:
        InputError: If there is no such recipe, or a change is of another field.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES)
        raise InputError(f"recipe is {short_repr(name)}; it must be one of {', '.join(RECIPES)}{hint and f'; {hint}'}")
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe) if field.name not in _NOT_OF_A_RECIPE}
    if wrong := [change for change in changes if change not in defaults]:
        raise InputError(f"{wrong[0]} is no field of a recipe; the fields are {', '.join(defaults)}")
    return defaults | dict(RECIPES[name]) | changes
