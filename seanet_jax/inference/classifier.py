"""What a trained network answers to images: scores, in batches of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError, demand_positive_integers
from seanet_jax.inference.trained import Trained
from seanet_jax.models.network import split_model


class Classifier:
    """The function from raw pixels to scores. Every batch has the same shape, so that it is compiled once.

    Args:
        trained: a network, and what its images are.
        batch_size: images at a time; the last batch is filled up.

    Attributes:
        kind: of the scores.

    Raises:
        InputError: the network has other channels or classes than it is said to have, or the size cannot be.
    """

    def __init__(self, trained: Trained, batch_size: int):
        demand_positive_integers("Classifier", batch_size=batch_size)
        config, images = trained.model.config, trained.images
        ours, said = (config.in_channels, config.num_classes), (images.channels, len(images.class_names))
        if ours != said:
            raise InputError(
                f"the network has {ours[0]} channels and {ours[1]} classes, and its folder says {said[0]} and "
                f"{said[1]}; write the folder anew"
            )
        self._images = images
        self._batch_size = batch_size
        graphdef, *self._state = split_model(trained.model)
        self.kind = trained.model.config.scores
        self._scores = jax.jit(
            lambda params, batch_stats, batch: nnx.merge(graphdef, params, batch_stats)(images.normalize(batch))
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Scores of any number of images.

        Args:
            images: uint8 ``[N, H, W, C]``, of the size the network was trained on.

        Returns:
            float32 ``[N, classes]``.

        Raises:
            InputError: the images are others, or the scores are not finite.
        """
        expected = (self._images.height, self._images.width, self._images.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"the images are {images.dtype} {list(images.shape)}; the network's are uint8 [N, "
                f"{', '.join(map(str, expected))}]"
            )
        found = [np.zeros((0, len(self._images.class_names)), np.float32)]
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            filled = np.zeros((self._batch_size, *expected), np.uint8)
            filled[: len(batch)] = batch
            found.append(np.asarray(self._scores(*self._state, jnp.asarray(filled)))[: len(batch)])
        scores = np.concatenate(found)
        if not np.isfinite(scores).all():
            raise InputError(
                f"the network's {self.kind.name} are NaN or infinite; its weights are damaged, or were never good"
            )
        return scores

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """What the network takes the chance of each class to be; see ``seanet_jax.models.scores``.

        Args:
            scores: ``[N, classes]``, as a call gives them.

        Returns:
            float64 ``[N, classes]``.
        """
        return np.asarray(self.kind.probabilities(jnp.asarray(scores)), np.float64)
