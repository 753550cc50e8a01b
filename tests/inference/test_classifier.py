"""A classifier computes the network's scores, for any number of images."""

import jax
import numpy as np
import pytest
from predict_fixtures import CONFIG, IMAGES, SPEC, expected_fixture, model_fixture  # noqa: F401
from training_fixtures import settled

from seanet_jax import ImageSpec, InputError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.trained import Trained
from seanet_jax.models.scores import LENGTHS


def test_a_network_answers_any_number_of_images_in_batches(model, expected):
    classifier = Classifier(Trained(model, SPEC), batch_size=3)
    for count in (0, 1, 3, 7):
        logits = classifier(IMAGES[:count])
        assert logits.shape == (count, 3) and logits.dtype == np.float32
        np.testing.assert_allclose(jax.nn.softmax(logits), expected[:count], atol=1e-5)
    with pytest.raises(InputError, match=r"uint8 \[7, 12, 8, 3\]; they must be uint8 \[N, 8, 12, 3\]"):
        classifier(IMAGES.swapaxes(1, 2))
    fewer = ImageSpec(8, 12, SPEC.mean, SPEC.std, ("cat", "dog"))
    with pytest.raises(InputError, match="3 channels and 3 classes, but its image specification has 3 and 2"):
        Classifier(Trained(model, fewer), batch_size=3)


def test_predictions_are_averaged_as_probabilities(model):
    classifier = Classifier(Trained(model, SPEC), batch_size=3)
    first, second = np.log([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]) + 5, np.log([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]) - 2
    averaged = classifier.average(first, second)
    expected = [[0.4, 0.5, 0.1], [0.3, 0.3, 0.4]]
    np.testing.assert_allclose(classifier.probabilities(averaged), expected, rtol=1e-6)
    np.testing.assert_array_equal(classifier.average(second, first), averaged)
    # Probabilities too small for a float still have an order and a finite loss.
    far = classifier.average(np.array([[2000.0, 1000.0, 0.0]]), np.array([[2000.0, 1000.0, 0.0]]))
    np.testing.assert_allclose(far, [[0, -1000, -2000]], rtol=1e-12)


def test_lengths_of_capsules_are_averaged_as_they_are(model):
    classifier = Classifier(Trained(model, SPEC), batch_size=3)
    classifier.kind = LENGTHS
    averaged = classifier.average(np.array([[0.9, 0.5, 0.0]]), np.array([[0.1, 0.9, 0.0]]))
    np.testing.assert_allclose(averaged, [[0.5, 0.7, 0.0]], rtol=1e-12)
    np.testing.assert_allclose(classifier.probabilities(averaged), averaged, rtol=1e-6)


def test_logits_that_are_not_finite_are_an_error(model):
    broken = settled(CONFIG)
    broken.classifier.bias[...] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        Classifier(Trained(broken, SPEC), batch_size=3)(IMAGES)
