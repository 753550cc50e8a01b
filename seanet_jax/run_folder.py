"""The files of a run, other than its checkpoints: what is in them and when they may be written.

    config.json     the run's config and the network's
    metrics.jsonl   one record per epoch
    summary.json    last and best epoch, parameters, seed, versions, device, environment
    curves.png      drawn by seanet_jax.report
    tensorboard/    likewise
    checkpoints/    written by seanet_jax.checkpoint

Accuracies are fractions, losses nats, times seconds.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seanet_jax import parallel
from seanet_jax.config import TrainConfig
from seanet_jax.errors import InputError
from seanet_jax.models import SEANetConfig

Record = dict[str, Any]

# They change how fast a run is, and XLA's also how it rounds.
_REPORTED_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS")
_REPORTED_PACKAGES = ("seanet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def process_settings(compiler_options: Mapping[str, str]) -> dict[str, str]:
    """The environment variables among those reported that are set, and the options a run compiles with."""
    return {name: os.environ[name] for name in _REPORTED_VARIABLES if os.environ.get(name)} | dict(compiler_options)


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
            saved, _ = self.read_config()
            if differences := config.differences(saved):
                raise InputError(
                    f"--resume: {self.path} holds another run ({'; '.join(differences)}); "
                    "give the saved values, or name another folder with --out"
                )
        elif self._config.exists():
            raise InputError(f"{self.path} holds a run already; --resume continues it, --out names another folder")
        elif self.path.exists() and any(self.path.iterdir()):
            raise InputError(f"--out: {self.path} is not empty and not a run; name a new or empty folder")

    def open(self, config: TrainConfig, model_config: SEANetConfig, history: list[Record]) -> None:
        """Creates the folder, or makes its records those that led to the checkpoint a run continues from.

        Args:
            config: of the run.
            model_config: of its network.
            history: records of the epochs before the checkpoint.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            both = {"config": config.to_json(), "model_config": dataclasses.asdict(model_config)}
            _write(self._config, json.dumps(both, indent=2) + "\n")
            _write(self._metrics, "".join(json.dumps(record) + "\n" for record in history))
        except OSError as error:
            raise InputError(f"--out: {self.path} cannot be written ({error.strerror}); name another folder") from None

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the run's config and of its network's, as JSON values.

        Raises:
            InputError: the folder holds no run, or its config.json is damaged.
        """
        if not self._config.exists():
            raise InputError(f"{self.path} holds no run: there is no config.json in it")
        try:
            both = json.loads(self._config.read_text())
            return dict(both["config"]), dict(both["model_config"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self._config} is damaged; restore it, or start over in another folder") from None

    def read_summary(self) -> dict[str, Any]:
        """The contents of summary.json, as last written.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            return dict(json.loads(self._summary.read_text()))
        except (OSError, ValueError):
            raise InputError(
                f"{self._summary} is missing or damaged; the run's records are in {self._metrics}"
            ) from None

    def append(self, record: Record) -> None:
        """Adds a record to metrics.jsonl; on disk when this returns."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_summary(self, values: dict[str, Any]) -> dict[str, Any]:
        """Writes summary.json: the values, versions and device.

        Returns:
            What was written.
        """
        versions = {name: importlib.metadata.version(name) for name in _REPORTED_PACKAGES}
        summary = values | {
            "device": parallel.describe_devices(),
            "versions": {"python": platform.python_version()} | versions,
        }
        _write(self._summary, json.dumps(summary, indent=2) + "\n")
        return summary


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
