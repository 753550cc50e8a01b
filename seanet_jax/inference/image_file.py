"""Any image file that Pillow reads, as the pixels a network was trained on."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seanet_jax.errors import InputError
from seanet_jax.files import printable
from seanet_jax.image_spec import ImageSpec

# White, and the largest value of 16 bits.
_WHITE = 65535


def find_images(folder: Path) -> Sequence[Path]:
    """The files in a folder, and in those within it, whose suffix is one that Pillow reads; sorted.

    Without what begins with a dot, which is a system's own. Links to folders are not followed.

    Raises:
        InputError: there is none.
    """
    Image.init()
    suffixes = {suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN}
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise InputError(f"{printable(folder)} holds no image; name a folder with files such as .png or .jpg in it")
    return found


def read_image(path: Path) -> Image.Image:
    """The first picture of a file, upright, in RGB of 8 bits; what is transparent is white.

    16-bit greys are scaled to 8 bits.

    Args:
        path: of the file.

    Raises:
        InputError: there is no such file, it is no image, damaged or larger than Pillow opens, or what black and white
            are in it is not defined.
    """
    try:
        if not path.is_file():
            raise InputError("there is no such file")
        # Pillow warns of what it can read all the same.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except InputError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "it is of no format that Pillow knows"
    except Image.DecompressionBombError:
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    except Exception as error:  # damage shows as any of a dozen types
        reason = (isinstance(error, OSError) and error.strerror) or printable(error) or type(error).__name__
    raise InputError(f"{printable(path)} cannot be read as an image ({reason}); name another file, or leave it out")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise InputError("its pixels are floating point, of which nobody knows what is white")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > _WHITE:
            raise InputError("its pixels are integers of more than 16 bits, of which nobody knows what is white")
        if (transparent := image.info.get("transparency")) is not None:
            grey = np.where(grey == transparent, _WHITE, grey)
        return Image.fromarray(np.rint(grey * (255 / _WHITE)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, images: ImageSpec) -> np.ndarray:
    """What a network sees of a picture: its centre, of the network's aspect, resized by antialiased bilinear filtering.

    A picture of the network's size stays as it is.

    Args:
        image: RGB.
        images: the network's; its channels are 1 (grey, by ITU-R BT.601's luma) or 3.

    Returns:
        uint8 ``[H, W, C]``.

    Raises:
        InputError: the network's images have another number of channels.
    """
    check_picture_channels(images)
    fitted = ImageOps.fit(image, (images.width, images.height), Image.Resampling.BILINEAR)
    return np.asarray(fitted) if images.channels == 3 else np.asarray(fitted.convert("L"))[..., None]


def preview(image: Image.Image, images: ImageSpec, side: int) -> Image.Image:
    """The part of a picture that a network sees, for people: not made smaller than they need.

    Args:
        image: RGB.
        images: the network's.
        side: pixels of the longer side, at most.
    """
    scale = min(image.width / images.width, image.height / images.height, side / max(images.width, images.height))
    size = max(1, round(images.width * scale)), max(1, round(images.height * scale))
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def check_picture_channels(images: ImageSpec) -> None:
    """Demands that a network's images are grey or in colour.

    Raises:
        InputError: they are neither.
    """
    if images.channels not in (1, 3):
        raise InputError(f"the network's images have {images.channels} channels; pictures have 1 (grey) or 3 (RGB)")
