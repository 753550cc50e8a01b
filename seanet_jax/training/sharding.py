"""The device mesh and the shardings of arrays on it. No other file depends on the number of devices.

A step is one jitted function over a mesh with a single axis, ``data``. The batch and the data set are sharded along it;
everything else is replicated. XLA inserts the sums over devices, so every mean over the batch, including batch
statistics, is a mean over the global batch. The devices may belong to several processes.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from seanet_jax.environment import describe_devices
from seanet_jax.errors import InputError


def make_mesh(*, require_gpu: bool = False) -> Mesh:
    """Returns a mesh of all devices of all processes, along one axis named ``data``.

    Args:
        require_gpu: Whether to fail if JAX's default device is not a GPU.

    Raises:
        InputError: If a GPU is required and there is none.
    """
    devices = jax.devices()
    if require_gpu and devices[0].platform != "gpu":
        raise InputError(
            f"--require-gpu: JAX finds no GPU, only {describe_devices()}; "
            "install JAX's CUDA build (pip install 'jax[cuda13]') or leave the flag out"
        )
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which the first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def round_up(count: int, mesh: Mesh) -> int:
    """Rounds a count up to a multiple of the number of devices."""
    return -(-count // mesh.size) * mesh.size


def place(array: np.ndarray, placement: Sharding) -> jax.Array:
    """Sends an array to the devices. Each process reads and sends only the parts that its own devices hold.

    Args:
        array: The whole array, the same in every process.
        placement: Sharding on the mesh. It must divide the array evenly.
    """
    return jax.make_array_from_callback(array.shape, placement, lambda index: array[index])


def pad_and_shard(array: np.ndarray, mesh: Mesh, *, rows: int, fill: int) -> jax.Array:
    """Pads the first axis to ``rows``, then shards it across the devices.

    Each process reads and sends only the rows that its own devices hold.

    Args:
        array: The whole array, ``[N, ...]``, the same in every process.
        mesh: The device mesh.
        rows: Length of the first axis after padding, a multiple of the number of devices.
        fill: Value of the added rows.
    """

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        found = np.asarray(array[start:stop])
        padding = np.full((stop - start - len(found), *array.shape[1:]), fill, array.dtype)
        return np.concatenate([found, padding]) if len(padding) else found

    return jax.make_array_from_callback((rows, *array.shape[1:]), batch_sharding(mesh), part)


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Checks that the devices divide the global batch evenly.

    Args:
        mesh: The device mesh.
        batch_size: Number of images in the global batch.

    Raises:
        InputError: If they do not.
    """
    if batch_size % mesh.size:
        raise InputError(f"batch_size is {batch_size}; it must be a multiple of the {mesh.size} devices")
