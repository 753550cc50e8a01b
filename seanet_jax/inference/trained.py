"""Loads a trained network from the folder of a run or of pretrained weights."""

import dataclasses
from pathlib import Path

from flax import nnx

from seanet_jax.environment import start_devices
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import Network, NetworkConfig, weights
from seanet_jax.models.bundled import find_folder
from seanet_jax.models.families import from_saved
from seanet_jax.paths import UserPath, is_file, user_path
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import TrainState, abstract_state

_NAME_A_FOLDER = "name the folder of a run or of pretrained weights"
# What to do with a file that holds a network in another form, by its suffix.
_CONVERT = "convert it into the folder of a run by seanet convert FILE FOLDER"
_REMEDIES = {
    **dict.fromkeys((".pt", ".pth", ".tar"), f"PyTorch's checkpoints have this suffix: {_CONVERT}"),
    ".safetensors": f"{_NAME_A_FOLDER}, the one that holds this file",
    ".stablehlo": f"an exported artifact runs by the lines in its .json, without this package; here, {_NAME_A_FOLDER}",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and the specification of its images.

    Attributes:
        model: The network, in evaluation mode.
        images: Size, channels and normalization of the network's images, and the names of its classes.
        step: Number of optimizer steps of the training, or None for pretrained weights, which do not record it.
    """

    model: Network
    images: ImageSpec
    step: int | None = None


def load(folder: UserPath, which: str = "best") -> Trained:
    """Loads the network of a run, or of a folder of pretrained weights that has an image specification.

    Args:
        folder: The folder of a run or of pretrained weights, or the name of a network that comes with the package.
        which: Network of a run to load: that of the "best" epoch, of the "latest" checkpoint, or "ema", the moving
            average of the latest checkpoint. It has no effect on pretrained weights.

    Raises:
        InputError: If the folder is neither, is damaged, or has no image specification, or if "ema" is asked of a run
            that keeps no moving average.
    """
    start_devices()
    folder = find_folder(folder)
    if is_file(folder):
        raise InputError(f"{folder} is a file; {_REMEDIES.get(folder.suffix, _NAME_A_FOLDER)}")
    if not weights.is_folder(folder):
        run = RunFolder(folder)
        images = run.read_images()
        _check_fit(images, run.read_network_config(), folder)
        model, step = _restore(folder, which)
        return Trained(model, images, step)
    saved = weights.read(folder)
    if saved.images is None:
        raise InputError(
            f"{folder} does not say how images are normalized and what the classes are; "
            "write it again with save_pretrained and an ImageSpec"
        )
    model = from_saved(saved)
    _check_fit(saved.images, model.config, folder)
    return Trained(model, saved.images)


def network_of(folder: UserPath) -> tuple[NetworkConfig, int, int]:
    """Returns the config of the network of a run or of pretrained weights, and the height and width of its images.

    Args:
        folder: The folder of a run, or of pretrained weights that have an image specification, or the name of a network
            that comes with the package.

    Raises:
        InputError: If the folder is neither, is damaged, or has no image specification.
    """
    folder = find_folder(folder)
    if weights.is_folder(folder):
        trained = load(folder)
        return trained.model.config, trained.images.height, trained.images.width
    run = RunFolder(folder)
    images = run.read_images()
    return run.read_network_config(), images.height, images.width


def _check_fit(images: ImageSpec, network: NetworkConfig, folder: Path) -> None:
    """Raises an InputError if a file gives the network and its images other sizes, or no classes."""
    ours, theirs = (images.channels, images.num_classes), (network.in_channels, network.num_classes)
    if ours != theirs:
        raise InputError(
            f"{folder / 'config.json'} is damaged (its images have {ours[0]} channels and {ours[1]} classes, and its "
            f"network {theirs[0]} and {theirs[1]}); restore it"
        )


def saved_network(run_folder: UserPath) -> tuple[Network, TrainState]:
    """Returns the network of a run with abstract arrays, and the shapes and dtypes of its training state.

    No weights are loaded: a checkpoint is restored into the returned shapes.

    Args:
        run_folder: The folder of a run.

    Raises:
        InputError: If the folder is not that of a run.
    """
    run = RunFolder(run_folder)
    config = run.read_config()
    # The number of steps changes no shapes.
    descent = optimizer(config, steps_per_epoch=1)
    return abstract_state(run.read_network_config(), descent, average=config.ema_decay is not None)


def load_model(run_folder: UserPath, which: str = "best") -> Network:
    """Loads the trained network of a run, in evaluation mode.

    In a run of several processes, all of them must call this function.

    Args:
        run_folder: The folder of a run.
        which: Network of a run to load: that of the "best" epoch, of the "latest" checkpoint, or "ema", the moving
            average of the latest checkpoint.

    Raises:
        InputError: If the folder is not that of a run, or it holds no such checkpoint or keeps no moving average.
    """
    start_devices()
    return _restore(user_path(run_folder), which)[0]


def _restore(run_folder: Path, which: str) -> tuple[Network, int]:
    """Returns the network of a checkpoint and the number of optimizer steps of its training."""
    if which not in ("best", "latest", "ema"):
        raise InputError(f"which is {which!r}; it must be best, latest or ema")
    model, template = saved_network(run_folder)
    if which == "ema" and template.ema is None:
        raise InputError(
            f"{run_folder} keeps no moving average of its network; name best or latest, or train another run with "
            "--ema-decay, for example 0.999"
        )
    with Checkpoints(run_folder) as checkpoints:
        restore = checkpoints.restore_best if which == "best" else checkpoints.restore_latest
        state, _ = restore(template)
    average = state.ema if which == "ema" else None
    nnx.update(model, *(average or (state.params, state.batch_stats)))
    model.eval()
    return model, int(state.step)
