"""Devices and how arrays lie on them: the only file that knows how many there are.

A step is one jitted function over a mesh whose single axis, ``data``, splits the batch; everything else is replicated.
XLA inserts the sums over devices, so a mean over the batch, batch statistics included, is that of the global batch.
"""

import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seanet_jax.errors import InputError


def make_mesh(*, require_gpu: bool = False) -> Mesh:
    """All devices along one axis named ``data``.

    Args:
        require_gpu: fail when JAX's default device is no GPU.

    Raises:
        InputError: a GPU is required and there is none.
    """
    devices = jax.devices()
    if require_gpu and devices[0].platform != "gpu":
        raise InputError(
            f"--require-gpu: JAX finds no GPU, only {describe_devices()}; "
            "install the CUDA build (pip install 'seanet-jax[cuda]') or leave the flag out"
        )
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def describe_devices() -> str:
    """The devices JAX really uses, for example ``1 x cpu (2 cores)`` or ``4 x NVIDIA H100``."""
    devices = jax.devices()
    cores = f" ({os.cpu_count()} cores)" if devices[0].platform == "cpu" else ""
    return f"{len(devices)} x {devices[0].device_kind}{cores}"


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_divisible(mesh: Mesh, name: str, batch_size: int) -> None:
    """Demands that a global batch can be divided among the devices.

    Args:
        mesh: the devices.
        name: of the config's field, for the message.
        batch_size: images of the global batch.

    Raises:
        InputError: it cannot.
    """
    if batch_size % mesh.size:
        raise InputError(f"{name} is {batch_size}; it must be a multiple of the {mesh.size} devices")
