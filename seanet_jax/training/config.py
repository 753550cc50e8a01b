"""The configuration of a training run, shared by the command line, ``config.json`` and the training loop."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from seanet_jax.data import DATASETS, is_known
from seanet_jax.errors import InputError, did_you_mean, is_integer, is_number, store_plain
from seanet_jax.json_files import check_fields, written_by
from seanet_jax.layers.aggregates import AggregateKind
from seanet_jax.models import NetworkConfig, family_of, find_preset, model_config
from seanet_jax.models.network import dtype_name
from seanet_jax.models.seanet import AggregatePlacement
from seanet_jax.paths import UserPath, user_path
from seanet_jax.printable import short_repr
from seanet_jax.training.recipe import Recipe

BatchStatistics = Literal["global", "device"]


def published_recipe(model: str) -> dict[str, Any]:
    """Returns the fields of ``Recipe`` that a network was published with, where they differ from its defaults.

    Args:
        model: Name of a preset. An unknown name has no such fields.
    """
    preset = find_preset(model)
    return {} if preset is None else dict(family_of(preset).recipe)


# A resumed run may differ in these fields: they say where, how long and how often, not what is computed.
_FREE_ON_RESUME = (
    "patience",
    "max_steps",
    "eval_batch_size",
    "data_dir",
    "out",
    "require_gpu",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "checkpoint_steps",
    "on_nan",
)
# So it may in the number of epochs, if the learning rate of an epoch does not depend on it.
_ENDLESS_SCHEDULES = ("steps", "constant")


@dataclasses.dataclass(frozen=True)
class _Task:
    """The fields of ``TrainConfig`` that name the data set and the network."""

    dataset: str = "cifar100"
    """Data set to train on; tfds:NAME is any that TFDS has prepared, and folder your own images."""

    model: str = "seanet20"
    """Preset of the network, for example seanet20, seanet20_narrow or resnet56; a wrong name lists them all."""

    squeeze_excite: bool | None = None
    """Whether residual blocks have squeeze-excitation; None keeps the preset's choice."""

    reduction: int | None = None
    """Channels per hidden unit of squeeze-excitation; None keeps the preset's value."""

    aggregate_placement: Literal["preset"] | AggregatePlacement = "preset"
    """Where channels are aggregated: after each stage, inside each block, nowhere, or as in the preset."""

    aggregate_op: Literal["preset"] | AggregateKind = "preset"
    """How each group of channels is reduced to one channel, or as in the preset."""

    aggregate_factor: int | None = None
    """Channels in each aggregated group; None keeps the preset's value."""

    aggregate_stages: tuple[int, ...] = ()
    """Stages that aggregate, for example 1 2 of three; none named keeps the preset's."""

    aggregate_norm: bool | None = None
    """Whether batch normalization follows each aggregation; None keeps the preset's choice."""

    aggregate_seed: int | None = None
    """Seed of the groups of --aggregate-op random; None keeps the preset's value."""

    image_size: int | None = None
    """Height and width in pixels of the images of a folder or of tfds:NAME, which are resized; None is 32."""

    test_fraction: float | None = None
    """Fraction of the images of a folder without test images that is held out to test on; None is 0.2."""

    skip_broken: bool = False
    """Train without the files of a folder that are no images or damaged, instead of ending with an error."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(Recipe, _Task):
    """Configuration of a training run: the data set, the network, the recipe and where the run writes.

    The defaults are the published recipe (SEANet talk, MIND 2019) on CIFAR-100. EncapNet was published with another:
    ``TrainConfig(model="encapnet", **published_recipe("encapnet"))``.

    Raises:
        InputError: If a field has a value that cannot work.
    """

    max_steps: int | None = None
    """Stop after this many optimizer steps since the start of the run, even inside an epoch; None sets no limit."""

    batch_statistics: BatchStatistics = "global"
    """Images over which batch normalization computes its statistics: the global batch, or each device's part of it."""

    eval_batch_size: int = 250
    """Images per evaluation step, rounded up to a multiple of the devices. Results do not depend on it."""

    validation_fraction: float = 0.0
    """Fraction of training images, the last ones, held out to choose the best epoch; 0 chooses on the test images."""

    patience: int | None = None
    """Stop once the accuracy on validation images has not risen for this many evaluations, which are epochs unless
    --eval-every says otherwise; None trains all epochs."""

    data_dir: Path | None = None
    """Folder of the data set. CIFAR is there as prepared by TFDS or as the original files; None: TFDS_DATA_DIR, or
    TFDS's default folder."""

    out: Path | None = None
    """Folder of the run; None: runs/<dataset>-<model>-seed<seed>, which names a folder of images by its own name."""

    resume: bool = False
    """Continue the run in the folder from its latest checkpoint."""

    require_gpu: bool = False
    """Fail if JAX finds no GPU, instead of training on the CPU."""

    log_every: int = 50
    """Steps between progress lines when the output is not a terminal."""

    eval_every: int = 1
    """Epochs between evaluations on the test images, and on validation images if there are any. The best epoch is one
    that was evaluated. The end of the run is always evaluated."""

    checkpoint_every: int = 1
    """Epochs between checkpoints. The end of the run is always saved."""

    checkpoint_steps: int | None = None
    """Optimizer steps between additional checkpoints inside epochs; None saves only at the ends of epochs."""

    steps_per_call: int | None = None
    """Optimizer steps in one call of the compiled program; None: 1 on a CPU, otherwise up to 16, as a faster device
    would wait for Python. Another number may round differently."""

    on_nan: Literal["stop", "continue"] = "stop"
    """What to do if the training loss is NaN or infinite: stop, which keeps the last good checkpoint, or continue."""

    def __post_init__(self) -> None:
        for name in ("decay_at", "aggregate_stages"):
            if isinstance(value := getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(value))
        for name in ("data_dir", "out"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, user_path(path, name=name))
        object.__setattr__(self, "dtype", dtype_name(self.dtype))  # JSON can hold its name only
        store_plain(self)
        if not is_known(self.dataset):
            hint = did_you_mean(self.dataset, DATASETS)
            raise InputError(
                f"dataset is {short_repr(self.dataset)}; it must be one of {', '.join(DATASETS)}{hint and f'; {hint}'}"
            )
        self.check()
        if self.batch_statistics not in (known := get_args(BatchStatistics)):
            raise InputError(
                f"batch_statistics is {short_repr(self.batch_statistics)}; it must be one of {', '.join(known)}"
            )
        for name in ("eval_batch_size", "log_every", "eval_every", "checkpoint_every"):
            self._require(name, "a positive integer", is_integer(getattr(self, name), minimum=1))
        for name in ("max_steps", "checkpoint_steps", "steps_per_call", "image_size", "patience"):
            value = getattr(self, name)
            self._require(name, "a positive integer or None", value is None or is_integer(value, minimum=1))
        self._require("on_nan", "stop or continue", self.on_nan in ("stop", "continue"))
        fraction = self.validation_fraction
        self._require("validation_fraction", "at least 0 and below 1", is_number(fraction) and 0 <= fraction < 1)
        held_out = self.test_fraction
        is_fraction = held_out is None or (is_number(held_out) and 0 < held_out < 1)
        self._require("test_fraction", "above 0 and below 1, or None", is_fraction)
        self._require("skip_broken", "True or False", isinstance(self.skip_broken, bool))
        if self.patience is not None and not fraction:
            raise InputError(
                f"patience is {self.patience}, but there are no validation images to watch; "
                "give --validation-fraction, for example 0.1"
            )
        # Checks the preset and its overrides now, before any data is read. The number of classes does not matter yet.
        network = self.model_config(num_classes=10)
        if self.mixes_labels and network.scores.soft_loss is None:
            name = next(name for name in ("label_smoothing", "mixup", "cutmix") if getattr(self, name))
            raise InputError(
                f"{name} is {short_repr(getattr(self, name))}, but {self.model} is trained by the margin loss, which "
                f"takes one label of each image; {name} must be 0"
            )

    def _require(self, name: str, allowed: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"{name} is {short_repr(getattr(self, name))}; it must be {allowed}")

    def model_config(
        self, num_classes: int, in_channels: int = 3, devices: int = 1, image_size: int | None = None
    ) -> NetworkConfig:
        """Returns the configuration of the network that this run trains.

        Args:
            num_classes: Number of classes of the data set.
            in_channels: Number of image channels.
            devices: Number of devices that share a batch.
            image_size: Height and width of the images, in pixels, for networks of one size, such as EncapNet. None is
                the field of this name, or the preset's size.

        Raises:
            InputError: If the preset is unknown or an override does not fit it.
        """
        aggregation = [field.name for field in dataclasses.fields(_Task) if field.name.startswith("aggregate_")]
        given = {name: getattr(self, name) for name in ("squeeze_excite", "reduction", *aggregation)}
        overrides = {name: value for name, value in given.items() if value not in (None, "preset", ())}
        if (size := image_size or self.image_size) and hasattr(find_preset(self.model), "image_size"):
            overrides["image_size"] = size
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
        """Folder in which the run writes."""
        return self.out or Path("runs") / f"{self.data_name}-{self.model}-seed{self.seed}"

    @property
    def data_name(self) -> str:
        """Name of the data set in the names of folders: that of a folder of images, or tfds-mnist for tfds:mnist."""
        if self.dataset == "folder" and self.data_dir is not None and (name := self.data_dir.absolute().name):
            return name
        return re.sub("[:/]", "-", self.dataset)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        values = dataclasses.asdict(self)
        plain = {Path: str, tuple: list}
        return {
            name: next((made(value) for kind, made in plain.items() if isinstance(value, kind)), value)
            for name, value in values.items()
        }

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], *, where: str, version: str | None = None, data_dir: UserPath | None = None
    ) -> Self:
        """Reads back the values that ``to_json`` returned, except where the data and the run are.

        Args:
            values: The fields by name. Missing ones have their defaults, as in a file of an earlier version.
            where: Name of the file, for the error message.
            version: The version of seanet_jax that wrote the file; None if the file does not say.
            data_dir: The field of this name.

        Raises:
            InputError: If a field is unknown, or has a value that cannot work.
        """
        check_fields(values, [field.name for field in dataclasses.fields(cls)], where=where, version=version)
        try:
            return cls(**{**values, "data_dir": data_dir, "out": None, "resume": False})
        except InputError as error:
            raise InputError(f"{where}: {error}{written_by(version)}") from None

    def differences(self, saved: dict[str, Any], *, harmless: bool = False) -> list[str]:
        """Lists the differences from a saved run, in lines such as ``batch_size: 64 was saved, 32 is asked``.

        Args:
            saved: The saved run's ``to_json()``.
            harmless: If True, lists the fields that may change when a run is resumed; if False, all the others, whose
              change would make it another run.
        """
        asked = self.to_json()
        free = {*_FREE_ON_RESUME, *(["epochs"] if self.schedule in _ENDLESS_SCHEDULES else [])}
        names = [name for name in asked.keys() | saved.keys() if (name in free) == harmless and name != "resume"]
        # A field missing from an older file was added later, with a default that keeps the old behavior.
        saved = TrainConfig().to_json() | saved
        return [
            f"{name}: {short_repr(saved.get(name))} was saved, {short_repr(asked.get(name))} is asked"
            for name in sorted(names)
            if saved.get(name) != asked.get(name)
        ]
