"""Finds the image files of a folder that has a folder for each class."""

import dataclasses
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from seanet_jax.data import image_formats
from seanet_jax.errors import InputError
from seanet_jax.paths import check_regular, exists, is_folder, reading
from seanet_jax.printable import printable, printable_list

# Names of the folders that hold a split, in lower case.
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")
# What operating systems and file servers leave in folders of images, in lower case. Hidden files are skipped too.
_RUBBISH = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found"),
}
_EXAMPLE = "such as DIR/cat/1.jpg and DIR/dog/1.jpg, or DIR/train/cat/1.jpg and DIR/test/cat/1.jpg"


class FolderFile(NamedTuple):
    """A file in the folder of a class.

    Attributes:
        path: The file.
        class_name: Name of the class, in Unicode's composed form (NFC).
        is_test: Whether the file is in the folder of test images, or None if there is no such folder.
        state: Size in bytes and time of modification in nanoseconds.
        problem: Why the file cannot be opened, or "" if it can.
    """

    path: Path
    class_name: str
    is_test: bool | None
    state: tuple[int, int] = (0, 0)
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class FolderLayout:
    """The files of a folder of images.

    Attributes:
        files: The files of all classes, sorted by path.
        class_names: Names of the classes, sorted by code point.
        has_test: Whether a folder of its own holds the test images.
        notes: Sentences about what was found, for the user.
    """

    files: Sequence[FolderFile]
    class_names: Sequence[str]
    has_test: bool
    notes: Sequence[str]


def read_layout(folder: Path) -> FolderLayout:
    """Finds the classes and files of a folder of images. No file is opened.

    The folder holds ``train`` and ``test`` (or ``val``) with a folder for each class, or only the folders of the
    classes. A class has the files of its folder and of all folders in it. Hidden files and those that operating
    systems leave are skipped. Links are followed, but not back to a folder above them.

    Args:
        folder: The folder.

    Raises:
        InputError: If the folder cannot be read, or does not hold at least two classes in one of these ways.
    """
    if not exists(folder):
        raise InputError(f"The data folder {folder} does not exist; name a folder that holds one for each class")
    if not is_folder(folder):
        raise InputError(f"The data folder {folder} is a file; name a folder that holds one for each class")
    notes: list[str] = []
    train, test = _split_folders(folder, notes)
    files: list[FolderFile] = []
    ancestors = _identity(folder), _identity(train)
    for root in (train, test):
        if root is not None:
            is_test = None if test is None else root is test
            files += _class_files(root, is_test, ancestors, notes)
    files.sort(key=lambda file: os.fsencode(file.path))
    names = sorted({file.class_name for file in files if not file.is_test})
    if unknown := sorted({file.class_name for file in files} - set(names)):
        raise InputError(
            f"{test} has classes that {train} lacks: {printable_list(unknown)}; a network learns only the classes of "
            "its training images, so give both the same"
        )
    if len(names) < 2:
        holds = f"one class of images, {printable(names[0])}" if names else "no images"
        raise InputError(f"{train} holds {holds}; a classifier needs at least two folders of images, {_EXAMPLE}")
    return FolderLayout(files, names, test is not None, notes)


def _split_folders(folder: Path, notes: list[str]) -> tuple[Path, Path | None]:
    """Returns the folder of the training images and that of the test images, which is None if there is none."""
    folders = list(filter(_is_folder, _entries(folder)))

    def named(names: Sequence[str]) -> Path | None:
        found = [entry.name for entry in folders if entry.name.casefold() in names]
        if len(found) > 1:
            raise InputError(f"{folder} has the folders {' and '.join(sorted(found))}; keep one of them")
        return folder / found[0] if found else None

    train, test, validation = named(_TRAIN), named(_TEST), named(_VALIDATION)
    held_out = test or validation
    if train is None:
        if held_out is not None:
            raise InputError(f"{folder} has a folder {held_out.name}, but no folder train; give both, {_EXAMPLE}")
        return folder, None
    # A class may be called "train", as among cars and buses.
    if held_out is None and _images_among(_entries(train)):
        return folder, None
    if test is not None and validation is not None:
        notes.append(f"{folder}: the images of {test.name} are the test images, and those of {validation.name} unused")
    used = {path.name for path in (train, test, validation) if path is not None}
    if others := sorted(entry.name for entry in folders if entry.name not in used):
        notes.append(f"{folder}: {printable_list(others)} beside {train.name} is not used")
    return train, held_out


def _class_files(
    root: Path, is_test: bool | None, ancestors: tuple[tuple[int, int], ...], notes: list[str]
) -> Iterator[FolderFile]:
    """Yields the files of all classes in a folder of class folders."""
    entries = _entries(root)
    folders, loose = list(filter(_is_folder, entries)), _images_among(entries)
    if not folders:
        holds = f"{len(loose)} images but no folder" if loose else "no folder"
        raise InputError(f"{root} holds {holds}; put the images into a folder for each class, {_EXAMPLE}")
    if loose:
        notes.append(
            f"{root}: images beside the folders of the classes, which are not used: {len(loose):,}, such as {loose[0]}"
        )
    loops: list[Path] = []
    for entry in folders:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{entry.path}: the name of a class must be Unicode text in UTF-8; rename it") from None
        # macOS writes accents in the decomposed form, which looks the same.
        name = unicodedata.normalize("NFC", entry.name)
        count = 0
        for file in _walk(Path(entry.path), FolderFile(root, name, is_test), ancestors, loops):
            count += 1
            yield file
        if not count:
            notes.append(f"{entry.path} holds no file")
    if loops:
        notes.append(f"Links to a folder above them, which are not followed: {len(loops):,}, such as {loops[0]}")


def _walk(
    folder: Path, file: FolderFile, ancestors: tuple[tuple[int, int], ...], loops: list[Path]
) -> Iterator[FolderFile]:
    """Yields the files in a folder and in the folders in it, as copies of ``file``."""
    waiting = [(folder, ancestors)]
    while waiting:
        folder, above = waiting.pop()
        try:
            if (identity := _identity(folder)) in above:
                loops.append(folder)
                continue
            entries = _entries(folder)
        except InputError as error:
            yield file._replace(path=folder, problem=str(error))
            continue
        for entry in entries:
            path = Path(entry.path)
            if _is_folder(entry):
                waiting.append((path, (*above, identity)))
            else:
                yield _look(file._replace(path=path))


def _look(file: FolderFile) -> FolderFile:
    """Fills in the state of a file, or why it cannot be opened."""
    try:
        check_regular(file.path)
        # Opening tells whether the file may be read, which its permissions alone do not.
        with reading(file.path), file.path.open("rb") as opened:
            status = os.fstat(opened.fileno())
    except InputError as error:
        return file._replace(problem=str(error))
    return file._replace(state=(status.st_size, status.st_mtime_ns))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what a folder holds, without hidden files and rubbish, sorted by name."""
    with reading(folder), os.scandir(folder) as entries:
        kept = [e for e in entries if not e.name.startswith(".") and e.name.casefold() not in _RUBBISH]
    return sorted(kept, key=lambda entry: os.fsencode(entry.name))


def _images_among(entries: Sequence[os.DirEntry[str]]) -> list[str]:
    """Returns the names of those that are image files by their suffix."""
    suffixes = image_formats.suffixes()
    return [e.name for e in entries if Path(e.name).suffix.lower() in suffixes and not _is_folder(e)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link that leads to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """Returns what tells a folder from all others, by whatever path it is reached."""
    with reading(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino
