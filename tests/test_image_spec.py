"""What is said of a network's images, and what of it cannot be."""

import json

import pytest

from seanet_jax import ImageSpec, InputError

FIELDS = {"height": 32, "width": 24, "mean": (0.5, 0.4), "std": (0.2, 1), "class_names": ("cat", "dog", "cow")}


def test_it_comes_back_from_json():
    spec = ImageSpec(**FIELDS)
    assert spec.channels == 2
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height is 0; it must be a positive integer"),
        ({"width": 3.5}, "width is 3.5"),
        ({"mean": (0.5, float("nan"))}, "mean is (0.5, nan); it must be a tuple of finite numbers"),
        ({"mean": [0.5, 0.4]}, "mean is [0.5, 0.4]"),
        ({"mean": (0.5, True)}, "mean is (0.5, True)"),
        ({"std": (0.2, 0.0)}, "std is (0.2, 0.0); it must be positive"),
        ({"std": (0.2,)}, "mean is (0.5, 0.4); it must be of as many channels as std, 1"),
        ({"mean": (), "std": ()}, "mean is ()"),
        ({"class_names": ()}, "class_names is ()"),
        ({"class_names": ("cat", "")}, "class_names is ('cat', '')"),
        ({"class_names": "cats"}, "class_names is 'cats'; it must be a tuple of names"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(InputError) as caught:
        ImageSpec(**FIELDS | changes)
    assert message in str(caught.value)
