"""Image files of every kind become the pixels that a network takes, or are refused."""

import itertools
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from path_fixtures import obeying_permissions
from PIL import Image, ImageOps, PngImagePlugin, features
from predict_fixtures import IMAGES, SPEC

from seanet_jax import ImageSpec, InputError
from seanet_jax.data import image_file
from seanet_jax.data.image_file import ImageSource, find_images, fit_image, open_image, preview, to_pixels

FORMATS = "AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF and WebP"
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def read_image(path):
    """The image in RGB and upright, in its own size."""
    with open_image(path) as image:
        return fit_image(image, image_file._upright_size(image))


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
    with pytest.raises(InputError, match=r"it has more than 2 pixels, which take more than 0\.0 GB in RGB"):
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


def test_only_formats_that_are_read_are_found_in_a_folder(tmp_path, monkeypatch):
    stubs = ["clip.mpg", "a.h5", "a.hdf", "a.bufr", "a.grib", "a.wmf", "a.emf", "figure.eps", "figure.ps"]
    others = ["a.psd", "a.icns", "a.ico", "a.tga", "a.fits", "a.dds", "a.pcx", "a.xpm"]
    for name in [*stubs, *others, "a.png", "a.JPG", "a.mpo", "a.jp2", "a.txt"]:
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "a.jp2", "a.mpo", "a.png"]
    monkeypatch.setattr(features, "check", lambda name: False)
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "a.mpo", "a.png"]


def _in_two_steps(image, size):
    """The reference: the whole image in RGB, its rows resized, then its columns."""

    class Boxed:
        def __init__(self, size):
            self.size = size

        def resize(self, size, method, box):
            return box

    left, top, right, bottom = ImageOps.fit(Boxed(image.size), size)
    rows = image.resize((size[0], image.height), Image.Resampling.BILINEAR, (left, 0, right, image.height))
    return rows.resize(size, Image.Resampling.BILINEAR, (0, top, size[0], bottom))


def _random_image(mode, size, random):
    if mode == "I;16":
        return Image.fromarray(random.randint(0, 65536, size[::-1]).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(random.randint(0, 65536, size[::-1]).astype(np.int32))
    rgb = Image.fromarray(random.randint(0, 256, (*size[::-1], 3)).astype(np.uint8))
    alpha = Image.fromarray(random.randint(0, 256, size[::-1]).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        rgb.putalpha(alpha)
    return rgb.quantize(16) if mode == "P" else rgb.convert(mode)


def _white_background(image):
    """The whole image in RGB, by Pillow and NumPy at once."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_strips_of_an_image_give_what_the_whole_image_gives(mode, monkeypatch):
    random = np.random.RandomState(0)
    sizes = [(61, 40), (40, 61), (7, 90), (90, 7), (32, 32)]
    for strip, orientation in itertools.product((1, 300), range(10)):
        monkeypatch.setattr(image_file, "_STRIP", strip)
        image = _random_image(mode, sizes[orientation % 5], random)
        image.getexif()[0x0112] = orientation
        whole = _white_background(ImageOps.exif_transpose(image))
        for size in [(8, 8), (12, 5), (5, 12), (64, 80), image.size, whole.size]:
            found = np.asarray(fit_image(image, size))
            np.testing.assert_array_equal(found, np.asarray(_in_two_steps(whole, size)))
            pillows = np.asarray(ImageOps.fit(whole, size, Image.Resampling.BILINEAR))
            assert np.abs(found.astype(int) - pillows).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_of_the_upright_image_is_read_from_the_stored_one(orientation):
    image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
    image.getexif()[0x0112] = orientation
    whole, turn = ImageOps.exif_transpose(image), image_file._turn(image)
    for box in [(0, 0, *whole.size), (1, 2, 3, 5), (0, 1, 2, 3)]:
        np.testing.assert_array_equal(image_file._upright(image, turn, box), whole.crop(box))


@pytest.fixture
def pillows_peak(monkeypatch):
    """The most bytes that images of Pillow have held at once since a call of ``reset``."""
    most = [0]
    new = Image.Image._new

    def counted(self, core):
        stats = Image.core.get_stats()
        most[0] = max(most[0], stats["allocated_blocks"] - stats["freed_blocks"])
        return new(self, core)

    class Peak:
        def reset(self):
            most[0] = 0
            Image.core.reset_stats()

        def bytes(self):
            return most[0] * Image.core.get_block_size()

    usual = Image.core.get_block_size()
    Image.core.set_block_size(4096)
    monkeypatch.setattr(Image.Image, "_new", counted)
    yield Peak()
    Image.core.set_block_size(usual)


@pytest.mark.parametrize("name", ["grey16.png", "rgba.png", "palette.png", "turned.jpg"])
def test_memory_beside_the_decoded_image_depends_on_the_size_of_the_result(tmp_path, name, pillows_peak):
    values = np.add.outer(np.arange(1800), np.arange(2400))
    if name == "grey16.png":
        image = Image.fromarray((values * 13).astype(np.uint16))
    elif name == "rgba.png":
        image = Image.fromarray(np.stack([values % 256] * 4, -1).astype(np.uint8))
    else:
        image = Image.fromarray((values % 256).astype(np.uint8)).convert("P" if name == "palette.png" else "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
    with open_image(tmp_path / name) as image:
        pillows_peak.reset()
        tracemalloc.start()
        pixels, shown = to_pixels(image, SPEC), preview(image, SPEC, 160)
        numpys = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert pixels.shape == (8, 12, 3) and max(shown.size) == 160
    # A copy of the image in RGB takes 17 MB.
    assert 0 < pillows_peak.bytes() < 6e6
    assert numpys < 6e6


def test_an_image_with_a_long_comment_is_read(tmp_path):
    image, limit = Image.fromarray(IMAGES[0]), PngImagePlugin.MAX_TEXT_CHUNK
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 3_000_000, zip=True)
    texts.add_itxt("Description", "y" * 3_000_000, zip=True)
    image.save(tmp_path / "long.png", pnginfo=texts, icc_profile=b"z" * 3_000_000)
    np.testing.assert_array_equal(read_image(tmp_path / "long.png"), IMAGES[0])
    assert limit == PngImagePlugin.MAX_TEXT_CHUNK
    # Two hundred megabytes in a small file are still refused.
    texts.add_text("Bomb", "x" * 200_000_000, zip=True)
    image.save(tmp_path / "bomb.png", pnginfo=texts)
    with pytest.raises(InputError, match=r"bomb\.png cannot be read as an image \("):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_an_image_with_damaged_metadata_is_read_as_it_is_stored(tmp_path, suffix):
    image = Image.new("RGB", (12, 8), RED)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "<x " * 1000)
    options = {"exif": b"Exif\0\0garbage", "icc_profile": b"no profile"}
    image.save(tmp_path / f"a{suffix}", **options, **({"pnginfo": texts} if suffix == ".png" else {}), lossless=True)
    assert np.abs(np.asarray(read_image(tmp_path / f"a{suffix}"), int) - RED).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000_000), (5_000_000, 1)])
def test_an_image_of_any_shape_is_read(tmp_path, size, pillows_peak):
    Image.new("1", size, 1).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as image:
        pillows_peak.reset()
        assert (to_pixels(image, SPEC) == 255).all() and max(preview(image, SPEC, 48).size) <= 2
    assert pillows_peak.bytes() < 1e6


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path):
    (tmp_path / "stub.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for path, reason in [
        (tmp_path, "Is a directory"),
        (tmp_path / "no.png", "No such file or directory"),
        (tmp_path / "stub.h5", f"its format is none of {FORMATS}"),
    ]:
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert str(caught.value) == f"{path} cannot be read as an image ({reason})"


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path):
    for folder in (tmp_path, tmp_path / "closed", tmp_path / ".hidden"):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / "a.png")
    (tmp_path / "closed").chmod(0)
    with obeying_permissions():
        assert find_images(tmp_path) == [tmp_path / "a.png", tmp_path / "closed"]
        with pytest.raises(InputError, match=r"closed cannot be read as an image \((Permission denied|Is a dir\w+)\)"):
            open_image(tmp_path / "closed").__enter__()
        with pytest.raises(InputError, match=r"closed cannot be read \(Permission denied\)"):
            find_images(tmp_path / "closed")
    (tmp_path / "closed").chmod(0o700)


def test_an_image_is_read_from_a_pipe(tmp_path):
    made = Image.radial_gradient("L")
    made.save(tmp_path / "a.png")
    reader, writer = os.pipe()
    os.write(writer, (tmp_path / "a.png").read_bytes())
    os.close(writer)
    with open_image(f"/dev/fd/{reader}") as image:
        assert image.tobytes() == made.tobytes()
    os.close(reader)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_gives_nearly_the_same_pixels(tmp_path, orientation):
    # Smooth, as photos are: waves of several lengths in each color.
    y, x = np.mgrid[:600, :800] / 100
    waves = np.stack([np.sin(x * (2 + color) + y) + np.cos(y * 3 - color * x) for color in range(3)], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray((128 + 60 * waves).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with open_image(tmp_path / "a.jpg") as image, open_image(tmp_path / "a.jpg", smallest=32) as reduced:
        assert (image.size, reduced.size) == ((800, 600), (200, 150))  # 1/8 would leave 75 rows, fewer than 4 x 32
        whole, found = (np.asarray(fit_image(one, (32, 32)), np.int32) for one in (image, reduced))
    assert np.abs(whole - found).max() <= 8 and np.abs(whole - found).mean() < 1
    for suffix, smallest in ((".jpg", 200), (".png", 8)):  # too small to be halved, and no JPEG
        Image.fromarray((128 + 60 * waves).astype(np.uint8)).save(tmp_path / f"b{suffix}")
        with open_image(tmp_path / f"b{suffix}", smallest=smallest) as image:
            assert image.size == (800, 600)


def test_an_image_in_memory_is_named_in_errors():
    with open_image(ImageSource(Path("standard input"), b"P6 1 1 255 abc")) as image:
        assert image.getpixel((0, 0)) == (97, 98, 99)
    with (
        pytest.raises(InputError, match=r"^standard input cannot be read as an image"),
        open_image(ImageSource(Path("standard input"), b"P6")),
    ):
        pass
