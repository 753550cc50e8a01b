"""Lets operations run on sharded arrays, inside ``jax.shard_map`` and on meshes with explicit axes.

JAX's own operations do so by themselves. These functions are for operations that define their own gradient, or that
merge the batch axis with others.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Casts arrays so that all of them vary over the same manual axes of a mesh.

    Inside ``jax.shard_map``, JAX casts the operands of its own operations. A function that defines its own gradient
    (``jax.custom_vjp``) must do it itself, because the gradient of an array has to vary over the array's own axes.
    The gradient of the cast is a sum over devices.

    Args:
        *arrays: The operands of one operation. Outside ``jax.shard_map`` they are returned unchanged.
    """
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union: frozenset[str] = frozenset().union(*varying)
    # Sorted, so that all processes compile the same program.
    missing = [tuple(sorted(union - own)) for own in varying]
    return tuple(lax.pcast(array, axes, to="varying") for array, axes in zip(arrays, missing, strict=True))


def has_explicit_axes(*arrays: jax.Array) -> bool:
    """Returns whether an array is on a mesh with explicit axes, on which an array's sharding is a part of its type.

    Args:
        *arrays: The operands of one operation.
    """
    return any(jax.typeof(array).sharding.mesh.explicit_axes for array in arrays)


def partition_automatically(function: Callable[..., Any], *arrays: jax.Array, result: PartitionSpec) -> Any:
    """Calls a function on a mesh with explicit axes, and leaves the sharding of all steps in it to XLA.

    Under explicit axes, JAX refuses steps whose result could be sharded in several ways, such as a reshape that merges
    the sharded axis with others.

    Args:
        function: The function. Inside, the mesh has no explicit axes.
        *arrays: The function's arguments, one of them on a mesh with explicit axes.
        result: Sharding of the function's result on that mesh, or of each of its results.
    """
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    mesh = next(mesh for mesh in meshes if mesh.explicit_axes)
    return jax.sharding.auto_axes(function, out_sharding=NamedSharding(mesh, result))(*arrays)


def keeps_batch_sharding(function: AnyFunction) -> AnyFunction:
    """Makes a function of a batch run on meshes with explicit axes, and shards its results as the batch is.

    Args:
        function: A function of a random key and of arrays whose first axis is the batch. It returns such arrays. Its
            other arguments are keyword arguments.

    Returns:
        The function. On other meshes it is unchanged. On a mesh with explicit axes, XLA chooses the sharding of all
        steps in it, and its results are sharded along the first axis, as the first array is.
    """

    @functools.wraps(function)
    def wrapped(key: jax.Array, batch: jax.Array, *others: jax.Array, **options: Any) -> Any:
        if not has_explicit_axes(batch):
            return function(key, batch, *others, **options)
        along_batch = PartitionSpec(*jax.typeof(batch).sharding.spec[:1])
        return partition_automatically(functools.partial(function, **options), key, batch, *others, result=along_batch)

    return wrapped  # type: ignore[return-value]
