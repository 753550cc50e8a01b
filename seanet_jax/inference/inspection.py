"""Computes what happens inside a network for one image: its aggregates, its squeeze-excitation and Grad-CAM."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.inference.classifier import check_finite
from seanet_jax.inference.grad_cam import grad_cam
from seanet_jax.inference.trained import Trained
from seanet_jax.layers.aggregates import AggregateKind, ConvAggregate, kind_of
from seanet_jax.layers.modules import Aggregate, SqueezeExcite
from seanet_jax.models import Network
from seanet_jax.models.module_calls import calls_go_through
from seanet_jax.models.network import split_model


class Aggregated(NamedTuple):
    """The maps of one image before and after an aggregate.

    Attributes:
        path: The aggregate's path in the network, for example ``stages.0.aggregate``.
        kind: How it reduces a group, one of ``AGGREGATE_KINDS``.
        normalized: Whether batch normalization follows, which ``after`` includes.
        before: Its input, ``[H, W, C]``.
        after: Its output, ``[H, W, C / k]``.
        groups: The input channels that each output channel is made of, ``[C / k, channels in a group]``.
        weights: The weight of each channel of ``groups``, in an array of the same shape; None if none are learned.
    """

    path: str
    kind: AggregateKind
    normalized: bool
    before: np.ndarray
    after: np.ndarray
    groups: np.ndarray
    weights: np.ndarray | None


class Inspection(NamedTuple):
    """What happens inside a network for one image.

    Attributes:
        classes: The most likely classes with their probabilities, most likely first.
        grad_cam: Where the network sees each of them, ``[classes, h, w]``; see ``grad_cam``. None if the network does
            not say how its scores follow from its last maps.
        aggregates: What each aggregate does, in the order of the calls.
        excitations: The weights ``[C]`` of each squeeze-excitation, by its path, in the order of the calls.
    """

    classes: Sequence[tuple[str, float]]
    grad_cam: np.ndarray | None
    aggregates: Sequence[Aggregated]
    excitations: Mapping[str, np.ndarray]


def inspect(trained: Trained, pixels: np.ndarray, top: int) -> Inspection:
    """Classifies an image, and keeps what happens on the way.

    Args:
        trained: The network and the specification of its images.
        pixels: The image, uint8 ``[H, W, C]``.
        top: Number of classes, if the network has as many.

    Raises:
        InputError: If a score is not finite.
    """
    graphdef, *state = split_model(trained.model)
    paths: list[str] = []  # filled while the program is traced, in the order of the calls

    @jax.jit
    def look(params: Any, batch_stats: Any, images: jax.Array) -> tuple[Any, ...]:
        kept: list[tuple[jax.Array, ...]] = []

        def keep(path: str, module: nnx.Module, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            found = call(*arguments, **keywords)
            if isinstance(module, Aggregate | SqueezeExcite):
                x = arguments[0]
                kept.append((x, found) if isinstance(module, Aggregate) else (module.weights(x),))
                paths.append(path)
            return found

        model = nnx.merge(graphdef, params, batch_stats)
        images = trained.images.normalize(images)
        with calls_go_through(keep, model):
            maps = [values for values in model.features(images).values() if values.ndim == 4]
        explains = type(model).classify_maps is not Network.classify_maps
        scores = model.classify_maps(maps[-1]) if explains else model(images)
        _, likeliest = jax.lax.top_k(scores[0], min(top, scores.shape[-1]))
        seen = grad_cam(model.classify_maps, maps[-1], likeliest) if explains else None
        return scores, likeliest, seen, jax.tree.map(lambda values: values[0].astype(jnp.float32), kept)

    scores, likeliest, seen, kept = jax.device_get(look(*state, jnp.asarray(pixels[None])))
    kind = trained.model.config.scores
    check_finite(scores, kind)
    (probabilities,) = np.asarray(kind.probabilities(jnp.asarray(scores)))
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(trained.model)}
    called = [(path, modules[path], arrays) for path, arrays in zip(paths, kept, strict=True)]
    return Inspection(
        [(trained.images.class_names[number], float(probabilities[number])) for number in likeliest],
        seen,
        [_aggregated(path, module, *arrays) for path, module, arrays in called if isinstance(module, Aggregate)],
        {path: arrays[0] for path, module, arrays in called if isinstance(module, SqueezeExcite)},
    )


def _aggregated(path: str, aggregate: Aggregate, before: np.ndarray, after: np.ndarray) -> Aggregated:
    return Aggregated(
        path,
        kind_of(aggregate),
        aggregate.norm is not None,
        before,
        after,
        aggregate.groups(before.shape[-1]),
        np.asarray(aggregate.weights()) if isinstance(aggregate, ConvAggregate) else None,
    )
