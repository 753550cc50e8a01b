"""Image files of every kind become the pixels that a network takes, or are refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from predict_fixtures import IMAGES, SPEC

from seanet_jax import ImageSpec, InputError
from seanet_jax.inference.image_file import find_images, preview, read_image, to_pixels

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def _png16(path, values):
    """A PNG of 16 bits a sample, by hand: grey, or RGB."""
    height, width, *colors = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if colors else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )


def save_upside_down(path):
    image = Image.new("RGB", (16, 8), BLACK)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to the right: red comes to the top
    image.save(path, exif=exif)


def save_palette(path, **options):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLACK])
    image.putpixel((0, 0), 0)
    image.save(path, **options)


def save_half_transparent(path):
    Image.fromarray(np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)).save(path)


KINDS = {
    "exif.png": (save_upside_down, (8, 16), [((0, 0), RED), ((7, 7), RED), ((0, 8), BLACK)]),
    "alpha.png": (save_half_transparent, (3, 1), [((0, 0), RED), ((1, 0), WHITE), ((2, 0), (204, 204, 204))]),
    "palette.png": (save_palette, (4, 4), [((0, 0), RED), ((1, 0), BLACK)]),
    "clear.gif": (lambda path: save_palette(path, transparency=0), (4, 4), [((0, 0), WHITE), ((1, 0), BLACK)]),
    "grey.png": (lambda path: Image.new("L", (2, 2), 77).save(path), (2, 2), [((0, 0), (77,) * 3)]),
    "grey_alpha.png": (lambda path: Image.new("LA", (2, 2), (0, 0)).save(path), (2, 2), [((1, 1), WHITE)]),
    "bits.png": (lambda path: Image.new("1", (2, 2), 1).save(path), (2, 2), [((1, 1), WHITE)]),
    "cmyk.tiff": (lambda path: Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(path), (2, 2), [((0, 0), RED)]),
    "grey16.png": (
        lambda path: _png16(path, np.array([[0, 0x8080, 65535]])),
        (3, 1),
        [((0, 0), BLACK), ((1, 0), (128,) * 3), ((2, 0), WHITE)],
    ),
    "grey16.tiff": (
        lambda path: Image.fromarray(np.array([[65535, 257]], np.uint16)).save(path),
        (2, 1),
        [((0, 0), WHITE), ((1, 0), (1, 1, 1))],
    ),
    "rgb16.png": (lambda path: _png16(path, np.array([[[65535, 0, 0]]])), (1, 1), [((0, 0), RED)]),
    "lossless.webp": (lambda path: Image.new("RGB", (2, 2), RED).save(path, lossless=True), (2, 2), [((0, 0), RED)]),
    "several.gif": (
        lambda path: Image.new("RGB", (2, 2), RED).save(
            path, save_all=True, append_images=[Image.new("RGB", (2, 2), BLACK)]
        ),
        (2, 2),
        [((0, 0), RED)],
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_image_becomes_rgb(tmp_path, name):
    save, size, points = KINDS[name]
    save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", size)
    for point, color in points:
        assert image.getpixel(point) == color, point
    assert find_images(tmp_path) == [tmp_path / name]


def test_pixels_without_a_white_are_refused(tmp_path, monkeypatch):
    for name, values, words in [
        ("float.tiff", np.ones((2, 2), np.float32), "floating point"),
        ("long.tiff", np.full((2, 2), 70000, np.int32), "more than 16 bits"),
    ]:
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(InputError, match=words):
            read_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(InputError, match="it has more than 2 pixels"):
        read_image(tmp_path / "long.tiff")


def test_pictures_are_cropped_to_their_centre_and_averaged():
    # 4:1 for a network of 3:2; a third of the width stays, black and white by turns, and averages to grey.
    values = np.full((64, 256, 3), RED, np.uint8)
    values[:, 70:186:2], values[:, 71:186:2] = 0, 255
    pixels = to_pixels(Image.fromarray(values), SPEC)
    assert pixels.shape == (8, 12, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 127.5).max() < 3
    shown = preview(Image.fromarray(values), SPEC, 48)
    assert shown.size == (48, 32) and np.asarray(shown)[..., 0].std() < 3
    exact = Image.fromarray(IMAGES[0])
    np.testing.assert_array_equal(to_pixels(exact, SPEC), IMAGES[0])
    np.testing.assert_array_equal(preview(exact, SPEC, 48), IMAGES[0])

    grey = ImageSpec(8, 12, (0.5,), (0.5,), ("a",))
    assert to_pixels(Image.new("RGB", (12, 8), RED), grey).tolist() == np.full((8, 12, 1), 76).tolist()
    with pytest.raises(InputError, match="have 2 channels"):
        to_pixels(exact, ImageSpec(8, 12, (0.5,) * 2, (0.5,) * 2, ("a",)))
