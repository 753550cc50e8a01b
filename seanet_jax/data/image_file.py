"""Reads image files, and turns them into the pixels that a network takes.

A decoded image is held once, in the pixel format of its file. It is rotated, converted to 8-bit RGB and reduced in
strips of rows, so that all further memory depends on the size of the result.
"""

import contextlib
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from seanet_jax.data import image_formats
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import UserPath, is_file, reading, user_path
from seanet_jax.printable import printable

# The largest 16-bit value, which is white.
_WHITE = 65535
# Number of pixels that are converted at once.
_STRIP = 2**18
# Pixels of a JPEG in each direction for one of the result, if it is decoded at less than its size.
_KEPT = 4


class _Turn(NamedTuple):
    """How an image is turned upright.

    Attributes:
        method: The transposition that turns the image upright.
        mirrors_x: Whether the columns of the upright image come in reverse order.
        mirrors_y: Whether the rows of the upright image come in reverse order.
        swaps: Whether the rows of the upright image are columns of the stored one.
    """

    method: Image.Transpose
    mirrors_x: bool
    mirrors_y: bool
    swaps: bool


# By EXIF orientation, as in ``ImageOps.exif_transpose``.
_TURNS = {
    2: _Turn(Image.Transpose.FLIP_LEFT_RIGHT, True, False, False),
    3: _Turn(Image.Transpose.ROTATE_180, True, True, False),
    4: _Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, True, False),
    5: _Turn(Image.Transpose.TRANSPOSE, False, False, True),
    6: _Turn(Image.Transpose.ROTATE_270, True, False, True),
    7: _Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: _Turn(Image.Transpose.ROTATE_90, False, True, True),
}


def find_images(folder: UserPath) -> Sequence[Path]:
    """Returns the image files in a folder and its subfolders, sorted by path.

    An image file is one with the suffix of a format that is read; see ``image_formats``. Files and folders whose names
    begin with a dot are skipped, because they are an operating system's own. Links to folders are not followed. A
    subfolder that cannot be listed is returned as if it were an image, so that it is not passed over in silence.

    Args:
        folder: The folder to search.

    Raises:
        InputError: If the folder holds no image file, or cannot be read.
    """
    folder = user_path(folder)
    with reading(folder):
        next(folder.iterdir(), None)
    suffixes = image_formats.suffixes()
    found: list[Path] = []
    unlisted: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unlisted.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in suffixes and _may_be_file(path)]
    # Reading such a folder as an image reports why it cannot be read.
    found = sorted([*found, *(Path(error.filename) for error in unlisted)])
    if not found:
        raise InputError(f"{printable(folder)} holds no image; name a folder with files such as .png or .jpg in it")
    return found


def _may_be_file(path: Path) -> bool:
    try:
        return is_file(path)
    except InputError:
        return True  # reading the file reports why it cannot be read


class ImageSource(NamedTuple):
    """An image to classify.

    Attributes:
        path: The file, or the name of the content.
        content: The content of an image that was not read from a file; None if it is in the file.
    """

    path: Path
    content: bytes | None = None


class MemoryBudget:
    """The memory for decoding images in several threads, which is what one image may take.

    A thread waits until there is enough for its image, so that large images are decoded one after another.
    """

    def __init__(self) -> None:
        self._free = image_formats.MOST_MEMORY
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def spend(self, count: int) -> Iterator[None]:
        """Spends a number of bytes, at most ``image_formats.MOST_MEMORY``, inside the context."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


@contextlib.contextmanager
def lenient_pillow() -> Iterator[None]:
    """Lets Pillow read oddities of files in silence.

    It changes settings of the process, which threads restore in any order. If several threads read images, the context
    around them all restores the settings.
    """
    with warnings.catch_warnings(action="ignore"), _long_texts():
        yield


@contextlib.contextmanager
def open_image(
    source: UserPath | ImageSource, budget: MemoryBudget | None = None, *, smallest: int = 0
) -> Iterator[Image.Image]:
    """Opens and decodes an image file.

    The image has the pixel format of its file and is not yet turned upright; ``fit_image`` does both. Of an animation,
    the first frame is read.

    Args:
        source: The image file.
        budget: The memory that several threads share for decoding, or None for a single thread.
        smallest: Height and width in pixels to which the image will be reduced, at least. A JPEG is decoded at a half,
            a quarter or an eighth of its size, which is much faster, if that is still four times as high and as wide. 0
            decodes it at its size.

    Raises:
        InputError: If there is no such file, its format is not read, it is damaged, decoding it would take too much
            memory, its pixel format does not define black and white, or the code inside the context cannot convert it.
    """
    path, content = source if isinstance(source, ImageSource) else (user_path(source), None)
    try:
        with lenient_pillow():
            _check_length(path.stat().st_size if content is None else len(content))
            with decoded_image(path if content is None else io.BytesIO(content), budget, smallest=smallest) as image:
                yield image
        return
    except InputError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = f"its format is none of {image_formats.readable_names()}"
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"it has more than {most:,} pixels, which take more than {_gigabytes(4 * most)} in RGB"
    except Exception as error:  # Pillow raises a dozen types of exceptions for damaged files.
        reason = (isinstance(error, OSError) and error.strerror) or printable(error) or type(error).__name__
    raise InputError(f"{printable(path)} cannot be read as an image ({reason})")


@contextlib.contextmanager
def decoded_image(
    source: Path | IO[bytes], budget: MemoryBudget | None = None, *, smallest: int = 0
) -> Iterator[Image.Image]:
    """Opens and decodes an image file, whose errors are passed on as they are.

    Args:
        source: The path or the content of the file.
        budget: The memory that several threads share for decoding, or None for a single thread.
        smallest: Height and width to which the image will be reduced; see ``open_image``.

    Raises:
        InputError: If decoding would take too much memory, or the pixel format does not define black and white.
        Exception: Any exception of Pillow, if the file is damaged or its format is not read.
    """
    with Image.open(source, formats=image_formats.readable()) as image:
        needed = _checked_memory(image)
        if smallest and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, (_KEPT * smallest, _KEPT * smallest))
        with budget.spend(needed) if budget else contextlib.nullcontext():
            image.load()
            _check_white(image)
            yield image


def _check_length(length: int) -> None:
    """Raises an InputError if a file is too long. The decoders of some formats read the whole file into memory."""
    if length > image_formats.MOST_MEMORY:
        raise InputError(f"it is {_gigabytes(length)} long; at most {_gigabytes(image_formats.MOST_MEMORY)} are read")


def _checked_memory(image: ImageFile.ImageFile) -> int:
    """Returns the bytes that decoding an image takes, or raises an InputError if they are too many."""
    if (needed := image_formats.decoding_memory(image)) > image_formats.MOST_MEMORY:
        raise InputError(
            f"decoding its {image.width:,} x {image.height:,} pixels can take {_gigabytes(needed)} of memory; at most "
            f"{_gigabytes(image_formats.MOST_MEMORY)} are used"
        )
    return needed


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


@contextlib.contextmanager
def _long_texts() -> Iterator[None]:
    """Lets Pillow read PNG files with long comments.

    It refuses an image for a compressed text or color profile of more than a megabyte. Here each may be as large as
    Pillow allows all of them together to be, 64 megabytes, which still stops a file that expands without end.
    """
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK = limit


def _check_white(image: Image.Image) -> None:
    """Raises an InputError if the values of an image's pixels have no defined white."""
    if image.mode == "F":
        raise InputError("its pixels are floating point, for which no value of white is defined")
    if image.mode == "I":
        extrema = np.asarray(image.getextrema())
        if extrema.min() < 0 or extrema.max() > _WHITE:
            raise InputError("its pixels are integers of more than 16 bits, for which no value of white is defined")


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Turns an image upright, crops it at its center to an aspect ratio and resizes it.

    Resizing is bilinear and antialiased. Rows are resized first and columns second, with 8-bit values in between, as
    Pillow did before version 13. Later versions resize the columns of some images first, which differs by at most one
    level of 255. Transparent images are drawn on white. 16-bit gray values are scaled to 8 bits.

    Args:
        image: An image in any pixel format, as ``open_image`` returns it.
        size: Width and height of the result, in pixels.

    Returns:
        The image in 8-bit RGB.
    """
    turn = _turn(image)
    whole = _upright_size(image)
    left, top, right, bottom = _center(whole, size)
    x0, x1 = _reach(left, right, size[0], whole[0])
    y0, y1 = _reach(top, bottom, size[1], whole[1])
    # Rows do not depend on each other, so strips of them give what the whole image gives.
    narrow = Image.new("RGB", (size[0], y1 - y0))
    rows = max(1, _STRIP // (x1 - x0))
    for start in range(y0, y1, rows):
        stop = min(start + rows, y1)
        strip = _to_rgb(_upright(image, turn, (x0, start, x1, stop)))
        box = (left - x0, 0, right - x0, stop - start)
        narrow.paste(strip.resize((size[0], stop - start), Image.Resampling.BILINEAR, box), (0, start - y0))
    return narrow.resize(size, Image.Resampling.BILINEAR, (0, top - y0, size[0], bottom - y0))


def _turn(image: Image.Image) -> _Turn | None:
    """Returns how an image is turned upright, or None if it is upright or its metadata is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises several types of exceptions for damaged metadata.
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turn = _turn(image)
    return (image.height, image.width) if turn is not None and turn.swaps else image.size


def _center(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the largest centered box of an image that has the aspect ratio of a size, as ``ImageOps.fit`` does.

    Pillow takes a box in single precision. A box that is rounded to it stays exact when it is moved by whole pixels.
    """
    width, height = whole
    ratio = size[0] / size[1]
    if width / height > ratio:
        crop = ratio * height, float(height)
    elif width / height < ratio:
        crop = float(width), width / ratio
    else:
        crop = float(width), float(height)
    left, top = (width - crop[0]) * 0.5, (height - crop[1]) * 0.5
    left, top, right, bottom = (float(np.float32(value)) for value in (left, top, left + crop[0], top + crop[1]))
    return left, top, right, bottom


def _reach(start: float, stop: float, count: int, length: int) -> tuple[int, int]:
    """Returns the range of pixels that bilinear resizing of ``[start, stop]`` to ``count`` pixels reads."""
    support = max((stop - start) / count, 1)
    return max(0, math.floor(start - support)), min(length, math.ceil(stop + support))


def _upright(image: Image.Image, turn: _Turn | None, box: tuple[int, int, int, int]) -> Image.Image:
    """Returns a box of the upright image."""
    if turn is None:
        return image.crop(box)
    (left, top, right, bottom), (width, height) = box, _upright_size(image)
    if turn.mirrors_x:
        left, right = width - right, width - left
    if turn.mirrors_y:
        top, bottom = height - bottom, height - top
    stored = (top, left, bottom, right) if turn.swaps else (left, top, right, bottom)
    return image.crop(stored).transpose(turn.method)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8-bit RGB on white."""
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        if (transparent := image.info.get("transparency")) is not None:
            gray = np.where(gray == transparent, _WHITE, gray)
        levels = np.rint(np.multiply(gray, 255 / _WHITE, dtype=np.float64))
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, images: ImageSpec) -> np.ndarray:
    """Crops an image at its center to a network's aspect ratio and resizes it to the network's size.

    An image of the network's size is returned unchanged. Gray is the luma of ITU-R BT.601.

    Args:
        image: An image in any pixel format, as ``open_image`` returns it.
        images: Specification of the network's images, with 1 (gray) or 3 (RGB) channels.

    Returns:
        Pixels, uint8 ``[H, W, C]``.

    Raises:
        InputError: If the network's images have another number of channels.
    """
    check_picture_channels(images)
    fitted = fit_image(image, (images.width, images.height))
    return np.asarray(fitted) if images.channels == 3 else np.asarray(fitted.convert("L"))[..., None]


def preview(image: Image.Image, images: ImageSpec, side: int) -> Image.Image:
    """Crops an image as ``to_pixels`` does, but keeps a size at which people recognize it.

    The image is never enlarged.

    Args:
        image: An image in any pixel format, as ``open_image`` returns it.
        images: Specification of the network's images.
        side: Largest length of the preview's longer side, in pixels.

    Returns:
        The preview in 8-bit RGB.
    """
    width, height = _upright_size(image)
    scale = min(width / images.width, height / images.height, side / max(images.width, images.height))
    return fit_image(image, (max(1, round(images.width * scale)), max(1, round(images.height * scale))))


def check_picture_channels(images: ImageSpec) -> None:
    """Checks that a network takes gray or RGB images.

    Args:
        images: Specification of the network's images.

    Raises:
        InputError: If the number of channels is neither 1 nor 3.
    """
    if images.channels not in (1, 3):
        raise InputError(f"the network's images have {images.channels} channels; image files have 1 (gray) or 3 (RGB)")
