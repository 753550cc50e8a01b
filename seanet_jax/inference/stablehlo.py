"""A trained network as a StableHLO artifact: a file that JAX runs where neither this package nor Flax is installed.

Normalisation of the images and what makes probabilities of scores are part of it, the weights are constants in it,
batch normalisation is folded into the convolutions. It computes in float32, with the convolutions of ``conv2d``'s
"auto" for each platform.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from seanet_jax.environment import versions
from seanet_jax.errors import InputError, RunError
from seanet_jax.files import write_whole
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import Trained, load
from seanet_jax.models import Network, build, weights
from seanet_jax.models.fold import fold_batch_norm

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".stablehlo"

# Of a probability, relative to itself: as much as logits moved by. Rounding moves them by 1e-5, more where they are
# large; what is below the smallest has underflowed in the softmax, or is about to.
_TOLERANCE = 1e-3
_SMALLEST = 1e-30
_BATCH_SIZES = (1, 3)


def write(folder: Path, out: Path) -> str:
    """Exports the network of a folder and proves that the artifact computes the same, before it is written.

    Args:
        folder: of a run or of pretrained weights.
        out: the artifact, ``*.stablehlo``; ``*.stablehlo.json`` beside it says what it is. Both are replaced.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: ``out`` cannot be written, or as ``trained.load``.
        RunError: the artifact does not compute what the network does, or the disk is full.
    """
    if out.suffix != SUFFIX or out.is_dir():
        raise InputError(f"{out} cannot be the artifact; name a file that ends in {SUFFIX}")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is not a folder; create it, or name another for the artifact")
    trained = load(folder)
    trained = dataclasses.replace(trained, model=_in_float32(trained.model))
    exported = export_network(trained)
    artifact = bytes(exported.serialize())
    difference = largest_difference(artifact, trained)
    # Not the other way round, for NaN.
    if not difference <= _TOLERANCE:
        raise RunError(
            f"the artifact's probabilities differ from the network's by up to {difference:.1e} of themselves, more "
            f"than {_TOLERANCE:.0e}; nothing was written"
        )
    about = describe(exported, artifact, out.name, trained)
    about["verified"] = {"platform": "cpu", "batch_sizes": _BATCH_SIZES, "largest_relative_difference": difference}
    try:
        write_whole(out, artifact)
        write_whole(out.with_name(f"{out.name}.json"), json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{out} could not be written ({error.strerror}); free some space and export again") from error
    return (
        f"{out}: {len(artifact) / 2**20:.1f} MiB for {', '.join(exported.platforms)}; its probabilities differ from "
        f"the network's by {difference:.1e} of themselves at most"
    )


def probabilities(model: Network, images: ImageSpec) -> Callable[[jax.Array], jax.Array]:
    """The function that an artifact is: uint8 images to probabilities.

    Args:
        model: in evaluation mode.
        images: how they are normalised.
    """
    made = model.config.scores.probabilities
    return lambda pixels: made(model(images.normalize(pixels)))


def export_network(trained: Trained) -> export.Exported:
    """uint8 images ``[batch, height, width, channels]`` to float32 probabilities ``[batch, classes]``, for any batch.

    Args:
        trained: a network with float32 as its compute dtype, and its images.
    """
    images = trained.images
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, images.height, images.width, images.channels), np.uint8)
    function = jax.jit(probabilities(fold_batch_norm(trained.model), images))
    return export.export(function, platforms=PLATFORMS)(shape)


def largest_difference(artifact: bytes, trained: Trained) -> float:
    """Between the probabilities of an artifact and of the network it was made of, relative to the latter.

    Of random images, on this machine. Relative, because a network may be so sure of them that nothing else shows.

    Args:
        artifact: what ``export_network`` gave, serialised.
        trained: the network.
    """
    images = trained.images
    shape = (max(_BATCH_SIZES), images.height, images.width, images.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.maximum(jax.jit(probabilities(trained.model, images))(pixels), _SMALLEST)
    function = jax.jit(export.deserialize(bytearray(artifact)).call)
    found = [np.maximum(function(pixels[:count]), _SMALLEST) for count in _BATCH_SIZES]
    return max(float(np.abs(one / expected[: len(one)] - 1).max()) for one in found)


def describe(exported: export.Exported, artifact: bytes, name: str, trained: Trained) -> dict[str, Any]:
    """What stands in the JSON file beside an artifact.

    Args:
        exported: the network.
        artifact: the same, serialised.
        name: of the artifact's file.
        trained: the network, and its images.
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
        # JAX reads what an older version exported, and not what a newer one did.
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
    """The same weights, however the run they are from was computed."""
    config = dataclasses.replace(model.config, dtype="float32", conv_method="auto")
    same = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    weights.set_arrays(same, weights.to_arrays(model), "the network")
    same.eval()
    return same
