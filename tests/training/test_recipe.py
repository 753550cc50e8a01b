import dataclasses
import re

import numpy as np
import pytest

from seanet_jax.errors import InputError
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.recipe import Recipe

WRONG = [
    ({"optimizer": "lion"}, "optimizer is 'lion'; it must be one of sgd, adam, adamw, muon"),
    ({"schedule": "step"}, "schedule is 'step'; it must be one of steps, cosine, one_cycle, constant"),
    ({"class_weights": "even"}, "class_weights is 'even'; it must be one of none, balanced"),
    ({"padding": "wrap"}, "padding is 'wrap'; it must be one of zero, reflect"),
    ({"nesterov": 1}, "nesterov is 1; it must be True or False"),
    ({"warmup_epochs": -1}, "warmup_epochs is -1; it must be at least 0"),
    ({"clip_norm": 0}, "clip_norm is 0; it must be a positive number or None"),
    ({"sam_rho": float("inf")}, "sam_rho is inf; it must be a positive number or None"),
    ({"label_smoothing": 1}, "label_smoothing is 1; it must be at least 0 and below 1"),
    ({"cutout": 2.5}, "cutout is 2.5; it must be an integer of at least 0"),
    ({"erasing": 1.5}, "erasing is 1.5; it must be from 0 to 1"),
    ({"mixup": -0.1}, "mixup is -0.1; it must be at least 0"),
    ({"ema_decay": 1}, "ema_decay is 1; it must be above 0 and below 1, or None"),
    # What nothing would follow.
    ({"optimizer": "adam", "nesterov": True}, "the optimizer is adam, but nesterov is True; it must be False"),
    ({"nesterov": True, "momentum": 0}, "momentum is 0; Nesterov's momentum needs one above 0"),
    (
        {"decoupled_decay": True, "weight_decay": 0},
        "weight_decay is 0, but decoupled_decay is True; give a weight_decay above 0",
    ),
    (
        {"decay_every": None, "decay_factor": 0.5},
        "the learning rate has no decay, but decay_factor is 0.5; it must be 0.1",
    ),
    ({"schedule": "cosine", "decay_every": 7}, "the schedule is cosine, but decay_every is 7; make decay_every None"),
    (
        {"schedule": "constant", "decay_every": None, "decay_at": (3,)},
        "the schedule is constant, but decay_at is (3,); it must be ()",
    ),
    (
        {"schedule": "one_cycle", "warmup_epochs": 1},
        "the schedule one_cycle has its own warm-up, but warmup_epochs is 1; it must be 0.0",
    ),
    ({"epochs": 2, "warmup_epochs": 3}, "warmup_epochs is 3; it must be at most 2, the epochs"),
    ({"augment": False, "cutmix": 1.0}, "augment is False, but cutmix is 1.0; it must be 0.0"),
    ({"augment": False, "padding": "reflect"}, "augment is False, but padding is 'reflect'; it must be 'zero'"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_what_cannot_work_is_refused_in_a_sentence(fields, message):
    with pytest.raises(InputError, match="^" + re.escape(message) + "$"):
        Recipe(**fields).check()
    with pytest.raises(InputError, match=re.escape(message)):
        TrainConfig(**fields)


def test_numbers_of_numpy_are_stored_as_those_of_python():
    config = TrainConfig(ema_decay=np.float64(0.5), cutout=np.int64(16), nesterov=np.bool_(True))
    assert (config.ema_decay, type(config.cutout), config.nesterov) == (0.5, int, True)


def test_labels_are_mixed_only_where_a_field_asks_for_it():
    mixing = {field.name for field in dataclasses.fields(Recipe)} & {"label_smoothing", "mixup", "cutmix"}
    assert not Recipe().mixes_labels
    assert all(Recipe(**{name: 0.1}).mixes_labels for name in mixing) and len(mixing) == 3
