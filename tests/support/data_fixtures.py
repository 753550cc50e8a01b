"""Small random copies of CIFAR in every form in which it is distributed."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import pickle
import shutil
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seanet_jax.data import original, tfds
from seanet_jax.data.original import CifarSpec, Layout, Original, Split

TRAIN, TEST = 20, 10  # divisible by the five training files of CIFAR-10


def tiny(spec: CifarSpec) -> CifarSpec:
    """Returns the same data set with few images, and the URL of a host that never answers."""
    return dataclasses.replace(spec, train_count=TRAIN, test_count=TEST, url="http://127.0.0.1:9/nothing.tar.gz")


def make_original(spec: CifarSpec, seed: int = 0) -> Original:
    """Returns random images and labels, and numbered class names."""
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = {
            key: rng.integers(0, classes, count, np.int32)
            for key, classes in zip(spec.label_keys, spec.label_counts, strict=True)
        }
        return Split(images, labels)

    names = {
        key: tuple(f"{key}_{i}" for i in range(count))
        for key, count in zip(spec.label_keys, spec.label_counts, strict=True)
    }
    return Original(split(spec.train_count), split(spec.test_count), names)


def _parts(layout: Layout, content: Original) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Yields the name, pixel rows [n, 3072] and labels of every file of images."""
    for files, split in ((layout.train_files, content.train), (layout.test_files, content.test)):
        rows = split.images.transpose(0, 3, 1, 2).reshape(len(split.images), -1)
        for name, index in zip(files, np.split(np.arange(len(rows)), len(files)), strict=True):
            yield name, rows[index], {key: values[index] for key, values in split.labels.items()}


def write_binary(spec: CifarSpec, content: Original, folder: Path) -> Path:
    """Writes binary records and text files of class names."""
    folder.mkdir(parents=True)
    for name, rows, labels in _parts(spec.binary, content):
        columns = [labels[key].astype(np.uint8)[:, None] for key in spec.label_keys]
        (folder / name).write_bytes(np.concatenate([*columns, rows], axis=1).tobytes())
    for name, key in zip(spec.binary.name_files, spec.label_keys, strict=True):
        (folder / name).write_text("\n".join(content.names[key]) + "\n\n")
    return folder


def write_python(spec: CifarSpec, content: Original, folder: Path, protocol: int | None = None) -> Path:
    """Writes pickles in a protocol of Python 3. If the protocol is None, they have the bytes that Python 2 wrote."""
    folder.mkdir(parents=True)

    def write(name: str, value: dict) -> None:
        data = python2_pickle(value) if protocol is None else pickle.dumps(value, protocol)
        (folder / name).write_bytes(data)

    layout = spec.python
    for name, rows, labels in _parts(layout, content):
        kinds = {stored: labels[key].tolist() for key, stored in zip(spec.label_keys, layout.label_keys, strict=True)}
        write(name, {"batch_label": name, "data": rows, **kinds})
    (meta,) = layout.name_files
    write(
        meta, {stored: list(content.names[key]) for key, stored in zip(spec.label_keys, layout.name_keys, strict=True)}
    )
    return folder


def python2_pickle(value: object) -> bytes:
    """Pickles in protocol 2 as Python 2 and an old NumPy did, with byte strings and the old name of NumPy's module."""

    def encode(value: object) -> bytes:
        match value:
            case dict():
                items = b"".join(encode(key) + encode(item) for key, item in value.items())
                return b"}(" + items + b"u"
            case list():
                return b"](" + b"".join(map(encode, value)) + b"e"
            case int():
                return b"J" + struct.pack("<i", value)
            case str():
                return encode(value.encode("latin1"))
            case bytes():
                return b"T" + struct.pack("<i", len(value)) + value
            case np.ndarray():
                shape = b"(" + b"".join(encode(side) for side in value.shape) + b"t"
                dtype = b"cnumpy\ndtype\n" + encode("u1") + b"K\x00K\x01\x87R(K\x03" + encode("|") + b"NNN"
                dtype += encode(-1) + encode(-1) + b"K\x00tb"
                empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + encode("b") + b"\x87R"
                return empty + b"(K\x01" + shape + dtype + b"\x89" + encode(value.tobytes()) + b"tb"
        raise TypeError(type(value))

    return b"\x80\x02" + encode(value) + b"."


def write_archive(folder: Path, archive: Path) -> Path:
    """Packs a folder into an archive, under its own name."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive


_WRITERS = {
    "binary": write_binary,
    "python 2": write_python,
    **{
        f"python 3, protocol {p}": lambda spec, content, folder, p=p: write_python(spec, content, folder, p)
        for p in (0, 2, 4, 5)
    },
}
FORMS = tuple(_WRITERS)
"""The forms in which `write` writes the original files."""


def write(spec: CifarSpec, form: str, data_dir: Path, place: str = "folder") -> Path:
    """Writes the original files of `make_original(spec)`.

    Args:
        spec: The data set.
        form: One of `FORMS`.
        data_dir: The data folder. It is created if it does not exist.
        place: Where the files are. "folder" and "archive" are a folder and an archive in the data folder. "itself" is
            the same as "folder", but the folder itself is returned, and "renamed" gives it another name.

    Returns:
        The folder to give as `data_dir` to `load`.
    """
    layout = spec.binary if form == "binary" else spec.python
    content = make_original(spec)
    folder = _WRITERS[form](spec, content, data_dir / layout.folder)
    if place == "archive":
        write_archive(folder, data_dir / layout.archive)
        shutil.rmtree(folder)
    elif place == "itself":
        return folder
    elif place == "renamed":
        return folder.rename(data_dir / "renamed")
    return data_dir


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """Ignores clients that hang up early, as the test whether the host answers does."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on a local port, and yields its URL."""
    handler = functools.partial(_Silent, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def know_checksum(patch: pytest.MonkeyPatch, url: str, content: bytes) -> None:
    """Makes TFDS expect this content at the URL."""
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.download import checksums

    info = checksums.UrlInfo(
        size=utils.Size(len(content)), checksum=hashlib.sha256(content).hexdigest(), filename=Path(url).name
    )
    patch.setitem(checksums.get_all_url_infos(), url, info)


def prepare(spec: CifarSpec, content: Original, scratch: Path, data_dir: Path) -> CifarSpec:
    """Prepares content by a download from a local server, and returns the specification with its URL."""
    archive = write_archive(write_binary(spec, content, scratch / spec.binary.folder), scratch / spec.binary.archive)
    with served(scratch) as url, pytest.MonkeyPatch.context() as patch:
        spec = dataclasses.replace(spec, url=f"{url}/{archive.name}")
        know_checksum(patch, spec.url, archive.read_bytes())
        tfds.download_and_prepare(spec, data_dir, lambda path: original.read(spec, spec.binary, path), progress=False)
    return spec


def tree(folder: Path) -> set[str]:
    """Returns the relative paths of everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
