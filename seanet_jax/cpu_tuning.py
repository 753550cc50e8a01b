"""Environment of a process that trains on a CPU, for scripts: importing this package never changes a process.

A step's intermediate maps are gigabytes. By default glibc's malloc gives them back to the kernel after every step and
has every page of them mapped and cleared again in the next; ``MALLOC`` makes it keep them, and ask for huge pages. It
reads its settings once, when a process starts. ``XLA`` gives sums over many numbers, such as batch statistics, to a
library that is faster at them than XLA's own code; they are rounded differently. What both buy is measured in
docs/performance.md.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

import jax

MALLOC = {
    "glibc.malloc.hugetlb": 1,  # madvise(MADV_HUGEPAGE)
    "glibc.malloc.mmap_max": 0,  # large blocks come from the heap as well,
    "glibc.malloc.trim_threshold": 2**63 - 1,  # which never shrinks
    "glibc.malloc.top_pad": 2**28,  # and grows in large strides
}
XLA = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def tuned_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, in addition to an environment, before a process starts.

    Args:
        environment: as it is; what it sets of malloc, or of XLA's option, is the user's and stays.

    Returns:
        Variables and values: GLIBC_TUNABLES where the C library is glibc, XLA_FLAGS where XLA knows the option. Empty
        if there is nothing left to tune, or JAX will not run on the CPU alone.
    """
    if not _on_cpu(environment):
        return {}
    tuned = {}
    tunables = environment.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and "glibc.malloc." not in tunables:
        ours = ":".join(f"{name}={value}" for name, value in MALLOC.items())
        tuned["GLIBC_TUNABLES"] = f"{tunables}:{ours}" if tunables else ours
    flags = environment.get("XLA_FLAGS", "")
    if not any(option in flags for option in XLA) and _xla_knows(XLA):
        tuned["XLA_FLAGS"] = " ".join(filter(None, [flags, *(f"--{name}={value}" for name, value in XLA.items())]))
    return tuned


def _xla_knows(options: Mapping[str, str]) -> bool:
    """Whether this version of XLA has the options: in XLA_FLAGS it ends the process over one that it does not know."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True


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
