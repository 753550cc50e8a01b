"""Reads image files in any format that Pillow knows, and turns them into the pixels that a network takes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seanet_jax.errors import InputError
from seanet_jax.files import printable
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import is_file, reading

# The largest 16-bit value, which is white.
_WHITE = 65535


def find_images(folder: Path) -> Sequence[Path]:
    """Returns the image files in a folder and its subfolders, sorted by path.

    An image file is one with a suffix that Pillow reads. Files and folders whose names begin with a dot are skipped,
    because they are an operating system's own. Links to folders are not followed.

    Args:
        folder: The folder to search.

    Raises:
        InputError: If the folder holds no image file.
    """
    with reading(folder):  # rglob passes over folders that it may not list
        next(folder.iterdir(), None)
    Image.init()
    suffixes = {suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN}
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and is_file(path)
    )
    if not found:
        raise InputError(f"{printable(folder)} holds no image; name a folder with files such as .png or .jpg in it")
    return found


def read_image(path: Path) -> Image.Image:
    """Reads an image file as 8-bit RGB.

    The image is rotated as its EXIF orientation says and drawn on white if it is transparent. 16-bit gray values are
    scaled to 8 bits. Of an animation, the first frame is read.

    Args:
        path: The image file.

    Raises:
        InputError: If there is no such file, it is not an image, it is damaged or larger than Pillow opens, or its
            pixel format does not define black and white.
    """
    try:
        # Pillow warns about oddities of files that it can still read.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except InputError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "its format is none that Pillow knows"
    except Image.DecompressionBombError:
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    except Exception as error:  # Pillow raises a dozen types of exceptions for damaged files.
        reason = (isinstance(error, OSError) and error.strerror) or printable(error) or type(error).__name__
    raise InputError(f"{printable(path)} cannot be read as an image ({reason}); name another file, or leave it out")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8-bit RGB on white. Raises an InputError if its pixels have no defined white."""
    if image.mode == "F":
        raise InputError("its pixels are floating point, for which no value of white is defined")
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > _WHITE:
            raise InputError("its pixels are integers of more than 16 bits, for which no value of white is defined")
        if (transparent := image.info.get("transparency")) is not None:
            gray = np.where(gray == transparent, _WHITE, gray)
        return Image.fromarray(np.rint(gray * (255 / _WHITE)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, images: ImageSpec) -> np.ndarray:
    """Crops an image at its center to a network's aspect ratio and resizes it to the network's size.

    Resizing is bilinear and antialiased. An image of the network's size is returned unchanged. Gray is the luma of
    ITU-R BT.601.

    Args:
        image: The image, in RGB.
        images: Specification of the network's images, with 1 (gray) or 3 (RGB) channels.

    Returns:
        Pixels, uint8 ``[H, W, C]``.

    Raises:
        InputError: If the network's images have another number of channels.
    """
    check_picture_channels(images)
    fitted = ImageOps.fit(image, (images.width, images.height), Image.Resampling.BILINEAR)
    return np.asarray(fitted) if images.channels == 3 else np.asarray(fitted.convert("L"))[..., None]


def preview(image: Image.Image, images: ImageSpec, side: int) -> Image.Image:
    """Crops an image as ``to_pixels`` does, but keeps a size at which people recognize it.

    The image is never enlarged.

    Args:
        image: The image, in RGB.
        images: Specification of the network's images.
        side: Largest length of the preview's longer side, in pixels.
    """
    scale = min(image.width / images.width, image.height / images.height, side / max(images.width, images.height))
    size = max(1, round(images.width * scale)), max(1, round(images.height * scale))
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def check_picture_channels(images: ImageSpec) -> None:
    """Checks that a network takes gray or RGB images.

    Args:
        images: Specification of the network's images.

    Raises:
        InputError: If the number of channels is neither 1 nor 3.
    """
    if images.channels not in (1, 3):
        raise InputError(f"the network's images have {images.channels} channels; image files have 1 (gray) or 3 (RGB)")
