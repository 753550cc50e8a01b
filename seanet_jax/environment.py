"""The devices, package versions and process settings on which the numbers and speed of a run depend."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping

import jax

from seanet_jax import jax_settings
from seanet_jax.errors import InputError
from seanet_jax.printable import printable
from seanet_jax.version import __version__

# GLIBC_TUNABLES changes the speed of a run. The others also change how results are rounded.
_REPORTED_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")

_REPORTED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def start_devices() -> None:
    """Starts JAX's devices. Called before anything that needs them, so that one sentence says why they cannot be used.

    Raises:
        InputError: If JAX finds no device, for example because JAX_PLATFORMS is cuda on a machine without CUDA.
    """
    try:
        jax.devices()
    except Exception as error:  # RuntimeError or AssertionError, depending on the platform
        asked = jax.config.values["jax_platforms"]
        reason = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise InputError(
            (f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device here" if asked else "JAX finds no device")
            + (f" ({reason})" if reason else "")
            + "; install JAX's build for it (for CUDA: pip install 'jax[cuda13]'), or set JAX_PLATFORMS to cpu"
        ) from error


def process_settings(compiler_options: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables, JAX settings and compiler options that change a run's speed or numbers.

    Args:
        compiler_options: XLA options with which the run is compiled.

    Returns:
        The values by name. Variables that are unset or empty are left out, as are settings with JAX's default value.
    """
    variables = {name: os.environ[name] for name in _REPORTED_VARIABLES if os.environ.get(name)}
    return variables | jax_settings.recorded() | dict(compiler_options)


def rounding(compiler_options: Mapping[str, str]) -> dict[str, str]:
    """Returns everything outside a run's configuration on which the rounding of its numbers depends, by name.

    Args:
        compiler_options: XLA options with which the run is compiled.
    """
    settings = process_settings(compiler_options)
    settings.pop("GLIBC_TUNABLES", None)
    return settings | {"device": describe_devices()} | versions()


def rounding_changes(saved: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Lists the differences between two results of ``rounding``, in lines such as ``jax: 0.10.2 was saved, ...``.

    Args:
        saved: The earlier result; None if the run was made by a version that recorded none, or was trained elsewhere.
            JAX's settings then count as the defaults, and nothing else is compared.
        now: The present result.
    """
    if saved is None:
        saved, now = {}, {name: value for name, value in now.items() if jax_settings.is_recorded(name)}
    return [
        printable(f"{name}: {saved.get(name, 'unset')} was saved, {now.get(name, 'unset')} is in use")
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages on which the numbers of a run depend.

    A package without metadata, such as one whose folder was copied, is left out.
    """
    # Not the metadata of this package: a folder that was copied has none, or those of another version.
    found = {"python": platform.python_version(), "seanet-jax": __version__}
    for name in _REPORTED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_devices() -> str:
    """Describes the devices JAX uses, for example ``1 x cpu (2 cores)`` or ``8 x NVIDIA H100, of 2 processes``."""
    devices = jax.devices()
    cores = f" ({os.cpu_count()} cores)" if devices[0].platform == "cpu" else ""
    processes = f", of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{cores}{processes}"
