"""A small network, its image specification, and images that it classifies differently."""

import jax
import numpy as np
import pytest
from training_fixtures import settled

from seanet_jax import ImageSpec, SEANetConfig

CONFIG = SEANetConfig(stage_sizes=(1,), widths=(16,), stem_width=4, num_classes=3)
SPEC = ImageSpec(8, 12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), ("cat", "<dog>", "\x1b[31mcow"))
_random = np.random.RandomState(0)
# Each has one color, with noise, so that the predictions for them differ.
IMAGES = (_random.randint(0, 200, (7, 1, 1, 3)) + _random.randint(0, 56, (7, 8, 12, 3))).astype(np.uint8)


@pytest.fixture(scope="module", name="model")
def model_fixture():
    made = settled(CONFIG)
    made.classifier.kernel[...] *= 0.1  # for probabilities that are not all 0 and 1
    return made


@pytest.fixture(scope="module", name="folder")
def folder_fixture(model, tmp_path_factory):
    """The folder of the network as pretrained weights."""
    path = tmp_path_factory.mktemp("network") / "weights"
    model.save_pretrained(path, SPEC)
    return path


@pytest.fixture(scope="module", name="expected")
def expected_fixture(model):
    pixels = (IMAGES / np.float32(255) - np.float32(SPEC.mean)) / np.float32(SPEC.std)
    found = np.asarray(jax.jit(lambda pixels: jax.nn.softmax(model(pixels)))(pixels.astype(np.float32)))
    assert found.std(0).min() > 0.01, "the images must differ in what they are taken for"
    return found
