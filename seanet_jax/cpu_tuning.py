"""Environment of a process that trains on a CPU, for scripts: importing this package never changes a process.

A step's intermediate maps are gigabytes. By default glibc's malloc gives them back to the kernel after every step and
has every page of them mapped and cleared again in the next; ``MALLOC`` makes it keep them, and ask for huge pages. It
reads its settings once, when a process starts. What they buy is measured in docs/performance.md.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

MALLOC = {
    "glibc.malloc.hugetlb": 1,  # madvise(MADV_HUGEPAGE)
    "glibc.malloc.mmap_max": 0,  # large blocks come from the heap as well,
    "glibc.malloc.trim_threshold": 2**63 - 1,  # which never shrinks
    "glibc.malloc.top_pad": 2**28,  # and grows in large strides
    "glibc.malloc.arena_max": 1,
}


def tuned_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, in addition to an environment, before a process starts.

    Args:
        environment: as it is; settings of malloc in it are the user's and stay.

    Returns:
        Variables and values; empty if there is nothing to tune: JAX will not run on the CPU alone, the C library is not
        glibc, or malloc is tuned already.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if not _on_cpu(environment) or platform.libc_ver()[0] != "glibc" or "glibc.malloc." in tunables:
        return {}
    ours = ":".join(f"{name}={value}" for name, value in MALLOC.items())
    return {"GLIBC_TUNABLES": f"{tunables}:{ours}" if tunables else ours}


def _on_cpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will use nothing but the CPU; without starting JAX, which may only be done once all is set up."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    # GPUs and TPUs come as plugins.
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))


def restart_tuned() -> None:
    """Starts this program again in the tuned environment, in the same process; returns if there is nothing to tune."""
    if variables := tuned_environment(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)
