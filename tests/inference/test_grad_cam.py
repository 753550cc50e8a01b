"""Grad-CAM: equal to CAM where that is defined, and to a derivative by hand elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
from training_fixtures import TINIEST, settled

from seanet_jax.inference.grad_cam import grad_cam

CLASSES = np.array([7, 0, 3])


def test_before_an_average_and_a_linear_classifier_it_is_cam():
    model = settled(TINIEST)
    maps = np.random.default_rng(0).normal(size=(1, 3, 5, model.num_features)).astype(np.float32)
    found = jax.jit(lambda maps: grad_cam(model.classify_maps, maps, jnp.asarray(CLASSES)))(maps)
    # Zhou et al., CVPR 2016, eq. 2: the maps, weighted by the classifier's own weights.
    cam = maps[0] @ np.asarray(model.classifier.kernel[...])[:, CLASSES]
    assert (cam < 0).any() and (cam > 0).any()
    np.testing.assert_allclose(found, np.maximum(cam, 0).transpose(2, 0, 1) / 15, rtol=1e-5, atol=1e-7)


def test_of_scores_that_are_not_linear_it_takes_the_average_gradient():
    maps = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    first, second = maps[0, ..., 0], maps[0, ..., 1]

    def classify(maps):
        return jnp.stack([(maps[..., 0] ** 2).sum((1, 2)), (maps[..., 0] * maps[..., 1]).sum((1, 2))], -1)

    found = grad_cam(classify, jnp.asarray(maps), jnp.arange(2))
    # The derivative of the first score is 2 a, and of the second b with respect to a, and a with respect to b.
    expected = [2 * first.mean() * first, second.mean() * first + first.mean() * second]
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-5, atol=1e-7)
