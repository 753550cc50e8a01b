"""A recipe is described in words, with what tells it from the published one."""

import dataclasses

import pytest

from seanet_jax.studies.recipe_words import describe_recipe
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.recipe import Recipe

PUBLISHED = "SGD with learning rate 0.1, multiplied by 0.1 every 80 epochs, momentum 0.9, weight decay 0.0001"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, PUBLISHED),
        (
            {
                **{"nesterov": True, "schedule": "cosine", "warmup_epochs": 2.5, "weight_decay": 5e-4},
                **{"label_smoothing": 0.1, "cutmix": 1, "trivial_augment": True, "cutout": 16, "ema_decay": 0.999},
            },
            "SGD with learning rate 0.1, a linear warm-up of 2.5 epochs, decayed to 0 along half a cosine, Nesterov "
            "momentum 0.9, weight decay 0.0005, label smoothing 0.1, TrivialAugment, cutout of 16 pixels, CutMix with "
            "alpha 1, an exponential moving average of the network with decay 0.999",
        ),
        (
            {"optimizer": "muon", "schedule": "one_cycle", "decay_vectors": False, "clip_norm": 1.0, "sam_rho": 0.05},
            "Muon with learning rate 0.1, rising to this rate and falling to 0 in one cycle, momentum 0.9, weight "
            "decay 0.0001 (not of scales and biases), gradients clipped to norm 1, sharpness-aware minimization with "
            "rho 0.05",
        ),
        (
            {"optimizer": "adamw", "schedule": "constant", "class_weights": "balanced", "mirror": False, "mixup": 0.2},
            "AdamW with learning rate 0.1, momentum 0.9, weight decay 0.0001, balanced class weights, no mirroring, "
            "mixup with alpha 0.2",
        ),
        (
            {"augment": False, "decoupled_decay": True, "patience": 5, "validation_fraction": 0.1},
            PUBLISHED.replace("weight", "decoupled weight") + ", no augmentation, early stopping after 5 epochs "
            "without a better validation accuracy",
        ),
        (
            {"padding": "reflect", "erasing": 0.25, "decay_every": None, "decay_at": (3, 4)},
            "SGD with learning rate 0.1, multiplied by 0.1 after 3 and 4 epochs, momentum 0.9, weight decay 0.0001, "
            "crops with reflect padding, random erasing with probability 0.25",
        ),
    ],
)
def test_a_recipe_in_words(fields, words):
    assert describe_recipe(TrainConfig(**fields), (0.1,)) == words


def test_the_learning_rates_of_a_study_are_all_named():
    assert describe_recipe(TrainConfig(), (0.1, 0.02)).startswith("SGD with learning rate 0.1 or 0.02, multiplied")


def test_every_field_that_changes_what_is_trained_is_described():
    changes = {
        **{"optimizer": "adam", "nesterov": True, "schedule": "cosine", "warmup_epochs": 1, "decay_factor": 0.2},
        **{"decay_every": 40, "momentum": 0.8, "weight_decay": 0.1, "decoupled_decay": True, "decay_vectors": False},
        **{"clip_norm": 2.0, "sam_rho": 0.1, "label_smoothing": 0.2, "class_weights": "balanced", "augment": False},
        **{"padding": "reflect", "mirror": False, "cutout": 8, "erasing": 0.5, "trivial_augment": True, "mixup": 0.1},
        **{"cutmix": 0.1, "ema_decay": 0.9},
    }
    plain = describe_recipe(TrainConfig(), (0.1,))
    for name, value in changes.items():
        assert describe_recipe(dataclasses.replace(TrainConfig(), **{name: value}), (0.1,)) != plain, name
    # The page says these in other words.
    said_elsewhere = {"dtype", "conv_method", "epochs", "batch_size", "limit_train", "limit_test", "seed"}
    described = {field.name for field in dataclasses.fields(Recipe)} - said_elsewhere
    assert described - changes.keys() == {"learning_rate", "decay_at"}
