"""What TFDS writes about a prepared data set, read without TensorFlow and without trusting the files."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from seanet_jax.data.records import FORMATS
from seanet_jax.errors import InputError
from seanet_jax.json_files import checked, read_json
from seanet_jax.paths import exists, is_file, is_folder, read_bytes, reading
from seanet_jax.printable import printable_list

PREFIX = "tfds:"
"""Beginning of the names of the data sets that TFDS has prepared."""

_NAME = re.compile(PREFIX + r"(?P<name>[A-Za-z]\w*)(/(?P<config>\w[\w.+-]*))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# ImageNet-21k has 21,841 classes.
_MOST_CLASSES = 1_000_000
_CHANNELS = (1, 3)
_REMEDY = "prepare the data set again, with a current version of tensorflow-datasets"


class PreparedSplit(NamedTuple):
    """A split of a prepared data set.

    Attributes:
        name: Name of the split in TFDS.
        files: The files of its examples, in order.
        counts: The number of examples in each file.
    """

    name: str
    files: tuple[Path, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class PreparedInfo:
    """A data set of images with one label, as TFDS has prepared it.

    Attributes:
        folder: The folder that TFDS prepared.
        file_format: Name of the format of the files of examples.
        train: The training split.
        test: The split to test on: "test", or "validation" if there is no "test".
        image_key: Name of the image among the features of an example.
        label_key: Name of the label among the features of an example.
        size: Height and width of all images in pixels, or None if they differ.
        channels: Number of image channels, 1 or 3.
        class_names: Names of the classes, or their numbers if they have no names.
    """

    folder: Path
    file_format: str
    train: PreparedSplit
    test: PreparedSplit
    image_key: str
    label_key: str
    size: tuple[int, int] | None
    channels: int
    class_names: tuple[str, ...]


class _Split(TypedDict):
    name: str
    shardLengths: NotRequired[list[str]]
    filepathTemplate: NotRequired[str]


class _InfoFile(TypedDict):
    name: str
    fileFormat: NotRequired[str]
    splits: NotRequired[list[_Split]]
    supervisedKeys: NotRequired[dict[str, Any]]


class _Shape(TypedDict):
    dimensions: list[str]


class _Image(TypedDict):
    shape: _Shape
    dtype: NotRequired[str]


class _ClassLabel(TypedDict):
    numClasses: NotRequired[str]


class _Feature(TypedDict):
    image: NotRequired[_Image]
    classLabel: NotRequired[_ClassLabel]


class _Features(TypedDict):
    features: dict[str, _Feature]


class _FeaturesFile(TypedDict):
    featuresDict: _Features


def is_prepared_name(name: str) -> bool:
    """Returns whether a name has the form ``tfds:NAME``, ``tfds:NAME/CONFIG`` or either with ``:VERSION``."""
    return _NAME.fullmatch(name) is not None


def read_info(name: str, data_dir: Path) -> PreparedInfo:
    """Reads what TFDS wrote about a prepared data set.

    Args:
        name: Name of the data set, of the form ``tfds:NAME``, ``tfds:NAME/CONFIG`` or either with ``:VERSION``. By
            default, the only config and the newest version are taken.
        data_dir: The data folder of TFDS.

    Raises:
        InputError: If the data set is not there, the files are damaged or in an unknown format, or its examples do not
            have one image and one label, or there are no images to test on.
    """
    folder = _find(name, data_dir)
    where = str(folder / "dataset_info.json")
    info = checked(read_json(folder / "dataset_info.json", remedy=_REMEDY), _InfoFile, where=where, remedy=_REMEDY)
    file_format = info.get("fileFormat", "tfrecord")
    if file_format not in FORMATS:
        raise InputError(
            f"{folder} is prepared as {file_format}; without TensorFlow only {' and '.join(FORMATS)} can be read, so "
            "prepare it as one of these"
        )
    train, test = _splits(info, folder, file_format)
    path = folder / "features.json"
    features = checked(read_json(path, remedy=_REMEDY), _FeaturesFile, where=str(path), remedy=_REMEDY)
    image_key, label_key = _keys(features["featuresDict"]["features"], info.get("supervisedKeys", {}), path)
    size, channels = _shape(features["featuresDict"]["features"][image_key]["image"], image_key, path)
    label = features["featuresDict"]["features"][label_key]["classLabel"]
    return PreparedInfo(
        folder=folder,
        file_format=file_format,
        train=train,
        test=test,
        image_key=image_key,
        label_key=label_key,
        size=size,
        channels=channels,
        class_names=_class_names(label, folder / f"{label_key}.labels.txt", path),
    )


def _find(name: str, data_dir: Path) -> Path:
    """Returns the folder of a prepared data set."""
    match = _NAME.fullmatch(name)
    assert match is not None
    parts = [part for part in match.group("name", "config") if part]
    title, root = "/".join(parts), data_dir.joinpath(*parts)
    versions = _versions(root)
    if not versions and not match["config"]:
        configs = {path.name: found for path in _folders(root) if (found := _versions(path))}
        if len(configs) > 1:
            raise InputError(
                f"{root} has the configs {printable_list(sorted(configs))}; name one, such as "
                f"--dataset {PREFIX}{title}/{min(configs)}"
            )
        versions = next(iter(configs.values()), [])
    if wanted := match["version"]:
        versions = [path for path in versions if path.name == wanted]
    if not versions:
        raise InputError(
            f"{data_dir} does not hold {title} as prepared by TFDS (looked for {root / (wanted or 'VERSION')}); name "
            f"another folder with --data-dir, or prepare it where TensorFlow is installed, by 'tfds build {title} "
            f"--file_format=array_record --data_dir={data_dir}'"
        )
    return versions[-1]


def _versions(root: Path) -> list[Path]:
    """Returns the prepared versions in a folder, the newest one last."""
    # TFDS writes dataset_info.json last.
    found = [path for path in _folders(root) if _VERSION.fullmatch(path.name) and is_file(path / "dataset_info.json")]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _folders(root: Path) -> list[Path]:
    if not is_folder(root):
        return []
    with reading(root):
        return [path for path in sorted(root.iterdir()) if is_folder(path)]


def _splits(info: _InfoFile, folder: Path, file_format: str) -> tuple[PreparedSplit, PreparedSplit]:
    """Returns the splits to train and to test on."""
    where = folder / "dataset_info.json"
    splits = {split["name"]: split for split in info.get("splits", [])}
    test = "test" if "test" in splits else "validation"
    if missing := [name for name in ("train", test) if name not in splits]:
        raise InputError(
            f"{where} has the splits {printable_list(sorted(splits)) or 'none'}, but no "
            f"{'test or validation' if missing[0] != 'train' else 'train'}; give a data set with images to train on "
            "and others to test on"
        )
    found = []
    for name in ("train", test):
        split = splits[name]
        lengths = split.get("shardLengths", [])
        if not re.fullmatch(r"\w+", info["name"]) or split.get("filepathTemplate", _TEMPLATE) != _TEMPLATE:
            raise InputError(f"{where} gives files other names than TFDS does by default; {_REMEDY}")
        if not all(re.fullmatch("[0-9]{1,12}", length) for length in lengths) or not any(map(int, lengths)):
            raise InputError(f"{where} gives the split {name} no number of examples; {_REMEDY}")
        counts = tuple(map(int, lengths))
        shards = (f"{index:05d}-of-{len(counts):05d}" for index in range(len(counts)))
        files = tuple(folder / f"{info['name']}-{name}.{file_format}-{shard}" for shard in shards)
        found.append(PreparedSplit(name, files, counts))
    return found[0], found[1]


def _keys(features: dict[str, _Feature], supervised: dict[str, Any], path: Path) -> tuple[str, str]:
    """Returns the names of the image and the label, of which there must be one, or one that TFDS prefers."""
    kinds = {"image": [key for key in features if "image" in features[key]]}
    kinds["label"] = [key for key in features if "classLabel" in features[key]]
    items = supervised.get("tuple", {}).get("items", []) if isinstance(supervised.get("tuple", {}), dict) else []
    preferred = [item.get("featureKey") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    if len(preferred) == 2 and preferred[0] in kinds["image"] and preferred[1] in kinds["label"]:
        return preferred[0], preferred[1]
    if any(len(keys) != 1 for keys in kinds.values()):
        counts = " and ".join(f"{len(keys)} {kind}s" for kind, keys in kinds.items())
        raise InputError(
            f"{path} has the features {printable_list(sorted(features)) or 'none'}, of which {counts}; examples must "
            "have one image, and one label that is a class"
        )
    return kinds["image"][0], kinds["label"][0]


def _shape(image: _Image, key: str, path: Path) -> tuple[tuple[int, int] | None, int]:
    """Returns the size of all images, or None if they differ, and the number of channels."""
    dimensions = image["shape"]["dimensions"]
    if len(dimensions) != 3 or not all(re.fullmatch("-1|[0-9]{1,6}", length) for length in dimensions):
        raise InputError(f"{path} is damaged (the shape of {key} is {printable_list(dimensions)}); {_REMEDY}")
    height, width, channels = map(int, dimensions)
    if channels not in _CHANNELS or image.get("dtype", "uint8") != "uint8":
        raise InputError(
            f"{path}: {key} has {channels} channels of {image.get('dtype', 'uint8')}; it must have 1 (gray) or 3 (RGB) "
            "of uint8"
        )
    return (height, width) if height > 0 and width > 0 else None, channels


def _class_names(label: _ClassLabel, names_file: Path, path: Path) -> tuple[str, ...]:
    count = label.get("numClasses", "")
    if not re.fullmatch("[0-9]{1,9}", count) or not 1 <= int(count) <= _MOST_CLASSES:
        raise InputError(f"{path} gives no number of classes from 1 to {_MOST_CLASSES:,}; {_REMEDY}")
    if not exists(names_file):
        return tuple(map(str, range(int(count))))
    try:
        lines = read_bytes(names_file).decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{names_file} must be a text file with one class name per line: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != int(count):
        raise InputError(f"{names_file} must hold {count} class names, as {path} says, but holds {len(names)}")
    return names
