import dataclasses

import pytest

from seanet_jax.errors import InputError
from seanet_jax.models.encapnet import EncapNet
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.recipe_presets import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_a_config_that_works(name):
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert fields - recipe(name).keys() == {"dtype", "conv_method", "limit_train", "limit_test", "seed"}
    config = TrainConfig(**recipe(name))
    assert all(getattr(config, field) == value for field, value in RECIPES[name].items())


def test_the_published_recipe_is_the_default_one():
    assert TrainConfig(**recipe("published")) == TrainConfig()
    assert RECIPES["encapnet"] == EncapNet.recipe


def test_fields_of_a_recipe_may_be_changed():
    assert recipe("modern", epochs=3) == recipe("modern") | {"epochs": 3}
    with pytest.raises(InputError, match="seed is no field of a recipe"):
        recipe("modern", seed=3)


def test_an_unknown_recipe_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"^recipe is 'moder'; it must be one of published, .*did you mean modern\?$"):
        recipe("moder")
