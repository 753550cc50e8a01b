"""Decoded arrays on disk, so that only the first load of a data set decodes its PNG images."""

import hashlib
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from seanet_jax.data.progress import say

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]

_FORMAT = 1  # part of every fingerprint: a change of what is stored makes old files be rebuilt


def cache_dir() -> Path:
    """The folder of cached arrays: `$XDG_CACHE_HOME/seanet_jax`, by default `~/.cache/seanet_jax`."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored; an unset variable is the empty relative path.
    return (base if base.is_absolute() else Path.home() / ".cache") / "seanet_jax"


def fingerprint(sources: Iterable[Path]) -> str:
    """16 hexadecimal digits that change when a source file is moved, replaced or edited."""
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path in sorted(path.resolve() for path in sources):
        status = path.stat()
        digest.update(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def cached(
    name: str, sources: Iterable[Path], shapes: Shapes, build: Callable[[], Arrays], *, mapped: bool = False
) -> Arrays:
    """Reads arrays from the cache, or builds and stores them.

    A cache that is damaged or cannot be written is no error: one line on stderr tells of it.

    Args:
        name: Name of the data set; there is one cache file per name.
        sources: The files the arrays are made from; they must exist.
        shapes: Shape and NumPy kind (such as "u1", or "U" for text of any length) of every array.
        build: Makes the arrays from the sources.
        mapped: Whether arrays may stay in the cache until they are used, their checksums unchecked.

    Returns:
        The arrays, under the names in `shapes`.
    """
    path = cache_dir() / f"{name}-{fingerprint(sources)}.npz"
    try:
        return _read(path, shapes, mapped)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # zipfile and numpy raise a dozen types for the same fact: the file is damaged
        say(f"The cache {path} cannot be read ({error}); building it anew")
    arrays = build()
    try:
        _write(path, arrays)
        for other in path.parent.glob(f"{name}-*.npz"):
            if other != path:
                other.unlink(missing_ok=True)
    except OSError as error:
        say(f"The decoded images could not be cached in {path.parent} ({error}); the next start will decode them again")
    return arrays


def _read(path: Path, shapes: Shapes, mapped: bool) -> Arrays:
    if mapped:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _map(path, archive, f"{name}.npy") for name in shapes}
    else:
        # Reading a member to its end makes zipfile compare its CRC.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays_in_file:
            arrays = {name: arrays_in_file[name] for name in shapes}
    for name, (shape, kind) in shapes.items():
        array = arrays[name]
        if array.shape != shape or not array.dtype.str[1:].startswith(kind):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {kind} {list(shape)}")
    return arrays


def _map(path: Path, archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """An array of an .npz whose bytes are read when they are used: np.load does not map archives."""
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member} is compressed")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member} has an unknown version")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{member} is no plain array")
    with path.open("rb") as file:
        # A member's own header ends with the lengths of two fields that follow it (PKZIP's APPNOTE, 4.3.7).
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name_length + extra_length + header
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape)


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
