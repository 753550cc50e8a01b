"""CIFAR as TensorFlow Datasets (TFDS) stores it, read and written without TensorFlow.

Without TensorFlow, TFDS can download, check and read data, but cannot unpack an archive or encode an image. Here
`seanet_jax.data.original` reads the archive and Pillow encodes the images. TFDS does everything else, so that other
programs can read the result with TFDS.
"""

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seanet_jax.data.original import SIDE, CifarSpec, Original, Split
from seanet_jax.data.progress import progress_bar, shows_bar
from seanet_jax.durable import make_folders, replace, sync_tree, unique_beside
from seanet_jax.errors import InputError
from seanet_jax.paths import check_readable, exists, home_folder, is_file, user_path

_BATCH = 1000  # number of records read at once
_PROBE_SECONDS = 10


def default_data_dir() -> Path:
    """Returns the data folder of TFDS: `$TFDS_DATA_DIR`, or `~/tensorflow_datasets` if that is not set.

    Raises:
        InputError: If `$TFDS_DATA_DIR` is not a local path, or if it is not set and there is no home folder.
    """
    if chosen := os.environ.get("TFDS_DATA_DIR"):
        return user_path(chosen, name="TFDS_DATA_DIR")
    home = home_folder()
    if home is None:
        raise InputError("there is no home folder that could hold the data set; name its folder with --data-dir")
    return home / "tensorflow_datasets"


def prepared_folder(spec: CifarSpec, data_dir: Path) -> Path:
    """Returns the folder in which TFDS stores the prepared data set."""
    return data_dir / spec.name / spec.version


def is_prepared(spec: CifarSpec, data_dir: Path) -> bool:
    """Returns whether TFDS has finished preparing the data set in `data_dir`."""
    # TFDS writes this file last.
    return is_file(prepared_folder(spec, data_dir) / "dataset_info.json")


def order(split: str, count: int) -> np.ndarray:
    """Returns the order in which TFDS stores the examples of a split.

    TFDS sorts by the MD5 of the split's name followed by the example's number, which counts from 0.

    Args:
        split: "train" or "test".
        count: Number of examples.

    Returns:
        int64 [count], the numbers of the examples in the order of TFDS.
    """
    # MD5 is part of the format of TFDS and protects nothing.
    key = [hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest() for i in range(count)]
    return np.array(sorted(range(count), key=key.__getitem__))


def read_prepared(spec: CifarSpec, data_dir: Path, progress: bool) -> tuple[Split, Split, tuple[str, ...]]:
    """Reads the prepared data set.

    Args:
        spec: The data set.
        data_dir: The data folder of TFDS.
        progress: Whether a progress bar is wanted.

    Returns:
        The training split, the test split and the class names. Both splits have only the labels named "label".

    Raises:
        InputError: If a file is missing or damaged, or has an unexpected format or number of images. The message names
            the file.
    """
    import tensorflow_datasets as tfds

    folder = prepared_folder(spec, data_dir)
    info_file = folder / "dataset_info.json"
    check_readable(info_file)
    try:
        builder = tfds.builder(f"{spec.name}:{spec.version}", data_dir=data_dir)
        file_format = builder.info.file_format.value
        names = builder.info.features["label"].names
        counts = {split: builder.info.splits[split].num_examples for split in ("train", "test")}
        files = {split: [Path(path) for path in builder.info.splits[split].filepaths] for split in counts}
    except Exception as error:  # TFDS passes on any exception of JSON, protobuf or the file system
        raise InputError(f"{info_file} is damaged or not of {spec.title} as prepared by TFDS: {error}") from error
    if file_format != "array_record":
        raise InputError(
            f"{folder} is prepared as {file_format}; it must be prepared with file_format='array_record', "
            "which can be read without TensorFlow"
        )
    names_file = folder / "label.labels.txt"
    if not is_file(names_file):  # TFDS would invent names
        raise InputError(f"{names_file} is missing; it must hold the {spec.num_classes} class names of {spec.title}")
    if len(names) != spec.num_classes:
        raise InputError(
            f"{names_file} must hold the {spec.num_classes} class names of {spec.title}, but holds {len(names)}"
        )
    if counts != {"train": spec.train_count, "test": spec.test_count}:
        raise InputError(
            f"{info_file} describes {counts['train']} training and {counts['test']} test images; "
            f"{spec.title} has {spec.train_count} and {spec.test_count}"
        )
    with progress_bar(f"Decoding {spec.title} from {folder}", sum(counts.values()), progress) as bar:
        train, test = (_read_split(builder, split, files[split], counts[split], bar) for split in ("train", "test"))
    return train, test, tuple(names)


def _read_split(builder: Any, split: str, files: list[Path], count: int, bar: Any) -> Split:
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    where = ", ".join(map(str, files))
    stored = 0
    for file in files:
        if not is_file(file):
            raise InputError(f"{file} is missing, but {file.parent / 'dataset_info.json'} names it")
        check_readable(file)
        try:
            reader = array_record_module.ArrayRecordReader(str(file))
            stored += reader.num_records()
            reader.close()
        except RuntimeError as error:
            raise InputError(f"{file} is truncated or damaged: {error}") from error
    if stored != count:
        raise InputError(f"{where} holds {stored} images; it should hold {count}")

    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty(count, np.int32)
    try:
        # Pillow takes a third of the time that TFDS takes to decode. Threads do not help, because the images are small.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for start in range(0, count, _BATCH):
            keys = range(start, min(start + _BATCH, count))
            for key, example in zip(keys, source.__getitems__(keys), strict=True):
                images[key] = _decode_png(example["image"])
                labels[key] = example["label"]
            bar.update(len(keys))
    except Exception as error:  # for example RuntimeError, protobuf's DecodeError or Pillow's OSError
        raise InputError(f"{where} is truncated or damaged: {error}") from error
    wrong = np.flatnonzero((labels < 0) | (labels >= builder.info.features["label"].num_classes))
    if wrong.size:
        raise InputError(f"{where}: the label of image {wrong[0]} is {labels[wrong[0]]}, which is not a class")
    return Split(images=images, labels={"label": labels})


def _decode_png(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        pixels = np.asarray(image)
    if pixels.shape != (SIDE, SIDE, 3):
        raise ValueError(f"an image is {list(pixels.shape)}, not {[SIDE, SIDE, 3]}")
    return pixels


def _encode_png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def unreachable(url: str) -> str | None:
    """Finds out whether a URL can be downloaded, within seconds. TFDS itself would try for minutes.

    Args:
        url: The URL.

    Returns:
        None if it can be downloaded, and otherwise the reason in a few words.
    """
    import requests

    try:
        with requests.get(url, stream=True, timeout=_PROBE_SECONDS) as response:
            return None if response.ok else f"HTTP status {response.status_code}"
    except requests.Timeout:
        return f"no answer within {_PROBE_SECONDS} seconds"
    except requests.RequestException as error:
        return f"{type(error).__name__}: the host does not answer"


def download_and_prepare(
    spec: CifarSpec, data_dir: Path, read_archive: Callable[[Path], Original], progress: bool
) -> None:
    """Downloads the binary archive, checks it against the checksum that TFDS knows, and prepares it as TFDS does.

    Everything is written to a temporary folder inside `data_dir`. When it is complete, the archive is moved to
    `downloads` and the data set to its prepared folder. A failure leaves `data_dir` as it was.

    Args:
        spec: The data set.
        data_dir: The data folder of TFDS. It is created if it does not exist.
        read_archive: Function that reads the downloaded archive.
        progress: Whether progress bars are wanted.

    Raises:
        InputError: If the download breaks off, the checksum is wrong or the data cannot be stored.
    """
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    with _removed_on_failure(data_dir / spec.name) as folder:
        try:
            make_folders(folder)
            work = unique_beside(data_dir / spec.name)
            work.mkdir()
        except OSError as error:
            raise InputError(
                f"{data_dir} cannot be written ({error.strerror}); --data-dir must name a folder in which "
                f"{spec.title} can be stored"
            ) from error
        try:
            with _quiet(tfds, progress):
                _prepare(tfds, spec, work, read_archive)
            _move_into_place(spec, work, data_dir)
        except NonMatchingChecksumError as error:
            raise InputError(
                f"The download of {spec.url} has another SHA-256 checksum or size than TFDS expects; "
                "try again later, or give --data-dir a folder that holds the data"
            ) from error
        except (tfds.download.DownloadError, requests.RequestException) as error:
            raise InputError(f"The download of {spec.url} broke off ({error}); try again later") from error
        except OSError as error:
            raise InputError(f"{spec.title} cannot be stored in {data_dir}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[Path]:
    """Removes `folder` and its parents after a failure, if they are empty and did not exist before."""
    new = [path for path in (folder, *folder.parents) if not exists(path)]
    try:
        yield folder
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _quiet(tfds: Any, progress: bool) -> Iterator[None]:
    """Keeps TFDS from writing to stdout, and hides its progress bars if stderr is not a terminal."""
    visible = shows_bar(progress)
    if not visible:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr if visible else io.StringIO()):
            yield
    finally:
        if not visible:
            tfds.enable_progress_bar()


def _prepare(tfds: Any, spec: CifarSpec, work: Path, read_archive: Callable[[Path], Original]) -> None:
    builder = tfds.builder_cls(spec.name)(data_dir=work)

    def split_generators(dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        original = read_archive(Path(dl_manager.download(spec.url)))
        for key, names in original.names.items():
            builder.info.features[key].names = names
        return {"train": _examples("train", original.train), "test": _examples("test", original.test)}

    # The method of TFDS unpacks the archive and encodes the images with TensorFlow.
    builder._split_generators = split_generators
    builder.download_and_prepare(
        download_dir=work / "downloads",
        download_config=tfds.download.DownloadConfig(force_checksums_validation=True),
        file_format="array_record",
    )


def _examples(split: str, examples: Split) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, image in enumerate(examples.images):
        labels = {key: int(values[i]) for key, values in examples.labels.items()}
        yield i, {"id": f"{split}_{i:05d}", "image": _encode_png(image), **labels}


def _move_into_place(spec: CifarSpec, work: Path, data_dir: Path) -> None:
    sync_tree(work)
    try:
        replace(prepared_folder(spec, work), prepared_folder(spec, data_dir))
    except OSError:
        if not is_prepared(spec, data_dir):  # another process may have finished first
            raise
    with contextlib.suppress(OSError):  # a kept archive saves TFDS a download, but is not needed here
        for path in (work / "downloads").rglob("*"):
            if is_file(path):
                target = data_dir / path.relative_to(work)
                make_folders(target.parent)
                replace(path, target)
