"""Settings that make training on a CPU faster.

Only commands apply them; importing the package never changes a process. docs/performance.md measures what they gain.

``MALLOC`` tunes glibc's malloc. The feature maps of a step take gigabytes, which malloc returns to the kernel after
every step, so that the kernel maps and clears their pages again in the next. With huge pages there are 512 times fewer
pages. malloc reads its settings once, when a process starts.

``XLA`` computes sums over many numbers, such as batch statistics, by a library that is faster than XLA's own code. The
library rounds differently.
"""

import contextlib
import importlib.util
import os
import platform
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from seanet_jax import console
from seanet_jax.paths import is_file

MALLOC = {"glibc.malloc.hugetlb": "1"}  # madvise(MADV_HUGEPAGE)
XLA = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def restart_tuned() -> None:
    """Replaces this process by the same program in the tuned environment.

    Returns if there is nothing to tune. If starting the program again would lose something, a line on stderr says what
    to set instead; see ``can_restart``.
    """
    variables = tuned_environment(os.environ)
    if not variables:
        return
    if can_restart():
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)
    settings = " ".join(f"{name}={value}" for name, value in variables.items())
    print(f"malloc is not tuned; training is faster if Python starts with {settings}", file=console.stderr, flush=True)


def can_restart() -> bool:
    """Whether this process runs nothing but a command, so that starting the same program again loses nothing.

    False if Python reads the program from a pipe, which is empty by now; at a prompt or in a notebook, where a user has
    variables; and if another program runs the command, for example by ``runpy``, under a profiler, in a thread, in a
    process of ``multiprocessing``, or with arguments that it has changed.
    """
    arguments = sys.argv[1:]
    if hasattr(sys, "ps1") or sys.flags.interactive or sys.flags.inspect or not sys.executable:
        return False
    if arguments != sys.orig_argv[len(sys.orig_argv) - len(arguments) :]:
        return False
    # From here outwards, the stack must hold this package, then the program that Python was started with, and no more.
    main = vars(sys.modules["__main__"])
    program = main.get("__file__", "<string>")  # Python's name for the code of -c
    if program != "<string>" and not is_file(Path(program)):  # a pipe, as in: python <(cat program.py)
        return False
    frame: types.FrameType | None = sys._getframe()
    while frame and frame.f_globals is not main and _is_ours(frame):
        frame = frame.f_back
    if frame is None or frame.f_globals is not main:
        return False
    while frame and frame.f_globals is main and frame.f_code.co_filename == program:
        frame = frame.f_back
    while frame and frame.f_code.co_filename == "<frozen runpy>":  # python -m
        frame = frame.f_back
    return frame is None


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_globals["__name__"].partition(".")[0] == "seanet_jax"


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
