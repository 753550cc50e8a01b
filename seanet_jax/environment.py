"""The devices, package versions and process settings on which the numbers and speed of a run depend."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

import jax

# Both change the speed of a run. XLA_FLAGS can also change how results are rounded.
_REPORTED_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS")

_REPORTED_PACKAGES = ("seanet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def process_settings(compiler_options: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables that change a run's speed or numbers, and its compiler options.

    Args:
        compiler_options: XLA options with which the run is compiled.

    Returns:
        The values by name. Variables that are unset or empty are left out.
    """
    return {name: os.environ[name] for name in _REPORTED_VARIABLES if os.environ.get(name)} | dict(compiler_options)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages on which the numbers of a run depend."""
    packages = {name: importlib.metadata.version(name) for name in _REPORTED_PACKAGES}
    return {"python": platform.python_version()} | packages


def describe_devices() -> str:
    """Describes the devices JAX uses, for example ``1 x cpu (2 cores)`` or ``8 x NVIDIA H100, of 2 processes``."""
    devices = jax.devices()
    cores = f" ({os.cpu_count()} cores)" if devices[0].platform == "cpu" else ""
    processes = f", of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{cores}{processes}"
