"""The files of a run's folder except its checkpoints: what they hold and when they may be written.

    config.json     configurations of the run and its network; SHA-256, size, normalization and classes of its images;
                    devices, versions and settings of JAX; changes at each resume
    metrics.jsonl   one record per epoch
    summary.json    last and best epoch, parameter count, seed, time by part, provenance, versions, device, environment
    curves.png      drawn by seanet_jax.training.curves
    tensorboard/    written by seanet_jax.training.tensorboard
    checkpoints/    written by seanet_jax.training.checkpoint
    evaluation/     written by seanet_jax.inference.evaluation on request
    report.html     written by seanet_jax.inference.evaluation on request
    lock            held by the process that writes here

If several processes train together, the first one writes and the others only read. Accuracies are fractions, times are
seconds. A number that is NaN or infinite is null. The kind of the network's scores (``seanet_jax.models.scores``) says
what the losses are: cross entropies in nats, or margin losses.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import jax

from seanet_jax.console import print_error
from seanet_jax.durable import append, leftovers, make_folders, write_whole
from seanet_jax.environment import rounding_changes
from seanet_jax.errors import InputError, RunError
from seanet_jax.file_systems import network_file_system
from seanet_jax.image_spec import ImageSpec
from seanet_jax.json_files import json_text
from seanet_jax.models import NetworkConfig, config_from_json, config_to_json
from seanet_jax.paths import UserPath, check_regular, exists, is_folder, read_bytes, reading, user_path
from seanet_jax.printable import printable, short_repr
from seanet_jax.training import processes
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.records import Record
from seanet_jax.training.saved_run import Resumed, SavedConfig, read_config, read_records, read_summary
from seanet_jax.version import __version__

# Prefix of the empty files by which processes see whether they share a folder.
_TOKEN = ".shared-"

# Time in which another process asks whether the folder is in use. A process that trains keeps it for longer.
_LOCK_SECONDS = 0.5


class RunInUseError(InputError):
    """Another process is writing in the folder."""


class RunExistsError(InputError):
    """A new run is asked for in a folder that holds one already."""


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder. It need not exist.

    Attributes:
        path: The folder.
        curves: The figure of loss and error over epochs.
        tensorboard: The folder of TensorBoard events.
    """

    def __init__(self, path: UserPath):
        self.path = path = user_path(path)
        self._saved: SavedConfig | None = None
        self._config = path / "config.json"
        self._metrics = path / "metrics.jsonl"
        self._summary = path / "summary.json"
        self._lock = path / "lock"
        self.curves = path / "curves.png"
        self.tensorboard = path / "tensorboard"

    def check(self, config: TrainConfig) -> None:
        """Checks that a run with this configuration may write here. Writes nothing.

        Args:
            config: The run's configuration.

        Raises:
            InputError: If a new run's folder holds something already, or a resumed run is not there or has another
                configuration.
        """
        if exists(self.path) and not is_folder(self.path):
            raise InputError(f"--out: {self.path} is a file; name a folder")
        # Found now, and not when the run ends and writes them.
        for path in (self._config, self._metrics, self._summary, self.curves, self._lock):
            check_regular(path)
        for path in (self.tensorboard, self.path / "checkpoints"):
            if exists(path) and not is_folder(path):
                raise InputError(f"{path} is no folder; remove it, or name another folder with --out")
        if self._lock.is_symlink():  # a link of others, whose target would be emptied
            raise InputError(f"{self._lock} is a link; remove it, or name another folder with --out")
        if config.resume:
            if self.has_begun() and (differences := config.differences(self.read().config)):
                raise InputError(
                    f"--resume: {self.path} holds another run ({'; '.join(differences)}); "
                    "give the saved values, or name another folder with --out"
                )
        elif exists(self._config):
            raise RunExistsError(f"{self.path} holds a run already; --resume continues it, --out names another folder")
        elif exists(self.path):
            # A run killed before it wrote config.json leaves these. Version 0.1.0 wrote config.json.tmp first.
            with reading(self.path):
                harmless = {self._lock, self.path / "config.json.tmp", *leftovers(self._config)}
                others = [path for path in self.path.iterdir() if not path.name.startswith(_TOKEN)]
            if not harmless.issuperset(others):
                raise InputError(f"--out: {self.path} is not empty and not a run; name a new or empty folder")

    def has_begun(self) -> bool:
        """Whether there is more than a lock. A run killed that early is resumed by starting it."""
        # config.json is written before the records. If only these are there, it was lost.
        return exists(self._config) or exists(self._metrics) or not exists(self._lock)

    def in_use(self) -> bool:
        """Whether another process is writing here. Asking disturbs no other process, whether it asks or starts a run.

        Raises:
            InputError: If the lock cannot be read.
        """
        if not exists(self._lock):
            return False
        check_regular(self._lock)
        with reading(self._lock), self._lock.open("rb") as file:
            # Shared, so that those who ask do not take each other for a writer. Closing the file lets go of it.
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def was_started(self) -> bool:
        """Whether a run was started here, however early it was killed. It has to be resumed, not started again."""
        return exists(self._config) or exists(self._lock)

    @contextlib.contextmanager
    def locked(self, config: TrainConfig) -> Iterator[None]:
        """Creates the folder and keeps other processes from writing in it until the context ends.

        The lock of a process that died is no obstacle.

        Args:
            config: The run's configuration. It is checked again, as another process may have written here meanwhile.

        Raises:
            RunInUseError: If another process is writing here.
            InputError: If the folder cannot be written, or ``check`` fails.
        """
        try:
            make_folders(self.path)
            # Another process may be in the middle of in_use, which takes microseconds.
            lock = filelock.FileLock(self._lock).acquire(timeout=_LOCK_SECONDS, poll_interval=0.01)
        except filelock.Timeout:
            raise RunInUseError(
                f"{self.path} is in use by another process; wait for its end, name another folder with --out, "
                "or give --distributed if these are the processes of one run"
            ) from None
        except OSError as error:
            raise InputError(f"--out: {self.path} cannot be written ({error.strerror}); name another folder") from None
        with lock:
            self._saved = None
            self.check(config)
            self._say_if_unsafe()
            yield

    def _say_if_unsafe(self) -> None:
        """Prints a line on stderr if the file system may not keep out other processes, or not keep what is written."""
        kind = network_file_system(self.path)
        if kind is not None:
            print_error(
                f"{printable(self.path)} is on a network file system ({kind}), where locks may not keep out other "
                "machines and a power cut may undo writes; start one process per run, or name a local folder with --out"
            )
        elif not self.in_use():  # another opening of the lock, which this process holds, has to be refused
            print_error(
                f"the file system of {printable(self.path)} locks no files, so nothing keeps out other processes; "
                "start one process per run, or name another folder with --out"
            )

    def check_shared(self) -> None:
        """Checks that all processes see the same folder.

        Every process must call this, and the first one must hold the lock.

        Raises:
            InputError: If a process sees another folder.
        """
        if jax.process_count() == 1:
            return
        token = self.path / processes.from_first(f"{_TOKEN}{os.urandom(8).hex()}")
        with processes.failing_together(), self.writing(token):
            if processes.is_first():
                token.touch()
        try:
            with processes.failing_together():
                if not exists(token):
                    raise InputError(
                        f"--out: {self.path} is not the folder that the first process writes; "
                        "name one on a file system that all machines share"
                    )
        finally:
            if processes.is_first():
                token.unlink()

    def check_data(self, config: TrainConfig, data_sha256: str, batch_groups: int) -> None:
        """Checks that a resumed run continues on the images and the batch statistics it began with.

        Args:
            config: The run's configuration.
            data_sha256: SHA-256 of the images and labels.
            batch_groups: Number of groups, one per device, in which the network normalizes a batch.

        Raises:
            InputError: If the images or the number of groups differ from the saved ones.
        """
        if not config.resume or not self.has_begun():
            return
        saved = self.read()
        if (saved_groups := saved.model_config.get("batch_groups", 1)) != batch_groups:
            groups = short_repr(saved_groups)
            raise InputError(
                f"--resume: {self.path} was trained with batch statistics per device on {groups} devices, and here are "
                f"{batch_groups}; resume it on {groups} devices (--batch-statistics global allows any number)"
            )
        # A converted network has no SHA-256: it was trained elsewhere, on images this project has not seen.
        if saved.data_sha256 not in (None, data_sha256):
            raise InputError(
                f"--resume: {self.path} was trained on other images of the name {config.dataset}, or they have changed "
                "since; give the same, by --data-dir or as arrays, or name another folder with --out"
            )

    def environment_changes(self, environment: dict[str, str]) -> list[str]:
        """Lists the differences between the saved environment and this one. A run that has not begun has none.

        Args:
            environment: What ``seanet_jax.environment.rounding`` returns in this process.

        Raises:
            InputError: If ``config.json`` is damaged.
        """
        return rounding_changes(self.read().environment, environment) if exists(self._config) else []

    def open(
        self,
        config: TrainConfig,
        model_config: NetworkConfig,
        images: ImageSpec,
        data_sha256: str | None,
        environment: dict[str, str] | None,
        *,
        step: int,
        history: list[Record],
        converted_from: str | None = None,
        started: str | None = None,
    ) -> str | None:
        """Writes ``config.json``, and rewrites ``metrics.jsonl`` to end at the checkpoint to continue from.

        Args:
            config: The run's configuration.
            model_config: The network's configuration.
            images: Specification of the images and classes.
            data_sha256: SHA-256 of the images and labels; None if the network was trained elsewhere.
            environment: Devices, versions and settings on which the rounding of the numbers depends; None if the
                network was trained elsewhere.
            step: Optimizer steps done. Recorded if the run is resumed.
            history: Records of the epochs up to this step.
            converted_from: Name of the file or folder from which the network was converted. A resumed run keeps it.
            started: When this training begins; see ``seanet_jax.provenance.now``. A resumed run keeps its own.

        Returns:
            When the training of the run began; None if an earlier version began it.

        Raises:
            RunError: If a file cannot be written.
        """
        resumed = []
        if exists(self._config):
            saved = self.read()
            changed = config.differences(saved.config, harmless=True)
            changed += self.environment_changes(environment or {})
            resumed = [*saved.resumed, Resumed(step=step, changed=changed)]
            converted_from = saved.converted_from
            if not saved.is_trained_elsewhere:
                started = saved.started
        about = {
            "version": __version__,
            "config": config.to_json(),
            "model_config": config_to_json(model_config),
            "images": images.to_json(),
            "data_sha256": data_sha256,
            "environment": environment,
            "converted_from": converted_from,
            "resumed": resumed,
            "started": started,
        }
        with self.writing(self._config):
            write_whole(self._config, json_text(about))
            self._saved = None
        with self.writing(self._metrics):
            write_whole(self._metrics, "".join(json_text(record, indent=None) for record in history))
        # The lock keeps other processes from writing these files, so what is unfinished is of a process that died.
        with self.writing(self.path):
            for path in (self._config, self._metrics, self._summary, self.curves):
                for left in leftovers(path):
                    left.unlink()
        return started

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Turns an ``OSError`` raised inside into a ``RunError`` that says what could not be written and why.

        Args:
            path: The file that is written, or its folder.

        Raises:
            RunError: If an ``OSError`` is raised inside.
        """
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{path} could not be written ({error.strerror}); the checkpoints stay, "
                "and --resume continues from the newest once this is fixed"
            ) from error

    def read(self) -> SavedConfig:
        """Returns the contents of ``config.json``. The file is parsed once, and again after the folder is locked.

        Raises:
            InputError: If the folder holds no run, or its ``config.json`` is damaged.
        """
        if self._saved is not None:
            return self._saved
        if not exists(self._config):
            raise InputError(f"{self.path} holds no run: there is no config.json in it")
        self._saved = read_config(self._config)
        return self._saved

    def read_config(self, data_dir: UserPath | None = None) -> TrainConfig:
        """Returns the configuration of the run. Its ``out`` is None, and it resumes nothing.

        Args:
            data_dir: The folder that holds the data set. None takes the folder that the run was trained from, if there
                is one of that name here.

        Raises:
            InputError: If ``read`` fails, or a field has a value that cannot work.
        """
        about = self.read()
        saved = about.config
        if data_dir is None and isinstance(own := saved.get("data_dir"), str):
            with contextlib.suppress(InputError):  # it may be a path of another machine
                data_dir = own if is_folder(user_path(own)) else None
        return TrainConfig.from_json(saved, where=str(self._config), version=about.version, data_dir=data_dir)

    def read_network_config(self) -> NetworkConfig:
        """Returns the configuration of the network.

        Raises:
            InputError: If ``read`` fails, or the network cannot be built by this version and its plugins.
        """
        about = self.read()
        return config_from_json(about.model_config, where=str(self._config), version=about.version)

    def read_images(self) -> ImageSpec:
        """Returns the specification of the run's images and classes.

        Raises:
            InputError: If ``read`` fails, or an early version wrote the file, which did not save the specification.
        """
        images = self.read().images
        if images is None:
            raise InputError(
                f"{self._config} does not say what its images are: an earlier version wrote it; "
                "the command that made the run, with --resume, writes it anew"
            )
        return images

    def read_records(self) -> list[Record]:
        """Returns one record per finished epoch, in order. A loss that was not finite is NaN.

        Raises:
            InputError: If ``metrics.jsonl`` is missing, damaged or cannot be read.
        """
        return read_records(self._metrics)

    def check_records(self) -> None:
        """Checks that a run without checkpoints never had one.

        Raises:
            InputError: If there are records of two epochs or more. The first epoch is saved before the second is
                recorded, so its checkpoint was lost.
        """
        if not exists(self._metrics):
            return
        if len(read_bytes(self._metrics).splitlines()) > 1:
            raise InputError(
                f"--resume: the checkpoints of {self.path} are gone; restore them from a copy, "
                "or start over in another folder with --out"
            )

    def read_summary(self) -> dict[str, Any] | None:
        """Returns the contents of ``summary.json``, or None if it is missing, damaged or of another run.

        The summary of a run that was continued since, and not finished again, is one of another run too.
        """
        return read_summary(self._summary, self._metrics)

    def append(self, record: Record) -> None:
        """Appends a record to ``metrics.jsonl``. The record is on disk when this returns.

        Raises:
            RunError: If the file cannot be written.
        """
        with self.writing(self._metrics):
            append(self._metrics, json_text(record, indent=None))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``.

        Raises:
            RunError: If the file cannot be written.
        """
        with self.writing(self._summary):
            write_whole(self._summary, json_text(summary))
