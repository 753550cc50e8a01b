import dataclasses

import pytest

from seanet_jax.data import DatasetSource
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec

FIELDS = {
    "name": "noise",
    "title": "Noise",
    "image_spec": ImageSpec(4, 4, (0.5,), (0.2,), ("a", "b")),
    "train_count": 6,
    "load": lambda *, data_dir, progress, mapped: None,
}


def test_a_source_cannot_be_changed():
    source = DatasetSource(**FIELDS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"name": None}, "name is None"),
        ({"title": ""}, "title is ''; it must be a text of at least one character"),
        ({"train_count": 0}, "train_count is 0; it must be a positive integer"),
    ],
)
def test_a_source_that_contradicts_its_description_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        DatasetSource(**FIELDS | changes)
