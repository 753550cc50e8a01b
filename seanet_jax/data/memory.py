"""How much memory is free, for refusing data that would not fit before they are read."""

import os
from pathlib import Path

_PROC = Path("/proc/meminfo")
# The limit of a container, in bytes, or "max" if there is none (cgroup v2).
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int:
    """Returns the bytes of memory that this process can still use, without swapping.

    The kernel's estimate counts its file caches as free. Where it gives none, as on macOS, the whole memory of the
    machine is returned. The limit of a container holds if it is lower.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read(_PROC).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    if (limit := _read(_CGROUP).strip()).isdecimal():
        found.append(int(limit))
    return min(found)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
