"""What ``config.json``, ``metrics.jsonl`` and ``summary.json`` of a run hold, read whoever wrote or changed them.

Any content is either right, field by field, or refused in one sentence.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.json_files import check_fields, checked, json_value, parse_json, read_json, with_nan
from seanet_jax.paths import exists, read_bytes
from seanet_jax.provenance import Provenance
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.records import Record, is_evaluated


class Resumed(TypedDict):
    """A time at which a run was resumed: its step, and the changes to its configuration in lines of text."""

    step: int
    changed: list[str]


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """The contents of ``config.json``.

    Attributes:
        config: Fields of the run's ``TrainConfig``, as JSON values.
        model_config: Fields of the network's configuration, as JSON values.
        images: Specification of the images and classes; None if an early version wrote the file, which did not say.
        data_sha256: SHA-256 of the images and labels; None if the network was trained elsewhere.
        environment: Devices, versions and settings on which the rounding of the numbers depends; None if an earlier
            version wrote the file, or the network was trained elsewhere.
        converted_from: Name of the file or folder from which the network was converted; None for other runs.
        resumed: For each time the run was resumed, the step and the changes to the configuration.
        started: When the training began, in UTC; None if it has not, or an earlier version wrote the file.
        version: The version of seanet_jax that wrote the file; None if an earlier version did, which did not say.
    """

    config: dict[str, Any]
    model_config: dict[str, Any]
    images: ImageSpec | None
    data_sha256: str | None
    environment: dict[str, str] | None
    converted_from: str | None
    resumed: list[Resumed]
    started: str | None
    version: str | None

    @property
    def is_trained_elsewhere(self) -> bool:
        """Whether the network was converted and has not been trained in this run."""
        return self.data_sha256 is None


class _ConfigFile(TypedDict):
    """The fields of ``config.json`` and their types. Earlier versions wrote only some of them."""

    version: NotRequired[str]
    config: dict[str, Any]
    model_config: dict[str, Any]
    images: NotRequired[dict[str, Any] | None]
    data_sha256: str | None
    environment: NotRequired[dict[str, str] | None]
    converted_from: NotRequired[str | None]
    resumed: list[Resumed]
    started: NotRequired[str | None]


class _RecordLine(TypedDict):
    """The fields of a line of ``metrics.jsonl``.

    Those of validation are there if the run has validation images, those that begin with ``ema`` if it keeps a moving
    average, and ``selection_accuracy`` if it weights its classes. Those of training are not if the epoch was trained
    elsewhere, as the last one of a converted network was. Those of test and validation are not if --eval-every left out
    the epoch's evaluation. Version 0.1.0 recorded no mean of the classes' accuracies, and no time but that of the
    training steps.
    """

    epoch: float
    step: int
    learning_rate: float
    train_loss: NotRequired[float | None]
    train_accuracy: NotRequired[float | None]
    val_loss: NotRequired[float | None]
    val_accuracy: NotRequired[float | None]
    val_mean_class_accuracy: NotRequired[float | None]
    test_loss: NotRequired[float | None]
    test_accuracy: NotRequired[float | None]
    test_mean_class_accuracy: NotRequired[float | None]
    ema_val_loss: NotRequired[float | None]
    ema_val_accuracy: NotRequired[float | None]
    ema_val_mean_class_accuracy: NotRequired[float | None]
    ema_test_loss: NotRequired[float | None]
    ema_test_accuracy: NotRequired[float | None]
    ema_test_mean_class_accuracy: NotRequired[float | None]
    selection_accuracy: NotRequired[float]
    seconds: float
    images_per_second: float
    evaluation_seconds: NotRequired[float]
    compiling_seconds: NotRequired[float]
    saving_seconds: NotRequired[float]
    total_seconds: NotRequired[float]


_OF_VALIDATION = {"val_loss", "val_accuracy"}
_OF_TEST = {"test_loss", "test_accuracy"}
_OF_EVALUATION = {
    name
    for name in _RecordLine.__annotations__
    if name.startswith(("val_", "test_", "ema_")) or name == "selection_accuracy"
}


class _TimeSpent(TypedDict):
    """The seconds of a run by part; see ``seanet_jax.training.stopwatch.time_spent``."""

    training: float
    evaluation: float
    compiling: float
    saving: float
    other: float
    total: float


class _SummaryFile(TypedDict):
    """The fields of ``summary.json`` that are read."""

    finished: bool
    last: dict[str, Any]
    parameters: int
    training_seconds: float
    time: NotRequired[_TimeSpent]
    provenance: NotRequired[Provenance]
    device: str
    versions: dict[str, str]


def read_config(path: Path) -> SavedConfig:
    """Reads ``config.json``.

    Args:
        path: The file.

    Raises:
        InputError: If the file cannot be read, has a field that this version does not know, or is damaged.
    """
    where, remedy = str(path), "restore it, or start over in another folder"
    found = read_json(path, remedy=remedy)
    version = found.get("version")
    check_fields(found, typing.get_type_hints(_ConfigFile), where=where, version=version)
    about = checked(found, _ConfigFile, where=where, remedy=remedy)
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    check_fields(about["config"], fields, where=where, version=version)
    images = about.get("images")
    return SavedConfig(
        config=about["config"],
        model_config=about["model_config"],
        images=None if images is None else ImageSpec.read(images, where=where, remedy=remedy, version=version),
        data_sha256=about["data_sha256"],
        environment=about.get("environment"),
        converted_from=about.get("converted_from"),
        resumed=about["resumed"],
        started=about.get("started"),
        version=version,
    )


def read_records(path: Path) -> list[Record]:
    """Reads ``metrics.jsonl``.

    Args:
        path: The file.

    Returns:
        One record per finished epoch, in order. A loss that was not finite is NaN.

    Raises:
        InputError: If the file is missing, damaged or cannot be read.
    """
    remedy = "--resume writes it anew"
    if not exists(path):
        raise InputError(f"{path} is missing; {remedy}")
    # A newline is written last. What follows the last one is a record that is being written, or was never finished.
    lines = read_bytes(path).split(b"\n")[:-1]
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        where = f"line {number} of {path}"
        # Records that someone else wrote may hold the words NaN and Infinity, which Python parses.
        record = json_value(parse_json(line, where=where, remedy=remedy))
        checked(record, _RecordLine, where=where, remedy=remedy)
        if any(record[name] <= (records[-1][name] if records else 0) for name in ("epoch", "step")):
            raise InputError(f"{where} is damaged (its epoch or step is not after the one before); {remedy}")
        if record.keys() & _OF_TEST not in (_OF_TEST, set()):
            raise InputError(f"{where} is damaged (it has only one of {' and '.join(sorted(_OF_TEST))}); {remedy}")
        if not is_evaluated(record) and (others := record.keys() & _OF_EVALUATION):
            raise InputError(f"{where} is damaged (it has {min(others)}, but no test_accuracy); {remedy}")
        first = next(filter(is_evaluated, records), record)
        if is_evaluated(record) and record.keys() & _OF_VALIDATION != first.keys() & _OF_VALIDATION:
            number = 1 + records.index(first)
            raise InputError(f"{where} is damaged (its validation metrics are not those of line {number}); {remedy}")
        records.append(record)
    return [with_nan(record) for record in records]


def read_summary(path: Path, metrics: Path) -> dict[str, Any] | None:
    """Reads ``summary.json``.

    Args:
        path: The file.
        metrics: The ``metrics.jsonl`` of the run, one record of which is the last one of the summary.

    Returns:
        The contents; None if the file is missing, damaged, or of another run. If a run was continued and is not
        finished again, that of its earlier end may count as another run's.
    """
    try:
        summary = read_json(path, remedy="")
        checked(summary, _SummaryFile, where="", remedy="")
        records = json_value(read_records(metrics))
    except InputError:
        return None
    return summary if summary["last"] in records else None
