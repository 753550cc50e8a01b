"""The formats of image files that are read, and the memory that decoding one takes."""

import struct
from typing import IO, NamedTuple

from PIL import Image, ImageFile, Jpeg2KImagePlugin, TiffImagePlugin, features

# The most memory in bytes that decoding one image may take. Photos of up to 178,956,970 pixels, the most that Pillow
# opens by default, stay below it.
MOST_MEMORY = 2**31
# Pillow holds most images in four bytes per pixel, also those of three channels.
_BYTES_PER_PIXEL = 4


class _Format(NamedTuple):
    """A format of image files.

    Attributes:
        name: Name of the format in messages.
        decoder: Most bytes that the decoder holds beside the image, as measured, for each pixel that it decodes at once
            (of JPEG 2000 for each sample, because the number of channels is not limited).
        feature: Name of Pillow's optional feature that reads the format, or "" if it always reads it.
    """

    name: str
    decoder: int
    feature: str = ""


# Pillow reads dozens of formats. These are what cameras, phones, scanners, browsers and data sets write, and their
# decoders are the ones that are tested against hostile files. Other formats start a program (EPS starts Ghostscript),
# need a library that Pillow lacks (WMF, GRIB, HDF5, BUFR), or belong to editors, icons, games and old computers.
_FORMATS = {
    "AVIF": _Format("AVIF", 12, "avif"),
    "BMP": _Format("BMP", 4),
    "GIF": _Format("GIF", 0),
    "JPEG": _Format("JPEG", 8),  # also MPO, a JPEG with further images behind it; a progressive one is held twice
    "JPEG2000": _Format("JPEG 2000", 7, "jpg_2000"),
    "PNG": _Format("PNG", 0),
    "PPM": _Format("PPM", 8),  # also PBM, PGM and PFM
    "TIFF": _Format("TIFF", 8),
    "WEBP": _Format("WebP", 12, "webp"),
}


def readable() -> list[str]:
    """Returns Pillow's names of the formats that are read. Older or smaller builds of Pillow lack some of them."""
    Image.init()
    return [
        name
        for name, (_, _, feature) in _FORMATS.items()
        if name in Image.OPEN and (not feature or features.check(feature))
    ]


def readable_names() -> str:
    """Returns the names of the formats that are read, for a message: ``AVIF, BMP, ..., TIFF and WebP``."""
    *others, last = (_FORMATS[name].name for name in readable())
    return f"{', '.join(others)} and {last}"


def suffixes() -> set[str]:
    """Returns the suffixes of the formats that are read, in lower case and with their dots."""
    formats = {*readable(), "MPO"}
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def decoding_memory(image: ImageFile.ImageFile) -> int:
    """Returns the most bytes that decoding an image takes, which its header tells before anything is decoded.

    Args:
        image: An image that is opened but not loaded.

    Raises:
        ValueError: If the file has no header of that kind.
    """
    shown = at_once = image.width * image.height
    # The tiles of a file can be larger than its image, even in a file of a few kilobytes.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        at_once = max(shown, image.tag_v2.get(_TILE_WIDTH, 0) * image.tag_v2.get(_TILE_LENGTH, 0))
    elif isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and image.fp is not None:
        at_once = _samples_of_tile(image.fp)
    decoder = _FORMATS["JPEG" if image.format == "MPO" else image.format or ""].decoder
    return _BYTES_PER_PIXEL * shown + decoder * at_once


_TILE_WIDTH, _TILE_LENGTH = 322, 323

_CODESTREAM = b"\xff\x4f\xff\x51"


def _samples_of_tile(file: IO[bytes]) -> int:
    """Returns the number of samples in the largest tile of a JPEG 2000 image.

    They are in the header of the codestream (ISO/IEC 15444-1, A.5.1). The decoder goes by it, and not by the size that
    Pillow reads from the boxes before it.
    """
    place = file.tell()
    file.seek(_codestream(file) + len(_CODESTREAM) + 4)  # skips the segment's length and the capabilities
    header = file.read(34)
    file.seek(place)
    if len(header) < 34:
        raise ValueError("it ends in its header")
    width, height, left, top, tile_width, tile_height, _, _, components = struct.unpack(">8IH", header)
    return components * min(width - left, tile_width) * min(height - top, tile_height)


def _codestream(file: IO[bytes]) -> int:
    """Returns the offset of the codestream in a JPEG 2000 file, which has boxes (I.4) unless it is one itself."""
    offset, length = 0, 1
    # A length of 0 means that the box reaches to the end of the file, and one of 1 that the length follows.
    while length:
        file.seek(offset)
        header = file.read(16)
        if header.startswith(_CODESTREAM):
            return offset
        if len(header) < 16:
            break
        length, kind, long_length = struct.unpack(">I4sQ", header)
        if kind == b"jp2c":
            return offset + (16 if length == 1 else 8)
        offset += max(8, long_length if length == 1 else length)
    raise ValueError("it has no codestream")
