"""What a run's numbers and speed depend on besides its config: devices, versions, settings of the process."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

import jax

# They change how fast a run is, and XLA's also how it rounds.
_REPORTED_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS")


_REPORTED_PACKAGES = ("seanet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def process_settings(compiler_options: Mapping[str, str]) -> dict[str, str]:
    """The environment variables among those reported that are set, and the options a run compiles with."""
    return {name: os.environ[name] for name in _REPORTED_VARIABLES if os.environ.get(name)} | dict(compiler_options)


def versions() -> dict[str, str]:
    """Of Python and the packages that decide about a run's numbers."""
    packages = {name: importlib.metadata.version(name) for name in _REPORTED_PACKAGES}
    return {"python": platform.python_version()} | packages


def describe_devices() -> str:
    """The devices JAX really uses, for example ``1 x cpu (2 cores)`` or ``8 x NVIDIA H100, of 2 processes``."""
    devices = jax.devices()
    cores = f" ({os.cpu_count()} cores)" if devices[0].platform == "cpu" else ""
    processes = f", of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{cores}{processes}"
