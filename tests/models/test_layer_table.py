"""The layers of a network, with numbers that add up to those of the whole."""

import pytest
from training_fixtures import TINY

from seanet_jax.layers.modules import Conv
from seanet_jax.models import model_config
from seanet_jax.models.layer_table import layers
from seanet_jax.models.multiply_adds import multiply_adds, parameters


@pytest.mark.parametrize(
    "config", [TINY, pytest.param(model_config("preact_resnet20", num_classes=100), marks=pytest.mark.slow)]
)
def test_the_rows_add_up_to_the_network(config):
    found = layers(config, 8, 12)
    leaves = [layer for layer in found if not layer.has_layers]
    assert sum(layer.parameters for layer in leaves) == parameters(config)
    assert sum(layer.multiply_adds for layer in leaves) == multiply_adds(config, 8, 12)
    block = next(layer for layer in found if layer.has_layers)
    inside = [layer for layer in found if layer.path.startswith(f"{block.path}.")]
    assert block.parameters == sum(layer.parameters for layer in inside)
    assert len({layer.path for layer in found}) == len(found)


def test_the_modules_are_as_before():
    before = Conv.__call__
    layers(TINY, 8, 8)
    assert Conv.__call__ is before
