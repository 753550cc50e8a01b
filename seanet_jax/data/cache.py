"""A cache of decoded arrays on disk, so that only the first load of a data set decodes its PNG images."""

import functools
import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seanet_jax.console import print_error
from seanet_jax.durable import file_written_whole
from seanet_jax.errors import InputError
from seanet_jax.paths import home_folder, make_folder

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[tuple[int | None, ...], str]]

# Part of every fingerprint. Increase it when the stored arrays change, so that older files are rebuilt. Files of
# format 1 got their names before they were on disk. After a power cut they may hold zeros, which a mapped array would
# pass on as images, because its checksum is not compared.
_FORMAT = 2


def cache_dir() -> Path | None:
    """Returns the cache folder: `$XDG_CACHE_HOME/seanet_jax`, or `~/.cache/seanet_jax` if that is not set.

    Returns:
        The folder, which need not exist, or None if there is no home folder either.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore relative paths. An unset variable is the empty relative path here.
    if base.is_absolute():
        return base / "seanet_jax"
    home = home_folder()
    return None if home is None else home / ".cache" / "seanet_jax"


def writable_cache_dir() -> Path | None:
    """Returns the cache folder, created if it does not exist.

    Returns:
        The folder, or None if files cannot be stored there. The reason is printed on stderr, once in each process.
    """
    folder = cache_dir()
    try:
        if folder is None:
            raise InputError("there is no home folder; name a folder")
        make_folder(folder)
    except InputError as error:
        _print_once(f"{error} with XDG_CACHE_HOME; until then nothing is cached, and every start takes longer")
        return None
    return folder


@functools.cache
def _print_once(message: str) -> None:
    print_error(message)


def fingerprint(sources: Iterable[Path], key: str = "") -> str:
    """Returns a fingerprint that changes when a source file is moved, replaced or edited.

    It depends on the paths, sizes and modification times of the files. Their content is not read, which saves time.

    Args:
        sources: The source files; they must exist.
        key: Text that the fingerprint depends on too.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{_FORMAT}{key}".encode(errors="surrogateescape"))
    for path in sorted(path.resolve() for path in sources):
        status = path.stat()
        digest.update(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def cached(
    name: str,
    sources: Iterable[Path],
    shapes: Shapes,
    build: Callable[[], Arrays],
    *,
    key: str = "",
    mapped: bool = False,
) -> Arrays:
    """Reads arrays from the cache, or builds them and stores them there.

    A cache that is damaged or cannot be written is not an error. It is reported in one line on stderr.

    Args:
        name: Name of the data set. There is one cache file per name.
        sources: The files that the arrays are built from; they must exist.
        shapes: Shape and NumPy kind of every array by name. A length of None is any length. A kind is, for example,
            "u1", or "U" for text of any length.
        build: Function that builds the arrays from the sources.
        key: What else the arrays depend on, such as settings.
        mapped: Whether to map the arrays into memory instead of reading them. They are then read from disk where they
            are used, and their checksums are not compared.

    Returns:
        The arrays by the names in `shapes`.
    """
    file = f"{name}-{fingerprint(sources, key)}.npz"
    # A cache that cannot be written may still hold what is asked for.
    if (folder := cache_dir()) is not None:
        try:
            return _read(folder / file, shapes, mapped)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass
        except Exception as error:  # for a damaged file, zipfile and numpy raise a dozen types of exception
            print_error(f"The cache {folder / file} cannot be read ({error}); building it again")
    arrays = build()
    if (folder := writable_cache_dir()) is None:
        return arrays
    path = folder / file
    try:
        _write(path, arrays)
        # Files of other fingerprints are out of date and would fill the disk.
        for other in path.parent.glob(f"{name}-*.npz"):
            if other != path:
                other.unlink(missing_ok=True)
    except OSError as error:
        print_error(
            f"The decoded images could not be cached in {path.parent} ({error}); the next start will decode them again"
        )
    return arrays


def _read(path: Path, shapes: Shapes, mapped: bool) -> Arrays:
    if mapped:
        # Opened once: another process may put another file in its place meanwhile.
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {name: _map(file, archive, f"{name}.npy") for name in shapes}
    else:
        # zipfile compares the CRC of a member when that is read to its end, as numpy does here.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays_in_file:
            arrays = {name: arrays_in_file[name] for name in shapes}
    for name, (shape, kind) in shapes.items():
        array = arrays[name]
        if not _is_shape(array.shape, shape) or not array.dtype.str[1:].startswith(kind):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {kind} {list(shape)}")
    return arrays


def _is_shape(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, n) for n, e in zip(shape, expected, strict=True))


def _map(file: BinaryIO, archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Maps an array of an uncompressed .npz into memory, which np.load does not do for archives."""
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member} is compressed")
    with archive.open(member) as content:
        if np.lib.format.read_magic(content) != (1, 0):
            raise ValueError(f"{member} has an unknown version")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(content)
        header = content.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{member} is not a plain array in C order")
    # The 30 bytes of a member's header end with the lengths of the two fields that follow it, its name and extra data
    # (PKZIP's APPNOTE, section 4.3.7). The lengths in the archive's directory can differ from these.
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name_length + extra_length + header
    return np.memmap(file, dtype, mode="r", offset=start, shape=shape)


def _write(path: Path, arrays: Arrays) -> None:
    with file_written_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
