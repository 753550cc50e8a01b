"""CIFAR as its authors distribute it: binary records or Python pickles, in a folder or in a .tar.gz archive.

The files come from outside and are not trusted. Sizes are limited before anything is read, archives are never unpacked
to disk, and pickles can create nothing but arrays and plain containers.
"""

import dataclasses
import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seanet_jax.errors import InputError
from seanet_jax.paths import check_readable, is_file, is_folder, reading

SIDE = 32  # pixels
_PIXELS = 3 * SIDE * SIDE  # bytes of an image, which is stored as a red, a green and a blue plane
_TEXT_LIMIT = 1 << 16  # bytes; the real files of class names hold less than 3 KB


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of one form in which a CIFAR data set is distributed.

    Attributes:
        folder: Name of the folder inside the archive.
        archive: File name of the archive.
        train_files: Files of the training split, in order. Each holds the same number of images.
        test_files: Files of the test split.
        name_files: Files of the class names. Binary records have one text file per kind of label; pickles have one
            pickle.
        label_keys: Keys of the labels in a pickled batch, in the order of `CifarSpec.label_keys`. Empty for binary
            records.
        name_keys: Keys of the class names in their pickle, in the same order. Empty for binary records.
    """

    folder: str
    archive: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    name_files: tuple[str, ...]
    label_keys: tuple[str, ...] = ()
    name_keys: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return self.train_files + self.test_files + self.name_files


@dataclasses.dataclass(frozen=True)
class CifarSpec:
    """The labels, sizes and files of a CIFAR data set.

    Attributes:
        name: Name in TFDS and in `seanet_jax.data`.
        title: Name in messages and figures.
        version: Version of the data set in TFDS.
        url: URL of the archive that TFDS downloads. It has the layout `binary`.
        label_keys: Names of the kinds of label in TFDS, in the order of the bytes before an image in a binary record.
        label_counts: Number of classes for each kind of label.
        class_names: Class names of the kind "label", which networks learn, in the order of its values.
        superclasses: Name of each class's superclass, in the order of `class_names`; None if there are none.
        train_count: Number of training images.
        test_count: Number of test images.
        binary: Files of the version for C programs.
        python: Files of the version for Python.
    """

    name: str
    title: str
    version: str
    url: str
    label_keys: tuple[str, ...]
    label_counts: tuple[int, ...]
    class_names: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    train_count: int
    test_count: int
    binary: Layout
    python: Layout

    @property
    def num_classes(self) -> int:
        """Number of classes of the kind "label", which are the fine labels of CIFAR-100."""
        return self.label_counts[self.label_keys.index("label")]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of a split.

    Attributes:
        images: uint8 [N, 32, 32, 3].
        labels: int32 [N] for each kind of label.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """The content of the original files.

    Attributes:
        train: Training split, in the order of the files.
        test: Test split, in the order of the files.
        names: Class names for each kind of label.
    """

    train: Split
    test: Split
    names: dict[str, tuple[str, ...]]


CIFAR10 = CifarSpec(
    name="cifar10",
    title="CIFAR-10",
    version="3.0.2",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    label_keys=("label",),
    label_counts=(10,),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    superclasses=None,
    train_count=50_000,
    test_count=10_000,
    binary=Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_files=("test_batch.bin",),
        name_files=("batches.meta.txt",),
    ),
    python=Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test_files=("test_batch",),
        name_files=("batches.meta",),
        label_keys=("labels",),
        name_keys=("label_names",),
    ),
)

_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
# The superclass of each class. The labels of CIFAR-100 number its classes in alphabetical order.
_CIFAR100 = dict(sorted((name, superclass) for superclass, names in _SUPERCLASSES.items() for name in names))

CIFAR100 = CifarSpec(
    name="cifar100",
    title="CIFAR-100",
    version="3.0.2",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    label_keys=("coarse_label", "label"),
    label_counts=(20, 100),
    class_names=tuple(_CIFAR100),
    superclasses=tuple(_CIFAR100.values()),
    train_count=50_000,
    test_count=10_000,
    binary=Layout(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train_files=("train.bin",),
        test_files=("test.bin",),
        name_files=("coarse_label_names.txt", "fine_label_names.txt"),
    ),
    python=Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train_files=("train",),
        test_files=("test",),
        name_files=("meta",),
        label_keys=("coarse_labels", "fine_labels"),
        name_keys=("coarse_label_names", "fine_label_names"),
    ),
)


def find(spec: CifarSpec, data_dir: Path) -> tuple[Layout, Path] | None:
    """Looks for the original files, in folders before archives.

    Args:
        spec: The data set.
        data_dir: A folder that holds an original folder or archive, or an original folder itself.

    Returns:
        The layout and the path of its folder or archive, or None if there is neither.
    """
    layouts = (spec.binary, spec.python)
    for layout in layouts:
        if is_folder(data_dir / layout.folder):
            return layout, data_dir / layout.folder
    for layout in layouts:
        # A folder of the original name always counts, so that an error names what it lacks. A renamed one must be
        # complete, because any folder might be meant.
        complete = all(is_file(data_dir / name) for name in layout.files)
        if is_folder(data_dir) and (complete or data_dir.resolve().name == layout.folder):
            return layout, data_dir
    for layout in layouts:
        if is_file(data_dir / layout.archive):
            return layout, data_dir / layout.archive
    return None


def read(spec: CifarSpec, layout: Layout, path: Path) -> Original:
    """Reads the original files.

    Args:
        spec: The data set.
        layout: `spec.binary` or `spec.python`.
        path: The folder or archive of that layout. An archive is read in memory and never unpacked to disk.

    Returns:
        The images and labels in the order of the files, and the class names.

    Raises:
        InputError: If a file is missing, truncated, too large or not of this data set. The message names it.
    """
    per_train_file = spec.train_count // len(layout.train_files)
    per_test_file = spec.test_count // len(layout.test_files)
    counts = dict.fromkeys(layout.train_files, per_train_file) | dict.fromkeys(layout.test_files, per_test_file)
    limits = {name: _size_limit(spec, layout, counts.get(name)) for name in layout.files}
    contents = _read_folder(spec, path, limits) if is_folder(path) else _read_archive(spec, layout, path, limits)

    def where(name: str) -> str:
        return str(path / name) if is_folder(path) else f"{layout.folder}/{name} in {path}"

    parse = _parse_pickled if layout.label_keys else _parse_binary

    def split(names: tuple[str, ...]) -> Split:
        # Popped, so that the raw bytes of a file are freed once its arrays exist.
        parts = [parse(spec, layout, contents.pop(name), counts[name], where(name)) for name in names]
        return Split(
            images=np.concatenate([part.images for part in parts]),
            labels={key: np.concatenate([part.labels[key] for part in parts]) for key in spec.label_keys},
        )

    return Original(
        train=split(layout.train_files),
        test=split(layout.test_files),
        names=_parse_names(spec, layout, contents, where),
    )


def _size_limit(spec: CifarSpec, layout: Layout, count: int | None) -> int:
    """Returns the largest size in bytes of a file of `count` images, or of class names if `count` is None."""
    if count is None:
        return _TEXT_LIMIT
    if not layout.label_keys:
        return count * (len(spec.label_keys) + _PIXELS)
    # A pickle also holds file names and labels, and Python 3 writes some pixels as two bytes.
    return 2 * count * (_PIXELS + 256) + _TEXT_LIMIT


def _read_folder(spec: CifarSpec, folder: Path, limits: dict[str, int]) -> dict[str, bytes]:
    contents = {}
    for name, limit in limits.items():
        path = folder / name
        if not is_file(path):
            raise InputError(f"{path} is missing; the folder must hold {', '.join(limits)} of {spec.title}")
        with reading(path):
            _check_size(spec, str(path), path.stat().st_size, limit)
            contents[name] = path.read_bytes()
    return contents


def _read_archive(spec: CifarSpec, layout: Layout, path: Path, limits: dict[str, int]) -> dict[str, bytes]:
    check_readable(path)
    contents: dict[str, bytes] = {}
    # The real archives hold little besides these files. A larger one is not an archive of CIFAR.
    total_limit = 2 * sum(limits.values()) + (1 << 20)
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.offset_data + member.size > total_limit:
                    raise InputError(f"{path} unpacks to more than the {total_limit} bytes that {spec.title} can have")
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder != layout.folder or name not in limits or name in contents or not member.isreg():
                    continue
                _check_size(spec, f"{member.name} in {path}", member.size, limits[name])
                file = archive.extractfile(member)
                contents[name] = file.read() if file else b""
            while stream.read(1 << 20):  # to the end, where gzip compares its checksum
                if stream.tell() > total_limit:
                    raise InputError(f"{path} unpacks to more than the {total_limit} bytes that {spec.title} can have")
    except InputError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError, MemoryError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a .tar.gz archive of {spec.title}: {error}") from error
    for name in limits:
        if name not in contents:
            raise InputError(f"{path} lacks the file {layout.folder}/{name}, or is cut off before it")
    return contents


def _check_size(spec: CifarSpec, where: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputError(f"{where} has {size} bytes; that file of {spec.title} has at most {limit}")


def _parse_binary(spec: CifarSpec, layout: Layout, content: bytes, count: int, where: str) -> Split:
    width = len(spec.label_keys)
    if len(content) != count * (width + _PIXELS):
        raise InputError(
            f"{where} has {len(content)} bytes; {spec.title} has {count} records of {width + _PIXELS} bytes there, "
            f"{count * (width + _PIXELS)} in all"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, width + _PIXELS)
    labels = {key: records[:, i].astype(np.int32) for i, key in enumerate(spec.label_keys)}
    return _checked_split(spec, records[:, width:], labels, where)


def _parse_pickled(spec: CifarSpec, layout: Layout, content: bytes, count: int, where: str) -> Split:
    batch = _unpickle(content, where)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (count, _PIXELS):
        found = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"{where}: 'data' must be uint8 [{count}, {_PIXELS}], not {found}")
    labels = {}
    for key, stored in zip(spec.label_keys, layout.label_keys, strict=True):
        values = batch.get(stored)
        if not isinstance(values, list) or len(values) != count or not all(type(value) is int for value in values):
            raise InputError(f"{where}: {stored!r} must be a list of {count} integers")
        # Clipped first, because a large integer would overflow int32 and might become a valid label.
        labels[key] = np.clip(np.array(values, dtype=object), -1, 256).astype(np.int32)
    return _checked_split(spec, pixels, labels, where)


def _checked_split(spec: CifarSpec, pixels: np.ndarray, labels: dict[str, np.ndarray], where: str) -> Split:
    for (key, values), classes in zip(labels.items(), spec.label_counts, strict=True):
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if wrong.size:
            raise InputError(
                f"{where}: the {key} of image {wrong[0]} is {values[wrong[0]]}; {spec.title} has 0..{classes - 1}"
            )
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return Split(images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels=labels)


def _parse_names(
    spec: CifarSpec, layout: Layout, contents: dict[str, bytes], where: Callable[[str], str]
) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    if layout.name_keys:
        (file,) = layout.name_files
        meta = _unpickle(contents[file], where(file))
        found = [(where(file), meta.get(key)) for key in layout.name_keys]
    else:
        found = [(where(file), _lines(contents[file], where(file))) for file in layout.name_files]
    for key, count, (place, values) in zip(spec.label_keys, spec.label_counts, found, strict=True):
        if not isinstance(values, list) or len(values) != count or not all(isinstance(v, str) and v for v in values):
            got = f"{len(values)}" if isinstance(values, list) else "none"
            raise InputError(f"{place} must hold the {count} class names of {spec.title}, but holds {got}")
        names[key] = tuple(values)
    return names


def _lines(content: bytes, where: str) -> list[str]:
    try:
        return [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{where} must be a text file with one class name per line: {error}") from error


def _encode(text: str, encoding: str) -> bytes:
    # For Python 2, Python 3 pickles bytes as a call of _codecs.encode with this encoding.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode(encoding)


# The two functions that NumPy names in its pickles. They are taken from NumPy objects, because their module is private
# and has moved.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROMBUFFER = np.empty(0, np.uint8).__reduce_ex__(5)[0]

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _RECONSTRUCT),
        ("numeric", "_frombuffer", _FROMBUFFER),
    )
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers. A pickle that names anything else fails before that is called."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no batch of CIFAR does") from None


def _unpickle(content: bytes, where: str) -> dict[str, Any]:
    """Reads a dictionary pickled by Python 2 or 3. Its keys, and byte strings in its lists, become text."""
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise InputError(f"{where} is damaged or not a pickled batch of CIFAR: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} must hold a pickled dictionary, not {type(value).__name__}")
    return {_text(key): [_text(v) for v in item] if isinstance(item, list) else item for key, item in value.items()}


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value
