"""How much memory is free, for refusing data that would not fit before they are read."""

import math
import os
from pathlib import Path

from seanet_jax.errors import InputError

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


def check_images_fit(count: int, height: int, width: int, channels: int) -> None:
    """Checks that the images of a data set fit into memory.

    Args:
        count: Number of images.
        height: Height in pixels.
        width: Width in pixels.
        channels: Number of channels, of a byte each.

    Raises:
        InputError: If they do not fit. The message says how many bytes they take, and what size would fit.
    """
    # A data set is in memory twice while it is sent to the devices, which may be the same memory.
    needed, available = 2 * count * height * width * channels, available_memory()
    if needed > available:
        fitting = math.isqrt(available // (2 * count * channels))
        raise InputError(
            f"{count:,} images of {height} x {width} pixels need {needed:,} bytes of memory, half of it on the "
            f"devices, but {available:,} are free; choose an --image-size of at most {fitting}, or fewer images"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
