"""Settings that make training on a CPU faster.

Only commands apply them; importing the package never changes a process. docs/performance.md measures what they gain.

``MALLOC`` tunes glibc's malloc. The feature maps of a step take gigabytes, which malloc returns to the kernel after
every step, so that the kernel maps and clears their pages again in the next. With huge pages there are 512 times fewer
pages. malloc reads its settings once, when a process starts.

``XLA`` computes sums over many numbers, such as batch statistics, by a library that is faster than XLA's own code. The
library rounds differently.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

MALLOC = {"glibc.malloc.hugetlb": "1"}  # madvise(MADV_HUGEPAGE)
XLA = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def restart_tuned() -> None:
    """Replaces this process by the same program in the tuned environment. Returns if there is nothing to tune."""
    if variables := tuned_environment(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def tuned_environment(environment: Mapping[str, str], malloc: Mapping[str, str] = MALLOC) -> dict[str, str]:
    """Returns the environment variables to add before a process starts.

    Args:
        environment: The present environment. If it tunes malloc already, the user's settings are kept.
        malloc: Tunables of malloc and their values.

    Returns:
        GLIBC_TUNABLES, or nothing if malloc is tuned already, the C library is not glibc, or JAX will use more than the
        CPU.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if not _on_cpu(environment) or platform.libc_ver()[0] != "glibc" or "glibc.malloc." in tunables:
        return {}
    ours = ":".join(f"{name}={value}" for name, value in malloc.items())
    return {"GLIBC_TUNABLES": f"{tunables}:{ours}" if tunables else ours}


def compiler_options(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the options to compile with. This starts JAX.

    Args:
        environment: Environment of this process. An option that its XLA_FLAGS set is left to the user.

    Returns:
        ``XLA``, or nothing if this version of XLA does not know the option or JAX uses more than the CPU.
    """
    import jax

    options = {name: value for name, value in XLA.items() if name not in environment.get("XLA_FLAGS", "")}
    if not options or not _on_cpu(environment):
        return {}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict[str, str | bool](options))
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def _on_cpu(environment: Mapping[str, str]) -> bool:
    """Returns whether JAX will use the CPU alone. This does not start JAX, which reads its settings only once."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    # JAX supports GPUs and TPUs by plugins, which are packages.
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
