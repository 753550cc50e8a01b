"""Names the kind of this machine's processor, by the vector instructions that decide how fast networks train on it."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

# The fastest first. Each is a flag of /proc/cpuinfo, and the kind of a processor that has it.
_KINDS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def kind(cpuinfo: str | None = None) -> str:
    """Returns the kind of a processor, for example "AVX2"; that of its architecture if it has none of the instructions.

    Args:
        cpuinfo: Contents of ``/proc/cpuinfo``; None reads this machine's.
    """
    flags = set(_values("flags", cpuinfo)[0].split())
    return next((name for flag, name in _KINDS.items() if flag in flags), platform.machine())


def describe(cpuinfo: str | None = None) -> str:
    """Describes the machine and the software in one line.

    Args:
        cpuinfo: Contents of ``/proc/cpuinfo``; None reads this machine's.
    """
    model = _values("model name", cpuinfo)[0]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "torch"))
    return f"{os.cpu_count()} cores of {model}, {kind(cpuinfo)}, Python {platform.python_version()}, {versions}"


def _values(name: str, cpuinfo: str | None) -> list[str]:
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    return re.findall(rf"^{name}\s*: (.+)$", text, re.M) or [""]
