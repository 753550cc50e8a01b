"""Exports a trained network as a StableHLO artifact, a file that JAX runs without this package or Flax.

The artifact normalizes the images, computes the scores and turns them into probabilities. Its weights are constants,
and batch normalization is folded into the convolutions. It computes in float32. On each platform its convolutions are
those that the method "auto" of ``conv2d`` chooses there.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from seanet_jax import jax_settings
from seanet_jax.durable import write_together
from seanet_jax.environment import versions
from seanet_jax.errors import InputError, RunError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import Trained, load
from seanet_jax.json_files import json_text
from seanet_jax.models import Network, build, weights
from seanet_jax.models.fold import fold_batch_norm
from seanet_jax.paths import UserPath, is_folder, make_folder, user_path

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".stablehlo"

# Largest allowed difference, see largest_difference. Rounding moves scores by about 1e-5 of the largest.
_TOLERANCE = 1e-3
# Probabilities below this have underflowed in the softmax or nearly so; they count as this.
_SMALLEST = 1e-30
_BATCH_SIZES = (1, 3)


@jax_settings.fixed()
def write(folder: UserPath, out: UserPath, which: str = "best") -> str:
    """Exports the network of a folder, after checking that the artifact computes the same as the network.

    Args:
        folder: The folder of a run or of pretrained weights.
        out: The artifact to write, ``*.stablehlo``. Its description is written beside it, as ``*.stablehlo.json``.
            Existing files are replaced.
        which: Network of a run, "best", "latest" or "ema"; see ``trained.load``.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: If ``out`` cannot be written, ``trained.load`` cannot load the network, or the network's scores are
            not finite.
        RunError: If the artifact differs from the network, or writing failed.
    """
    out = user_path(out)
    if out.suffix != SUFFIX or is_folder(out):
        raise InputError(f"{out} is not a name for an artifact; name a file that ends in {SUFFIX}")
    if not is_folder(out.parent):
        raise InputError(f"{out.parent} is not a folder; create it, or name another folder for the artifact")
    make_folder(out.parent)
    trained = load(folder, which)
    trained = dataclasses.replace(trained, model=_in_float32(trained.model))
    exported = export_network(trained)
    artifact = bytes(exported.serialize())
    difference = largest_difference(artifact, trained)
    # Negated, so that a difference of NaN is an error too.
    compared = f"{trained.model.config.scores.name} and probabilities"
    if not difference <= _TOLERANCE:
        raise RunError(
            f"the artifact's {compared} differ from the network's by up to {difference:.1e} (relative), more than the "
            f"allowed {_TOLERANCE:.0e}; nothing was written"
        )
    about = describe(exported, artifact, out.name, trained)
    about["verified"] = {"platform": "cpu", "batch_sizes": _BATCH_SIZES, "largest_relative_difference": difference}
    try:
        write_together(out.parent, {out.name: artifact, f"{out.name}.json": json_text(about)})
    except OSError as error:
        raise RunError(f"{out} could not be written ({error.strerror}); free some space and export again") from error
    return (
        f"{out}: {len(artifact) / 2**20:.1f} MiB for {', '.join(exported.platforms)}; its {compared} differ from the "
        f"network's by at most {difference:.1e} (relative)"
    )


def probabilities(model: Network, images: ImageSpec) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that an artifact computes, from uint8 images to probabilities.

    Args:
        model: The network, in evaluation mode.
        images: Specification of the images, with their normalization.
    """
    scores = _scores(model, images)
    return lambda pixels: model.config.scores.probabilities(scores(pixels))


def _scores(model: Network, images: ImageSpec) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from uint8 images to the network's scores."""
    return lambda pixels: model(images.normalize(pixels))


def export_network(trained: Trained) -> export.Exported:
    """Exports a network for all ``PLATFORMS`` and any batch size.

    The exported function takes uint8 images ``[batch, height, width, channels]`` and returns float32 probabilities
    ``[batch, classes]``.

    Args:
        trained: The network, whose compute dtype must be float32, and the specification of its images.
    """
    return _export(probabilities(fold_batch_norm(trained.model), trained.images), trained.images, PLATFORMS)


def _export(
    function: Callable[[jax.Array], jax.Array], images: ImageSpec, platforms: Sequence[str] | None = None
) -> export.Exported:
    """Exports a function of uint8 images for any batch size, by default for this machine's platform alone."""
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, images.height, images.width, images.channels), np.uint8)
    return export.export(jax.jit(function), platforms=platforms)(shape)


def largest_difference(artifact: bytes, trained: Trained) -> float:
    """Returns the largest relative difference between an artifact and its network on random images.

    It is the larger of two differences. That of the artifact's probabilities is relative to each probability, because a
    confident network gives most classes probabilities so small that an absolute difference would hide any error in
    them. A very confident network gives probabilities of 0 and 1, which hide any error. So the scores are compared too,
    relative to the largest score or to 1. The artifact does not return them, so the network is exported once more,
    without the probabilities.

    Args:
        artifact: The serialized result of ``export_network``.
        trained: The network that was exported.

    Raises:
        InputError: If a score of the network is not finite.
    """
    images = trained.images
    shape = (max(_BATCH_SIZES), images.height, images.width, images.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.maximum(jax.jit(probabilities(trained.model, images))(pixels), _SMALLEST)
    scores = np.asarray(jax.jit(_scores(trained.model, images))(pixels))
    if not np.isfinite(scores).all():
        raise InputError(
            f"the network's {trained.model.config.scores.name} are NaN or infinite; its weights are damaged or its "
            "training diverged"
        )
    largest_score = max(1, np.abs(scores).max())
    of_scores = bytes(_export(_scores(fold_batch_norm(trained.model), images), images).serialize())
    functions = [jax.jit(export.deserialize(bytearray(exported)).call) for exported in (artifact, of_scores)]
    differences = []
    for count in _BATCH_SIZES:
        found, found_scores = (np.asarray(function(pixels[:count])) for function in functions)
        differences.append(np.abs(np.maximum(found, _SMALLEST) / expected[:count] - 1).max())
        differences.append(np.abs(found_scores - scores[:count]).max() / largest_score)
    # Unlike max, np.max returns NaN if a difference is NaN.
    return float(np.max(differences))


def describe(exported: export.Exported, artifact: bytes, name: str, trained: Trained) -> dict[str, Any]:
    """Returns the content of the JSON file beside an artifact.

    Args:
        exported: The exported network.
        artifact: The exported network, serialized.
        name: Name of the artifact's file.
        trained: The network and the specification of its images.
    """
    images = trained.images
    what = "probabilities" if trained.model.config.scores.distribution else "probabilities, of each class on its own"
    size = (images.height, images.width, images.channels)
    return {
        "artifact": name,
        "sha256": hashlib.sha256(artifact).hexdigest(),
        "input": {"what": "images, channels last", "dtype": "uint8", "shape": ["batch", *size]},
        "output": {"what": what, "dtype": "float32", "shape": ["batch", len(images.class_names)]},
        "classes": images.class_names,
        "platforms": exported.platforms,
        "calling_convention_version": exported.calling_convention_version,
        "versions": versions(),
        # JAX reads artifacts of older versions, but not of newer ones.
        "needs": f"pip install 'jax>={jax.__version__}' flatbuffers",
        "run": [
            "import pathlib, numpy as np, jax",
            "from jax import export",
            f"artifact = export.deserialize(bytearray(pathlib.Path({name!r}).read_bytes()))",
            f"images = np.zeros({(2, *size)}, np.uint8)  # your images, as many as you like",
            "probabilities = jax.jit(artifact.call)(images)",
        ],
    }


def _in_float32(model: Network) -> Network:
    """Returns a network with the same weights that computes in float32, whatever the dtype of its run."""
    config = dataclasses.replace(model.config, dtype="float32", conv_method="auto")
    same = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    weights.set_arrays(same, weights.to_arrays(model), "the network")
    same.eval()
    return same
