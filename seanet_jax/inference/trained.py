"""A trained network, from the folder of a run or of pretrained weights."""

import dataclasses
from pathlib import Path

from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import Network, config_from_json, from_pretrained, weights
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import TrainState, abstract_state


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A network and what it needs to answer.

    Attributes:
        model: in evaluation mode.
        images: how they are made ready, and what the classes are called.
        step: optimiser steps it was trained for; None of pretrained weights, which do not say.
    """

    model: Network
    images: ImageSpec
    step: int | None = None


def load(folder: str | Path, which: str = "best") -> Trained:
    """The network of a run, or of a folder of pretrained weights that says what its images are.

    Args:
        folder: of either.
        which: "best" or "latest" checkpoint of a run; pretrained weights are one set.

    Raises:
        InputError: the folder is neither, or damaged, or does not say what its images are.
    """
    folder = Path(folder)
    if not weights.is_folder(folder):
        images = RunFolder(folder).read_images()
        model, step = _restore(folder, which)
        return Trained(model, images, step)
    spec = weights.read_about(folder).images
    if spec is None:
        raise InputError(
            f"{folder} does not say how images are normalised and what the classes are; "
            "give save_pretrained an ImageSpec"
        )
    return Trained(from_pretrained(folder), spec)


def saved_network(run_folder: Path) -> tuple[Network, TrainState]:
    """The network of a run without its weights, whose arrays are abstract, and the shapes and dtypes of its state.

    Raises:
        InputError: the folder is not that of a run.
    """
    saved = RunFolder(run_folder).read()
    descent = optimizer(TrainConfig(**saved.config), steps_per_epoch=1)
    return abstract_state(config_from_json(saved.model_config), descent)


def load_model(run_folder: str | Path, which: str = "best") -> Network:
    """The trained network of a run, in evaluation mode. Of several processes all have to call it.

    Args:
        run_folder: of a run.
        which: "best" or "latest" checkpoint.

    Raises:
        InputError: the folder is not that of a run, or holds no such checkpoint.
    """
    return _restore(Path(run_folder), which)[0]


def _restore(run_folder: Path, which: str) -> tuple[Network, int]:
    """The network, and the optimiser steps it was trained for."""
    if which not in ("best", "latest"):
        raise InputError(f"which is {which!r}; it must be best or latest")
    model, template = saved_network(run_folder)
    with Checkpoints(run_folder) as checkpoints:
        restore = checkpoints.restore_best if which == "best" else checkpoints.restore_latest
        state, _ = restore(template)
    nnx.update(model, state.params, state.batch_stats)
    model.eval()
    return model, int(state.step)
