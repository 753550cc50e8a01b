"""The formats of image files: each gives the right pixels or one sentence, and none more memory than it may take."""

import re
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seanet_jax import InputError
from seanet_jax.data import image_formats
from seanet_jax.data.image_file import fit_image, open_image

SIDE = 32


def read_image(path):
    """The image in RGB and upright, in its own size."""
    with open_image(path) as image:
        turned = image.getexif().get(0x0112, 1) > 4
        return fit_image(image, image.size[::-1] if turned else image.size)


def _halves(mode, left, right):
    image = Image.new(mode, (SIDE, SIDE), left)
    image.paste(right, (SIDE // 2, 0, SIDE, SIDE))
    return image


def _palette(transparency=None):
    image = _halves("P", 0, 1)
    image.putpalette([200, 10, 30, 0, 0, 255])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def _array(dtype, left, right):
    return Image.fromarray(np.repeat([[left] * (SIDE // 2) + [right] * (SIDE // 2)], SIDE, 0).astype(dtype))


# For each pixel format, an image of two halves and the colors that are read for them.
MODES = {
    "1": (lambda: _halves("1", 0, 1), (0, 0, 0), (255, 255, 255)),
    "L": (lambda: _halves("L", 40, 200), (40,) * 3, (200,) * 3),
    "LA": (lambda: _halves("LA", (40, 255), (0, 51)), (40,) * 3, (204,) * 3),
    "P": (_palette, (200, 10, 30), (0, 0, 255)),
    "P, transparent": (lambda: _palette(0), (255, 255, 255), (0, 0, 255)),
    "RGB": (lambda: _halves("RGB", (200, 10, 30), (0, 0, 255)), (200, 10, 30), (0, 0, 255)),
    "RGBA": (lambda: _halves("RGBA", (200, 10, 30, 255), (0, 0, 255, 51)), (200, 10, 30), (204, 204, 255)),
    "CMYK": (lambda: _halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), (255, 0, 0), (0, 0, 255)),
    "YCbCr": (lambda: _halves("RGB", (200, 10, 30), (0, 99, 0)).convert("YCbCr"), (200, 10, 30), (0, 99, 0)),
    "I;16": (lambda: _array(np.uint16, 0x2828, 65535), (40,) * 3, (255,) * 3),
    "I": (lambda: _array(np.int32, 0x2828, 65535), (40,) * 3, (255,) * 3),
    "F": (lambda: _array(np.float32, 0, 1), None, None),
}
# The pixel formats that Pillow writes into each format without converting them.
WRITES = {
    ".avif": ("L", "RGB", "RGBA"),
    ".bmp": ("1", "L", "P", "RGB"),
    ".gif": ("1", "L", "P", "P, transparent"),
    ".j2k": ("L", "LA", "RGB", "RGBA", "I;16"),
    ".jp2": ("L", "LA", "RGB", "RGBA", "YCbCr", "I;16"),
    ".jpg": ("1", "L", "RGB", "CMYK", "YCbCr"),
    ".mpo": ("L", "RGB", "CMYK", "YCbCr"),
    ".png": ("1", "L", "LA", "P", "P, transparent", "RGB", "RGBA", "I;16"),
    ".ppm": ("1", "L", "RGB", "I;16", "I", "F"),
    ".tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
    ".webp": ("L", "LA", "P", "P, transparent", "RGB", "RGBA"),
}
LOSSY = {".avif", ".jpg", ".mpo", ".webp"}


@pytest.mark.parametrize("suffix", WRITES)
def test_every_pixel_format_of_every_format_is_read_or_refused_in_a_sentence(tmp_path, suffix):
    for mode in WRITES[suffix]:
        make, left, right = MODES[mode]
        path = tmp_path / f"{mode[0]}{suffix}"
        make().save(path)
        if left is None:
            with pytest.raises(InputError, match=r"\(its pixels are floating point, for which no value of white is"):
                read_image(path)
            continue
        image = read_image(path)
        assert image.size == (SIDE, SIDE), mode
        for point, color in (((5, 5), left), ((SIDE - 5, 5), right)):
            difference = np.abs(np.subtract(image.getpixel(point), color))
            # A conversion from YCbCr rounds twice.
            assert difference.max() <= (8 if suffix in LOSSY else 2 if mode == "YCbCr" else 0), (
                mode,
                point,
                difference,
            )


def test_the_list_of_formats_is_the_one_that_the_tests_cover():
    assert {Image.registered_extensions()[suffix] for suffix in WRITES} - {"MPO"} == set(image_formats._FORMATS)


# The corner to which each orientation turns the upper left corner, as (right, lower).
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("suffix", [".avif", ".jpg", ".mpo", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_every_format_with_exif_is_turned_upright(tmp_path, suffix, orientation):
    stored = Image.new("RGB", (96, 48), "blue")
    stored.paste((255, 0, 0), (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    with open_image(tmp_path / f"a{suffix}") as image:
        upright = fit_image(image, (48, 96) if orientation > 4 else (96, 48))
    right, lower = CORNERS[orientation]
    for corner in CORNERS.values():
        color = upright.getpixel((corner[0] * (upright.width - 9) + 4, corner[1] * (upright.height - 9) + 4))
        assert (color[0] > 200) == (corner == (right, lower)), (corner, color)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff", ".avif", ".mpo"])
def test_of_many_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", *["black", "blue"] * 20)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    color = read_image(tmp_path / f"a{suffix}").getpixel((5, 5))
    assert color[0] > 240 and max(color[1:]) < 10


OTHERS = ["BLP", "DDS", "EPS", "ICNS", "ICO", "MSP", "PCX", "SGI", "TGA", "XBM", "QOI"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_of_another_format_is_refused_by_the_names_of_those_that_are_read(tmp_path, monkeypatch, name, suffix):
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this version of Pillow does not write {name}")
    image = Image.new({"XBM": "1", "MSP": "1", "BLP": "P"}.get(name, "RGB"), (SIDE, SIDE))
    path = tmp_path / f"a{suffix}"
    image.save(path, name)
    monkeypatch.setattr(subprocess, "Popen", None)  # Ghostscript would be started
    with pytest.raises(InputError) as caught:
        read_image(path)
    names = "AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF and WebP"
    assert str(caught.value) == f"{path} cannot be read as an image (its format is none of {names})"


# Memory.


def refused(path):
    """The reason why an image is refused, in a process that would be killed for decoding it."""
    with pytest.raises(InputError) as caught:
        read_image(path)
    return re.fullmatch(rf"{re.escape(str(path))} cannot be read as an image \((.*)\)", str(caught.value))[1]


@pytest.mark.parametrize("suffix", WRITES)
def test_the_memory_of_an_image_is_known_before_it_is_decoded(tmp_path, monkeypatch, suffix):
    path, side = tmp_path / f"a{suffix}", 256
    Image.new("RGB", (side, side)).save(path)
    with Image.open(path) as image:
        needed = image_formats.decoding_memory(image)
    assert 4 * side**2 <= needed <= 32 * side**2
    monkeypatch.setattr(image_formats, "MOST_MEMORY", needed)
    read_image(path)
    monkeypatch.setattr(image_formats, "MOST_MEMORY", needed - 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # nothing may be decoded
    reason = "decoding its 256 x 256 pixels can take 0.0 GB of memory; at most 0.0 GB are used"
    assert refused(path) == reason


def _png_header(width, height, rows=b""):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _tiff(tags):
    """A TIFF of one value for each tag, with no pixels."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(8)


def test_small_files_of_many_pixels_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(_png_header(50_000, 50_000))
    assert refused(tmp_path / "a.png") == "it has more than 178,956,970 pixels, which take more than 0.7 GB in RGB"

    # A tile that is larger than the image, which libtiff allocates whole.
    gray = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 324: 8, 325: 1}
    (tmp_path / "a.tif").write_bytes(_tiff(gray | {322: 20_000, 323: 15_000}))
    by_us = r"decoding its 1 x 1 pixels can take 2\.4 GB of memory; at most 2\.1 GB are used"
    by_pillow = "it has more than 178,956,970 pixels, which .*"  # which has looked at tiles since its version 12
    assert re.fullmatch(f"{by_us}|{by_pillow}", refused(tmp_path / "a.tif"))
    (tmp_path / "a.tif").write_bytes(_tiff(gray | {322: 10_000, 323: 10_000}))
    assert "GB" not in refused(tmp_path / "a.tif")  # it is damaged, and not too large

    # A box that says 32 x 32, before a codestream of 20,000 x 20,000 in one tile.
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.jp2")
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    start = content.index(b"\xff\x4f\xff\x51") + 8
    for place in (start, start + 4, start + 16, start + 20):
        assert content[place : place + 4] == struct.pack(">I", SIDE)
        content[place : place + 4] = struct.pack(">I", 20_000)
    (tmp_path / "a.jp2").write_bytes(content)
    reason = "decoding its 32 x 32 pixels can take 8.4 GB of memory; at most 2.1 GB are used"
    assert refused(tmp_path / "a.jp2") == reason
    # In tiles of 1,000 x 1,000 it would be decoded one by one.
    for place in (start + 16, start + 20):
        content[place : place + 4] = struct.pack(">I", 1_000)
    (tmp_path / "a.jp2").write_bytes(content)
    assert "GB" not in refused(tmp_path / "a.jp2")
    for cut in (10, 40, start + 10):
        (tmp_path / "a.jp2").write_bytes(content[:cut])
        assert "GB" not in refused(tmp_path / "a.jp2")


def test_a_file_that_is_longer_than_its_pixels_could_be_is_refused(tmp_path):
    with (tmp_path / "a.webp").open("wb") as file:
        file.truncate(2**40)
    assert refused(tmp_path / "a.webp") == "it is 1,099.5 GB long; at most 2.1 GB are read"


# A fork for each image begins with a peak of its own.
_MEASURE = """
import os, resource, sys
from seanet_jax.data import image_formats
from seanet_jax.data.image_file import open_image
from PIL import Image
image_formats.readable()
from PIL import AvifImagePlugin, WebPImagePlugin
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for path in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0, path
        continue
    with Image.open(path) as image:
        needed = image_formats.decoding_memory(image)
    before = peak()
    with open_image(path):
        print(needed, peak() - before, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITES)
def test_decoding_takes_no_more_memory_than_was_said(tmp_path, suffix):
    side = 2500
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (side // 10, side // 10, 3), np.uint8))
    variants = {"": {}}
    if suffix in (".jpg", ".mpo"):
        variants["progressive"] = {"progressive": True, "quality": 95, "subsampling": 0}
    if suffix == ".tiff":
        variants["one strip"] = {"compression": "tiff_adobe_deflate", "tiffinfo": {278: side}}
        variants["jpeg"] = {"compression": "jpeg", "tiffinfo": {278: side}}
    if suffix == ".webp":
        variants["lossless"] = {"lossless": True, "method": 0}
    if suffix == ".avif":
        variants = {"": {"speed": 10}, "full": {"speed": 10, "subsampling": "4:4:4"}}
    modes = [mode for mode in ("L", "RGB", "RGBA", "CMYK") if mode in WRITES[suffix]] or ["P"]
    paths = []
    for mode in modes:
        image = noise.convert(mode).resize((side, side))
        for variant, options in variants.items():
            if (mode, variant) in (("RGBA", "jpeg"), ("CMYK", "jpeg")):
                continue
            paths.append(tmp_path / f"{mode} {variant}{suffix}")
            image.save(paths[-1], **options)
    done = subprocess.run([sys.executable, "-c", _MEASURE, *paths], capture_output=True, text=True, check=True)
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        needed, taken = map(int, line.split())
        # The file itself, and what the libraries allocate once.
        assert taken <= needed + path.stat().st_size + 10e6, path.stem


def test_long_texts_and_profiles_take_a_bounded_memory(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Bomb", "x" * 100_000_000, zip=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "text.png", pnginfo=texts)
    Image.new("RGB", (2, 2)).save(tmp_path / "profile.png", icc_profile=bytes(100_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("text.png", "profile.png"):
        assert (tmp_path / name).stat().st_size < 1_000_000
        assert "Decompressed data too large" in refused(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # kilobytes
