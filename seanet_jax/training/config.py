"""One frozen config describes a training run; the command line, config.json and the training loop share it."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any, Literal, get_args

from seanet_jax.data import DATASETS, is_known
from seanet_jax.errors import InputError, is_integer
from seanet_jax.layers.functional import AggregateOp
from seanet_jax.models import NetworkConfig, family_of, find_preset, model_config
from seanet_jax.models.network import ComputeDtype, NetworkConvMethod, dtype_name
from seanet_jax.models.seanet import AggregatePlacement

BatchStatistics = Literal["global", "device"]
OptimizerName = Literal["sgd", "adam"]


def published_recipe(model: str) -> dict[str, Any]:
    """The fields of ``TrainConfig`` in which a network was published with another recipe than its defaults.

    Args:
        model: name of a preset; of an unknown one there are none.
    """
    preset = find_preset(model)
    return {} if preset is None else dict(family_of(preset).recipe)


# A resumed run may differ in these: they say where, how long and how often, not what is computed.
_FREE_ON_RESUME = (
    "epochs",
    "max_steps",
    "eval_batch_size",
    "data_dir",
    "out",
    "require_gpu",
    "log_every",
    "checkpoint_every",
    "checkpoint_steps",
    "on_nan",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults are the published recipe (SEANet talk, MIND 2019) on CIFAR-100.

    EncapNet has another: ``TrainConfig(model="encapnet", **published_recipe("encapnet"))``.

    Raises:
        InputError: a field has a value that cannot work.
    """

    dataset: str = "cifar100"
    """Images to learn."""

    model: str = "seanet20"
    """Name of a preset, for example seanet20, seanet20_narrow or resnet56; a wrong name lists them all."""

    squeeze_excite: bool | None = None
    """Whether blocks recalibrate their channels; None keeps the preset's."""

    reduction: int | None = None
    """Channels per hidden unit of squeeze-excitation; None keeps the preset's."""

    aggregate_placement: Literal["preset"] | AggregatePlacement = "preset"
    """Where channels are aggregated: as the preset has it, after each stage, inside each block, or nowhere."""

    aggregate_op: Literal["preset"] | AggregateOp = "preset"
    """How a group of channels becomes one."""

    aggregate_factor: int | None = None
    """Channels in a group; None keeps the preset's."""

    dtype: ComputeDtype = "float32"
    """Compute dtype of convolutions and matrix products. Parameters and batch statistics are always float32."""

    conv_method: NetworkConvMethod = "auto"
    """How convolutions are computed: auto is the fastest on the device, lax is XLA's own. They differ by rounding."""

    epochs: int = 200
    """Passes over the training images."""

    max_steps: int | None = None
    """Stop after this many optimiser steps in total, counted from the run's beginning, even inside an epoch."""

    batch_statistics: BatchStatistics = "global"
    """Whose batch a training step normalises by: all devices' together, or each device's own, as under pmap."""

    batch_size: int = 64
    """Images per optimiser step, over all devices. An epoch's remainder that does not fill a batch is left out."""

    eval_batch_size: int = 250
    """Images per evaluation step, rounded up to a multiple of the devices. Changes no result: each counts once."""

    optimizer: OptimizerName = "sgd"
    """SGD with momentum, or Adam."""

    learning_rate: float = 0.1
    """Initial learning rate."""

    decay_every: int | None = 80
    """Epochs after which the learning rate is multiplied by decay_factor, again and again; None is not at all."""

    decay_at: tuple[int, ...] = ()
    """Epochs after which it is, where decay_every is None."""

    decay_factor: float = 0.1
    """Factor of the learning rate."""

    momentum: float = 0.9
    """Of SGD (not Nesterov's), or Adam's beta 1; its beta 2 is 0.999."""

    weight_decay: float = 1e-4
    """Added to the gradient of every parameter, times the parameter, before the optimiser sees it."""

    augment: bool = True
    """Zero-pad by 4 pixels, crop at random and, where a mirrored image keeps its class, mirror half of them."""

    validation_fraction: float = 0.0
    """Share of the training images, from their end, held out to choose the best epoch; 0 chooses on the test images."""

    limit_train: int | None = None
    """Use only the first so many training images."""

    limit_test: int | None = None
    """Use only the first so many test images."""

    seed: int = 0
    """Determines initial parameters, order of images and augmentation."""

    data_dir: Path | None = None
    """Folder with CIFAR, prepared by TFDS or as the original files; else TFDS_DATA_DIR, else TFDS's default folder."""

    out: Path | None = None
    """Folder of the run; by default runs/<dataset>-<model>-seed<seed>."""

    resume: bool = False
    """Continue the run in the folder from its latest checkpoint."""

    require_gpu: bool = False
    """Fail when JAX finds no GPU, instead of training on the CPU."""

    log_every: int = 50
    """Steps between progress lines when the output is not a terminal."""

    checkpoint_every: int = 1
    """Epochs between checkpoints; the end of the run is always saved."""

    checkpoint_steps: int | None = None
    """Optimiser steps between further checkpoints, inside epochs; None saves at the end of epochs only."""

    on_nan: Literal["stop", "continue"] = "stop"
    """What to do when the training loss is NaN or infinite: stop, the last good checkpoint staying, or go on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype))  # jnp.bfloat16 cannot be written as JSON
        if isinstance(self.decay_at, list):  # as JSON has it
            object.__setattr__(self, "decay_at", tuple(self.decay_at))
        if not is_known(self.dataset):
            raise InputError(f"dataset is {self.dataset!r}; it must be one of {', '.join(DATASETS)}")
        choices = {"batch_statistics": BatchStatistics, "optimizer": OptimizerName}
        for name, known in ((name, get_args(kind)) for name, kind in choices.items()):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "eval_batch_size", "log_every", "checkpoint_every"):
            self._demand(name, "a positive integer", is_integer(getattr(self, name), minimum=1))
        for name in ("max_steps", "limit_train", "limit_test", "checkpoint_steps", "decay_every"):
            value = getattr(self, name)
            self._demand(name, "a positive integer or None", value is None or is_integer(value, minimum=1))
        self._demand("on_nan", "stop or continue", self.on_nan in ("stop", "continue"))
        self._demand("seed", "an integer from 0 to 2**32 - 1", is_integer(self.seed, minimum=0) and self.seed < 2**32)
        self._demand("learning_rate", "a positive number", _is_number(self.learning_rate) and self.learning_rate > 0)
        rising = isinstance(self.decay_at, tuple) and all(
            is_integer(later, minimum=earlier + 1) for earlier, later in itertools.pairwise((0, *self.decay_at))
        )
        self._demand("decay_at", "epochs from 1 in rising order, or none", rising)
        if self.decay_at and self.decay_every is not None:
            raise InputError(
                f"decay_every is {self.decay_every} and decay_at is {self.decay_at}; only one can be followed: make "
                "decay_every None, or leave decay_at empty"
            )
        self._demand(
            "decay_factor", "above 0 and at most 1", _is_number(self.decay_factor) and 0 < self.decay_factor <= 1
        )
        self._demand("momentum", "at least 0 and below 1", _is_number(self.momentum) and 0 <= self.momentum < 1)
        self._demand("weight_decay", "at least 0", _is_number(self.weight_decay) and self.weight_decay >= 0)
        fraction = self.validation_fraction
        self._demand("validation_fraction", "at least 0 and below 1", _is_number(fraction) and 0 <= fraction < 1)
        self.model_config(num_classes=10)

    def _demand(self, name: str, allowed: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    def model_config(self, num_classes: int, in_channels: int = 3, devices: int = 1) -> NetworkConfig:
        """The network this run trains.

        Args:
            num_classes: of the data set.
            in_channels: of its images.
            devices: the batch is divided among.

        Raises:
            InputError: the preset is unknown or an override does not fit it.
        """
        overridable = ("squeeze_excite", "reduction", "aggregate_placement", "aggregate_op", "aggregate_factor")
        given = {name: getattr(self, name) for name in overridable}
        overrides = {name: value for name, value in given.items() if value is not None and value != "preset"}
        return model_config(
            self.model,
            num_classes=num_classes,
            in_channels=in_channels,
            dtype=self.dtype,
            conv_method=self.conv_method,
            batch_groups=devices if self.batch_statistics == "device" else 1,
            **overrides,
        )

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return self.out or Path("runs") / f"{self.dataset}-{self.model}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = dataclasses.asdict(self)
        plain = {Path: str, tuple: list}
        return {
            name: next((made(value) for kind, made in plain.items() if isinstance(value, kind)), value)
            for name, value in values.items()
        }

    def differences(self, saved: dict[str, Any], *, harmless: bool = False) -> list[str]:
        """How this run differs from the saved: lines such as ``batch_size: 64 was saved, 32 is asked``.

        Args:
            saved: a run's ``to_json()``.
            harmless: whether to tell of what may differ when a run is resumed, instead of what would make it another.
        """
        asked = self.to_json()
        names = [
            name for name in asked.keys() | saved.keys() if (name in _FREE_ON_RESUME) == harmless and name != "resume"
        ]
        # A field that is not there was added since, with a default that changes nothing.
        saved = TrainConfig().to_json() | saved
        return [
            f"{name}: {saved.get(name)!r} was saved, {asked.get(name)!r} is asked"
            for name in sorted(names)
            if saved.get(name) != asked.get(name)
        ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
