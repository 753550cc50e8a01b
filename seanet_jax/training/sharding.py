"""Devices and how arrays lie on them: the only file that knows how many there are.

A step is one jitted function over a mesh whose single axis, ``data``, splits the batch and the data set; everything
else is replicated. XLA inserts the sums over devices, so a mean over the batch, batch statistics included, is that of
the global batch. The devices may be those of several processes.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from seanet_jax.environment import describe_devices
from seanet_jax.errors import InputError


def make_mesh(*, require_gpu: bool = False) -> Mesh:
    """All devices, of all processes, along one axis named ``data``.

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


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def round_up(count: int, mesh: Mesh) -> int:
    """The next multiple of the devices."""
    return -(-count // mesh.size) * mesh.size


def put(array: np.ndarray, placement: Sharding) -> jax.Array:
    """Sends an array to the devices; each process reads and sends only what its own devices hold.

    Args:
        array: the whole of it, the same in every process.
        placement: on the mesh; it divides the array evenly.
    """
    return jax.make_array_from_callback(array.shape, placement, lambda index: array[index])


def put_split(array: np.ndarray, mesh: Mesh, *, rows: int, fill: int) -> jax.Array:
    """As ``put``, divided along the first axis after that is filled up.

    Args:
        array: ``[N, ...]``.
        mesh: the devices.
        rows: after filling up; a multiple of the devices.
        fill: value of the added rows.
    """

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        found = np.asarray(array[start:stop])
        padding = np.full((stop - start - len(found), *array.shape[1:]), fill, array.dtype)
        return np.concatenate([found, padding]) if len(padding) else found

    return jax.make_array_from_callback((rows, *array.shape[1:]), split_batch(mesh), part)


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Demands that a global batch can be divided among the devices.

    Args:
        mesh: the devices.
        batch_size: images of the global batch.

    Raises:
        InputError: it cannot.
    """
    if batch_size % mesh.size:
        raise InputError(f"batch_size is {batch_size}; it must be a multiple of the {mesh.size} devices")
