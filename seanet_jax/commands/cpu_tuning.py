"""What makes training on a CPU faster, for the experiments: importing this package never changes a process.

A step's intermediate maps are gigabytes. glibc's malloc gives them back to the kernel after every step and has their
pages mapped and cleared again in the next; ``MALLOC`` makes it ask for huge pages, of which there are 512 times fewer.
It reads its settings once, when a process starts. ``XLA`` gives sums over many numbers, such as batch statistics, to a
library that is faster at them than XLA's own code; they are rounded differently. What both buy is measured in
docs/performance.md.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

MALLOC = {"glibc.malloc.hugetlb": "1"}  # madvise(MADV_HUGEPAGE)
XLA = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def restart_tuned() -> None:
    """Starts this program again in the tuned environment, in the same process; returns if there is nothing to tune."""
    if variables := tuned_environment(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def tuned_environment(environment: Mapping[str, str], malloc: Mapping[str, str] = MALLOC) -> dict[str, str]:
    """The variables to set, in addition to an environment, before a process starts.

    Args:
        environment: as it is; where it tunes malloc already, that is the user's and stays.
        malloc: tunables and their values.

    Returns:
        GLIBC_TUNABLES. Nothing if there is nothing left to tune, the C library is not glibc, or JAX will not run on the
        CPU alone.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if not _on_cpu(environment) or platform.libc_ver()[0] != "glibc" or "glibc.malloc." in tunables:
        return {}
    ours = ":".join(f"{name}={value}" for name, value in malloc.items())
    return {"GLIBC_TUNABLES": f"{tunables}:{ours}" if tunables else ours}


def compiler_options(environment: Mapping[str, str]) -> dict[str, str]:
    """The options of XLA to compile with; starts JAX.

    Args:
        environment: of this process; an option that its XLA_FLAGS set is the user's and stays.

    Returns:
        ``XLA``; nothing where this version of XLA does not know it, or JAX does not run on the CPU alone.
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
    """Whether JAX will use nothing but the CPU; without starting JAX, which may only be done once all is set up."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    # GPUs and TPUs come as plugins.
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
