"""The files of a run, other than its checkpoints: what is in them and when they may be written.

    config.json     the run's config, the network's, its images' SHA-256, size, normalisation and classes, and what was
                    changed when it was resumed
    metrics.jsonl   one record per epoch
    summary.json    last and best epoch, parameters, seed, versions, device, environment
    curves.png      drawn by seanet_jax.training.curves
    tensorboard/    likewise
    checkpoints/    written by seanet_jax.training.checkpoint
    evaluation/     written by seanet_jax.inference.evaluation, if it is asked to
    report.html     likewise
    lock            held by the process that writes here

Of several processes the first writes; the others only read. Accuracies are fractions, times seconds, losses of the
network's kind of scores (``seanet_jax.models.scores``): cross entropies in nats, or margin losses.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import jax

from seanet_jax.errors import InputError, RunError
from seanet_jax.files import temporary_of, write_whole
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import NetworkConfig, config_to_json
from seanet_jax.training import processes
from seanet_jax.training.config import TrainConfig

Record = dict[str, Any]

# Begins the names of the files by which processes see whether their folder is the same.
_TOKEN = ".shared-"


class RunInUseError(InputError):
    """Another process is writing in the folder."""


class RunFolder:
    """A run's folder.

    Args:
        path: of the folder; need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._config = path / "config.json"
        self._metrics = path / "metrics.jsonl"
        self._summary = path / "summary.json"
        self._lock = path / "lock"
        self.curves = path / "curves.png"
        self.tensorboard = path / "tensorboard"

    def check(self, config: TrainConfig) -> None:
        """Demands that a run with this config may write here; writes nothing.

        Raises:
            InputError: a new run's folder is in use, or there is no such run to resume, or it is another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out: {self.path} is a file; name a folder")
        if config.resume:
            if self._is_begun() and (differences := config.differences(self._read()["config"])):
                raise InputError(
                    f"--resume: {self.path} holds another run ({'; '.join(differences)}); "
                    "give the saved values, or name another folder with --out"
                )
        elif self._config.exists():
            raise InputError(f"{self.path} holds a run already; --resume continues it, --out names another folder")
        elif self.path.exists() and not all(map(self._is_of_the_start, self.path.iterdir())):
            raise InputError(f"--out: {self.path} is not empty and not a run; name a new or empty folder")

    def _is_of_the_start(self, path: Path) -> bool:
        """Whether a run leaves this file that was killed before it began."""
        return path in (self._lock, temporary_of(self._config)) or path.name.startswith(_TOKEN)

    def _is_begun(self) -> bool:
        """Whether there is more than a lock: a run killed as early as that is resumed by starting it."""
        return self._config.exists() or not self._lock.exists()

    def in_use(self) -> bool:
        """Whether another process writes here now."""
        if not self._lock.exists():
            return False
        try:
            with filelock.FileLock(self._lock, blocking=False):
                return False
        except filelock.Timeout:
            return True

    def is_touched(self) -> bool:
        """Whether a run was begun here, however early it was killed: it is resumed, not started."""
        return self._config.exists() or self._lock.exists()

    @contextlib.contextmanager
    def locked(self, config: TrainConfig) -> Iterator[None]:
        """Inside this context no other process may; creates the folder. The lock of a process that died is no obstacle.

        Args:
            config: of the run, checked again, since another process may have been here since.

        Raises:
            RunInUseError: another process is writing here.
            InputError: the folder cannot be written, or as ``check``.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._lock, blocking=False).acquire()
        except filelock.Timeout:
            raise RunInUseError(
                f"{self.path} is in use by another process; wait for its end, name another folder with --out, "
                "or give --distributed if these are the processes of one run"
            ) from None
        except OSError as error:
            raise InputError(f"--out: {self.path} cannot be written ({error.strerror}); name another folder") from None
        with lock:
            self.check(config)
            yield

    def check_shared(self) -> None:
        """Demands that all processes see the same folder. All of them have to call it, the first holding the lock.

        Raises:
            InputError: one does not.
        """
        if jax.process_count() == 1:
            return
        token = self.path / processes.of_first(f"{_TOKEN}{os.urandom(8).hex()}")
        with processes.agreed(), self.writing(token):
            if processes.is_first():
                token.touch()
        try:
            with processes.agreed():
                if not token.exists():
                    raise InputError(
                        f"--out: {self.path} is not the folder that the first process writes; "
                        "name one on a file system that all machines share"
                    )
        finally:
            if processes.is_first():
                token.unlink()

    def check_data(self, config: TrainConfig, data_sha256: str, batch_groups: int) -> None:
        """Demands that a run continues on the images it began with, normalised as they were.

        Args:
            config: of the run.
            data_sha256: of its images and labels.
            batch_groups: of its network.

        Raises:
            InputError: they are others.
        """
        if not config.resume or not self._is_begun():
            return
        saved = self._read()
        if (groups := saved["model_config"].get("batch_groups", 1)) != batch_groups:
            raise InputError(
                f"--resume: {self.path} was trained with statistics of each of {groups} devices' batches, and here "
                f"are {batch_groups}; resume it on as many devices (--batch-statistics global is for any number)"
            )
        # A converted network was trained elsewhere, on images this project has not seen.
        if saved["data_sha256"] not in (None, data_sha256):
            raise InputError(
                f"--resume: {self.path} was trained on other images of the name {config.dataset}; "
                "give the folder that holds them with --data-dir, or name another folder with --out"
            )

    def open(
        self,
        config: TrainConfig,
        model_config: NetworkConfig,
        images: ImageSpec,
        data_sha256: str | None,
        step: int,
        history: list[Record],
    ) -> None:
        """Writes what the run is, and makes its records those that led to the checkpoint it continues from.

        Args:
            config: of the run.
            model_config: of its network.
            images: what they are.
            data_sha256: of its images and labels; None if nobody here has seen them.
            step: optimiser steps done, noted where a run is resumed.
            history: records of the epochs before.

        Raises:
            RunError: they cannot be written.
        """
        resumed = []
        if self._config.exists():
            saved = self._read()
            changed = config.differences(saved["config"], harmless=True)
            resumed = [*saved["resumed"], {"step": step, "changed": changed}]
        about = {
            "config": config.to_json(),
            "model_config": config_to_json(model_config),
            "images": images.to_json(),
            "data_sha256": data_sha256,
            "resumed": resumed,
        }
        with self.writing(self._config):
            write_whole(self._config, json.dumps(about, indent=2) + "\n")
        with self.writing(self._metrics):
            write_whole(self._metrics, "".join(json.dumps(record) + "\n" for record in history))

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Says in one sentence why a file of the run could not be written.

        Args:
            path: of the file, or of the folder it is in.

        Raises:
            RunError: instead of any OSError raised inside.
        """
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{path} could not be written ({error.strerror}); the checkpoints stay, "
                "and --resume continues from the newest once this is mended"
            ) from error

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the run's config and of its network's, as JSON values.

        Raises:
            InputError: the folder holds no run, or its config.json is damaged.
        """
        about = self._read()
        return about["config"], about["model_config"]

    def read_images(self) -> ImageSpec:
        """What the run's images and classes are.

        Raises:
            InputError: as ``read_config``, or an earlier version wrote it, which did not say.
        """
        images: ImageSpec | None = self._read()["images"]
        if images is None:
            raise InputError(
                f"{self._config} does not say what its images are: an earlier version wrote it; "
                "the command that made the run, with --resume, writes it anew"
            )
        return images

    def _read(self) -> dict[str, Any]:
        if not self._config.exists():
            raise InputError(f"{self.path} holds no run: there is no config.json in it")
        try:
            about = dict(json.loads(self._config.read_text()))
            images = about.get("images")
            data_sha256 = about["data_sha256"]
            return {
                "config": dict(about["config"]),
                "model_config": dict(about["model_config"]),
                "images": None if images is None else ImageSpec.from_json(images),
                "data_sha256": None if data_sha256 is None else str(data_sha256),
                "resumed": list(about["resumed"]),
            }
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self._config} is damaged; restore it, or start over in another folder") from None

    def read_data_sha256(self) -> str | None:
        """Of the run's images and labels; None if nobody here has seen them.

        Raises:
            InputError: as ``read_config``.
        """
        found: str | None = self._read()["data_sha256"]
        return found

    def read_records(self) -> list[Record]:
        """One record an epoch, from the first; none of a run that has not finished one.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            return [dict(json.loads(line)) for line in self._metrics.read_text().splitlines()]
        except (OSError, ValueError, TypeError):
            raise InputError(f"{self._metrics} is missing or damaged; --resume writes it anew") from None

    def check_records(self) -> None:
        """Demands, of a run without any checkpoint, that it never had one.

        Raises:
            InputError: its records are of more epochs than one, which is checkpointed before the next is recorded.
        """
        if self._metrics.exists() and len(self._metrics.read_bytes().splitlines()) > 1:
            raise InputError(
                f"--resume: the checkpoints of {self.path} are gone; restore them from a copy, "
                "or start over in another folder with --out"
            )

    def read_summary(self) -> dict[str, Any] | None:
        """The contents of summary.json, as last written; None if it is missing or damaged."""
        try:
            summary = json.loads(self._summary.read_text())
        except (OSError, ValueError):
            return None
        return summary if isinstance(summary, dict) and "last" in summary else None

    def append(self, record: Record) -> None:
        """Adds a record to metrics.jsonl; on disk when this returns."""
        with self.writing(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        with self.writing(self._summary):
            write_whole(self._summary, json.dumps(summary, indent=2) + "\n")
