"""The settings of JAX on which the numbers of a run depend: those that are fixed and those that are recorded.

A process sets them by environment variables such as ``JAX_ENABLE_X64=1``, by ``jax.config.update``, or by contexts such
as ``jax.enable_x64``. The rest of JAX's settings change how fast a program is, how much memory it takes, or what JAX
checks and logs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

# The generator that turns a run's seed into its initial parameters, orders and augmentations.
PRNG_IMPLEMENTATION = "threefry2x32"

# The settings under which every run trains: for each, JAX's context that sets it, and the value. From the same seed,
# other values of the first three draw other numbers. The fourth rounds gradients differently. Under other values of the
# rest, the code of optax, Flax and other packages' networks may raise an error.
_FIXED: Mapping[str, tuple[Callable[[Any], AbstractContextManager[Any]], Any]] = {
    "jax_enable_x64": (jax.enable_x64, False),
    "jax_default_prng_impl": (jax.default_prng_impl, PRNG_IMPLEMENTATION),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
    "jax_softmax_custom_jvp": (jax.softmax_custom_jvp, False),
    "jax_disable_jit": (jax.disable_jit, False),
    "jax_numpy_dtype_promotion": (jax.numpy_dtype_promotion, "standard"),
    "jax_numpy_rank_promotion": (jax.numpy_rank_promotion, "allow"),
    "jax_transfer_guard": (jax.transfer_guard, "allow"),
}

# The settings that change how results are rounded, with JAX's defaults. They trade precision or speed, so the choice
# stays the user's. Not every version of JAX has all of them.
_RECORDED: Mapping[str, Any] = {
    "jax_default_matmul_precision": None,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_memory_fitting_effort": 0.0,
    "jax_compiler_enable_remat_pass": True,
    "jax_use_direct_linearize": True,
    "jax_use_hlo_logistic_lowering": None,
    "jax_accurate_erf_inv": False,
    # Checks of values become part of the compiled program.
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Sets JAX, in this thread, as it is set for every run. The process's own settings return afterwards.

    It can be entered by ``with``, or decorate a function: ``@fixed()``.
    """
    with contextlib.ExitStack() as stack:
        for set_to, value in _FIXED.values():
            stack.enter_context(set_to(value))
        yield


def overruled() -> dict[str, tuple[Any, Any]]:
    """Returns the process's settings that ``fixed`` replaces by others, as pairs of the process's and the run's value.

    A setting that is None follows JAX's default and is left out.
    """
    found = {name: (jax.config.values[name], value) for name, (_, value) in _FIXED.items()}
    return {name: pair for name, pair in found.items() if pair[0] not in (None, pair[1])}


def recorded() -> dict[str, str]:
    """Returns the settings that change how results are rounded, where they differ from JAX's defaults."""
    found = {name: jax.config.values.get(name, default) for name, default in _RECORDED.items()}
    return {name: str(value) for name, value in found.items() if value != _RECORDED[name]}


def is_recorded(name: str) -> bool:
    """Returns whether a name is that of a setting which ``recorded`` may return."""
    return name in _RECORDED


def key_from_seed(seed: int) -> jax.Array:
    """Returns the random key that ``jax.random.key(seed)`` returns where JAX has its default settings.

    ``jax.random.key`` itself follows ``jax_default_prng_impl`` and ``jax_random_seed_offset``.

    Args:
        seed: An integer from 0 to 2**32 - 1.
    """
    return jax.random.wrap_key_data(jax.numpy.array([0, seed], "uint32"), impl=PRNG_IMPLEMENTATION)
