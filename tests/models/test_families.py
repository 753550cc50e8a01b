import dataclasses
import json
from typing import ClassVar

import chex
import jax.numpy as jnp
import pytest
from flax import nnx
from networks import SMALL, abstract

from seanet_jax import PRESETS, EncapNet, EncapNetConfig, InputError, SEANet
from seanet_jax.layers.modules import Linear
from seanet_jax.models import (
    Network,
    NetworkConfig,
    build,
    config_from_json,
    config_to_json,
    family_of,
    from_pretrained,
    register_family,
    weights,
)

SMALL_ENCAPNET = EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4, image_size=16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageConfig(NetworkConfig):
    times: tuple[int, ...] = (1,)


class Average(Network):
    """Classifies images by their average color: the smallest network that another package could add."""

    model_type = "average"
    config_class = AverageConfig
    recipe: ClassVar = {"epochs": 3}

    def __init__(self, config=None, *, rngs):
        self.config = config or AverageConfig()
        self.num_features = self.config.in_channels
        self.classifier = self.new_classifier(rngs)

    def new_classifier(self, rngs):
        classes = self.config.num_classes
        return Linear(self.num_features, classes, rngs=rngs) if classes else None

    def features(self, x):
        self._check_images(x)
        return {"pooled": x.mean((1, 2)) * self.config.times[0]}

    def __call__(self, x):
        pooled = self.features(x)["pooled"]
        return pooled if self.classifier is None else self.classifier(pooled)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr("seanet_jax.models.families._FAMILIES", [SEANet, EncapNet])
    assert register_family(Average) is Average


def test_a_registered_family_is_built_saved_and_read_by_name(registered, tmp_path):
    model = build(AverageConfig(num_classes=3, times=(2,)), rngs=nnx.Rngs(0))
    assert type(model) is Average
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is Average and again.config == model.config
    chex.assert_trees_all_equal(again(jnp.ones((2, 4, 4, 3))), model(jnp.ones((2, 4, 4, 3))))
    assert from_pretrained(tmp_path, num_classes=0).classifier is None
    assert config_from_json(json.loads(json.dumps(config_to_json(model.config)))) == model.config


def test_a_family_needs_a_model_type_and_a_config_class_of_its_own(registered):
    with pytest.raises(InputError, match="Average has the model_type of Average, 'average'; each family must have"):
        register_family(Average)
    with pytest.raises(InputError, match=r"Copy has the config_class of SEANet, .*; each family must have its own"):
        register_family(type("Copy", (SEANet,), {"model_type": "copy"}))


def test_the_family_of_a_config_is_that_of_its_exact_type():
    assert family_of(SMALL) is SEANet and family_of(SMALL_ENCAPNET) is EncapNet
    with pytest.raises(InputError, match="AverageConfig is no registered family's config_class; those are SEANetCon"):
        build(AverageConfig(), rngs=nnx.Rngs(0))


def test_a_folder_of_another_family_is_named(tmp_path):
    model = abstract(SMALL_ENCAPNET)
    weights.set_arrays(model, {name: jnp.ones(shape) for name, shape in weights.shapes(model).items()}, "the test")
    model.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"of the type encapnet, not seanet; seanet_jax\.models\.from_pretrained reads"
    ):
        SEANet.from_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "vit"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="model_type 'vit'; it must be seanet or encapnet"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widht": 8}, "^the network's config has the field widht, which seanet_jax .* does not know"),
        ({"widths": 8}, "^the network's config: widths is 8; it must be a non-empty tuple of positive integers$"),
    ],
)
def test_a_config_with_wrong_fields_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        config_from_json(config_to_json(SMALL) | fields)


def test_a_config_as_json_and_back():
    for config in PRESETS.values():
        assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
        assert family_of(config).config_class is type(config)
    for config in (SMALL, SMALL_ENCAPNET):
        assert type(abstract(config)).config_class is type(config)
    # A run that was written when there was one family does not name it.
    assert config_from_json(dataclasses.asdict(PRESETS["resnet20"])) == PRESETS["resnet20"]


@pytest.mark.parametrize("model_type", ["vit", None, 3, ["seanet"]])
def test_a_config_of_an_unknown_family_is_refused(model_type):
    with pytest.raises(InputError, match=r"is of the model_type .*; it must be seanet or encapnet, or one of a plugin"):
        config_from_json({"model_type": model_type, "num_classes": 3})


def test_a_config_with_an_unknown_field_is_refused():
    with pytest.raises(InputError, match=r"^run/config\.json has the field depth, which seanet_jax \S+ does not know"):
        config_from_json({"model_type": "encapnet", "depth": 3}, where="run/config.json")
