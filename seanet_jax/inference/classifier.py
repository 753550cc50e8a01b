"""Classifies images in memory with a trained network, in batches of one shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError, positive_integers
from seanet_jax.inference.trained import Trained
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import Scores


class Classifier:
    """Computes scores from raw pixels. Every batch has the same shape, so that the network is compiled once.

    Args:
        trained: The network and the specification of its images.
        batch_size: Number of images in a batch. The last batch is padded to it.

    Attributes:
        kind: The kind of scores, which says how they become probabilities.

    Raises:
        InputError: If the channels or classes of the network are not those of its image specification, or the batch
            size is not a positive integer.
    """

    def __init__(self, trained: Trained, batch_size: int):
        (self._batch_size,) = positive_integers("Classifier", batch_size=batch_size)
        config, images = trained.model.config, trained.images
        if (config.in_channels, config.num_classes) != (images.channels, images.num_classes):
            raise InputError(
                f"the network has {config.in_channels} channels and {config.num_classes} classes, but its image "
                f"specification has {images.channels} and {images.num_classes}; write its folder again with the right "
                "ImageSpec"
            )
        self._images = images
        graphdef, *self._state = split_model(trained.model)
        self.kind = trained.model.config.scores
        self._scores = jax.jit(
            lambda params, batch_stats, batch: nnx.merge(graphdef, params, batch_stats)(images.normalize(batch))
        )

    def __call__(self, images: np.ndarray, advance: Callable[[int], object] = lambda images: None) -> np.ndarray:
        """Computes the scores of any number of images.

        Args:
            images: Images of the size that the network was trained on, uint8 ``[N, H, W, C]``.
            advance: Function that is called with the number of images of each batch once they are done.

        Returns:
            Scores, float32 ``[N, classes]``.

        Raises:
            InputError: If the images have another dtype or shape, or a score is not finite.
        """
        expected = (self._images.height, self._images.width, self._images.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"the images are {images.dtype} {list(images.shape)}; they must be uint8 [N, "
                f"{', '.join(map(str, expected))}]"
            )
        # An empty array first, so that no images give an empty array of scores.
        found = [np.zeros((0, len(self._images.class_names)), np.float32)]
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            filled = np.zeros((self._batch_size, *expected), np.uint8)
            filled[: len(batch)] = batch
            found.append(np.asarray(self._scores(*self._state, jnp.asarray(filled)))[: len(batch)])
            advance(len(batch))
        scores = np.concatenate(found)
        check_finite(scores, self.kind)
        return scores

    def average(self, scores: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Averages the predictions for two versions of the same images, for example the images and their mirror images.

        Probabilities are averaged, not logits. Probabilities mean the same for every kind of scores, and an average of
        logits would let the more extreme of two predictions decide. The lengths of capsules are probabilities already.

        Args:
            scores: Scores of one version, as a call returns them, ``[N, classes]``.
            others: Scores of the other version, ``[N, classes]``.

        Returns:
            Scores, float64 ``[N, classes]``, whose probabilities are the means of both versions' probabilities.
        """
        if not self.kind.distribution:
            return (np.asarray(scores, np.float64) + others) / 2
        # As logarithms, so that probabilities below the smallest float are neither equal nor infinitely wrong.
        return np.logaddexp(_log_softmax(scores), _log_softmax(others)) - np.log(2)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Computes the probability of each class from scores; see ``seanet_jax.models.scores``.

        Args:
            scores: Scores as a call returns them, ``[N, classes]``.

        Returns:
            Probabilities, float64 ``[N, classes]``.
        """
        return np.asarray(self.kind.probabilities(jnp.asarray(scores)), np.float64)


def check_finite(scores: np.ndarray, kind: Scores) -> None:
    """Raises an InputError if a score of a network is not finite.

    Args:
        scores: The scores.
        kind: What they are.
    """
    if not np.isfinite(scores).all():
        raise InputError(
            f"the network's {kind.name} are NaN or infinite; its weights are damaged or its training diverged"
        )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.asarray(logits, np.float64)
    return wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
