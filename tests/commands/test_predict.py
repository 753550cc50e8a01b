"""Files in, names and probabilities out: what is read of a file, what is refused, and the command itself."""

import dataclasses
import io
import json
import struct
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from training_fixtures import made_dataset, settled

from seanet_jax import ImageSpec, InputError, SEANetConfig
from seanet_jax.commands import predict
from seanet_jax.errors import RunError
from seanet_jax.files import printable
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import MOST, SIDE, Cell, Line, contact_sheet
from seanet_jax.inference.image_file import find_images, preview, read_image, to_pixels
from seanet_jax.inference.trained import Trained, load
from seanet_jax.training.run import fit

CONFIG = SEANetConfig(stage_sizes=(1,), widths=(16,), stem_width=4, num_classes=3)
SPEC = ImageSpec(8, 12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), ("cat", "<dog>", "\x1b[31mcow"))
_random = np.random.RandomState(0)
# Of one colour each, with noise: the network answers something else to each.
IMAGES = (_random.randint(0, 200, (7, 1, 1, 3)) + _random.randint(0, 56, (7, 8, 12, 3))).astype(np.uint8)
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module")
def model():
    made = settled(CONFIG)
    made.classifier.kernel[...] *= 0.1  # for probabilities that are not all 0 and 1
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "weights"
    model.save_pretrained(path, SPEC)
    return path


@pytest.fixture(scope="module")
def expected(model):
    pixels = (IMAGES / np.float32(255) - np.float32(SPEC.mean)) / np.float32(SPEC.std)
    found = np.asarray(jax.jit(lambda pixels: jax.nn.softmax(model(pixels)))(pixels.astype(np.float32)))
    assert found.std(0).min() > 0.01, "the images must differ in what they are taken for"
    return found


@pytest.fixture
def pictures(tmp_path):
    path = tmp_path / "pictures"
    (path / "deeper").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        name = f"deeper/{number}.PNG" if number > 4 else f"{number}.png"
        Image.fromarray(image).save(path / name)
    (path / "notes.txt").write_text("no image, and none by its name")
    (path / ".hidden").mkdir()
    for hidden in ("._0.png", ".hidden/0.png"):
        (path / hidden).write_text("no image, but by its name")
    return path


def run(*arguments, cwd):
    command = [sys.executable, "-W", "error", "-m", "seanet_jax", "predict", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def here(monkeypatch, *arguments):
    """The same without a process of its own."""
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    predict.run()


def test_the_command_names_what_the_network_answers(folder, pictures, expected, tmp_path):
    done = run(folder, pictures, pictures / "0.png", "--top", 2, "--json", "--sheet", "out/sheet.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    order = [0, 1, 2, 3, 4, 5, 6, 0]
    assert [answer["path"] for answer in found] == [
        str(pictures / (f"deeper/{number}.PNG" if number > 4 else f"{number}.png")) for number in order
    ]
    for answer, number in zip(found, order, strict=True):
        likeliest = np.argsort(-expected[number])[:2]
        assert [one["name"] for one in answer["predictions"]] == [SPEC.class_names[index] for index in likeliest]
        probabilities = [one["probability"] for one in answer["predictions"]]
        np.testing.assert_allclose(probabilities, expected[number][likeliest], atol=1e-5)
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 3 * SIDE and sheet.height > 3 * SIDE


def test_it_prints_lines_that_cannot_command_a_terminal(folder, pictures, expected, monkeypatch, capsys):
    here(monkeypatch, folder, pictures / "1.png", "--top", 9)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(pictures / "1.png")
    names = {"cat": 0, "<dog>": 1, r"\x1b[31mcow": 2}
    assert {line[10:].strip() for line in lines} == names.keys()
    for line in lines:
        assert float(line[:9].rstrip("% ")) == pytest.approx(100 * expected[1][names[line[10:].strip()]], abs=0.006)
    assert printable("a\nb\udcff é") == r"a\nb\udcff é"


def test_one_broken_file_among_good_ones_is_named_before_any_answer(folder, pictures, tmp_path):
    (pictures / "deeper/3.png").write_bytes((pictures / "3.png").read_bytes()[:80])
    done = run(folder, pictures, "--sheet", "sheet.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {pictures}/deeper/3.png cannot be read as an image (")
    assert done.stderr.endswith("); name another file, or leave it out\n")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.slow
def test_a_png_of_the_size_of_cifar_is_answered_exactly_as_its_array(tiny, tmp_path, monkeypatch, capsys):
    small = made_dataset()
    train, test = (images.repeat(4, 1).repeat(4, 2) for images in (small.train_images, small.test_images))
    spec = dataclasses.replace(small.image_spec, height=32, width=32)
    monkeypatch.setattr(
        "seanet_jax.training.images.load",
        lambda name, data_dir, mapped: dataclasses.replace(
            small, train_images=train, test_images=test, image_spec=spec
        ),
    )
    config = tiny(epochs=2)
    fit(config)
    Image.fromarray(test[0]).save(tmp_path / "0.png")
    capsys.readouterr()
    answers = {}
    for which in ("best", "latest"):
        here(monkeypatch, config.out, tmp_path / "0.png", "--json", "--which", which)
        (found,) = json.loads(capsys.readouterr().out)
        answers[which] = {answer["name"]: answer["probability"] for answer in found["predictions"]}
        logits = Classifier(load(config.out, which), batch_size=1)(test[:1])
        probabilities = softmax(logits.astype(np.float64), axis=-1)[0]
        assert answers[which] == pytest.approx(dict(zip(("dark", "bright"), probabilities, strict=True)), rel=1e-6)
    assert answers["best"] != answers["latest"]


def test_what_cannot_be_answered_is_refused(folder, pictures, tmp_path, monkeypatch, model):
    (tmp_path / "empty").mkdir()
    good = pictures / "0.png"
    for arguments, words in [
        ([folder, tmp_path / "no.png"], r"no\.png: there is no such file"),
        ([folder, tmp_path / "empty"], "empty holds no image; name a folder"),
        ([folder, pictures / "notes.txt"], r"notes\.txt .* \(its format is none that Pillow knows\)"),
        ([folder, good, "--top", 0], "--top is 0; it must be a positive integer"),
        ([folder, good, "--sheet", "sheet.jpg"], "no name of a PNG file"),
        ([folder, good, "--sheet", good], "is one of the images"),
        ([folder, good, "--which", "first"], "invalid choice"),
        ([folder], "the following arguments are required: images"),
        ([tmp_path, good], "holds no run"),
    ]:
        with pytest.raises(InputError, match=words):
            here(monkeypatch, *arguments)
    monkeypatch.setattr(predict, "_find", lambda given: [good] * (MOST + 1))
    with pytest.raises(InputError, match="a sheet holds 1,000 at most"):
        here(monkeypatch, folder, good, "--sheet", tmp_path / "sheet.png")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="could not be written"):
        here(monkeypatch, folder, good, "--sheet", tmp_path / "file/sheet.png")


def test_a_network_answers_any_number_of_images_in_batches(model, expected):
    classifier = Classifier(Trained(model, SPEC), batch_size=3)
    for count in (0, 1, 3, 7):
        logits = classifier(IMAGES[:count])
        assert logits.shape == (count, 3) and logits.dtype == np.float32
        np.testing.assert_allclose(jax.nn.softmax(logits), expected[:count], atol=1e-5)
    with pytest.raises(InputError, match=r"uint8 \[7, 12, 8, 3\]; they must be uint8 \[N, 8, 12, 3\]"):
        classifier(IMAGES.swapaxes(1, 2))
    fewer = ImageSpec(8, 12, SPEC.mean, SPEC.std, ("cat", "dog"))
    with pytest.raises(InputError, match="3 channels and 3 classes, but its image specification has 3 and 2"):
        Classifier(Trained(model, fewer), batch_size=3)


def test_logits_that_are_not_finite_are_no_answer(model):
    broken = settled(CONFIG)
    broken.classifier.bias[...] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        Classifier(Trained(broken, SPEC), batch_size=3)(IMAGES)


def _png16(path, values):
    """A PNG of 16 bits a sample, by hand: grey, or RGB."""
    height, width, *colours = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if colours else 0, 0, 0, 0)
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
    for point, colour in points:
        assert image.getpixel(point) == colour, point
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


def test_a_sheet_has_every_picture_and_its_words():
    cells = [Cell(Image.fromarray(image), [Line("a name that is too long by far", "9.9%")]) for image in IMAGES]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(cells))).convert("RGB")).astype(int)
    width, height = (sheet.shape[1] - 10) // 3, (sheet.shape[0] - 10) // 3
    for number, image in enumerate(IMAGES):
        y, x = 10 + number // 3 * height, 10 + number % 3 * width
        cell = sheet[y : y + SIDE, x : x + SIDE]
        big = image.repeat(13, 0).repeat(13, 1)  # 12 pixels, 13 times, are the most that fit in 160
        np.testing.assert_array_equal(cell[28:132, 2:158], big)
        words = sheet[y + SIDE + 1 : y + height - 10, x : x + SIDE]
        assert (words < 128).any((0, 2)).nonzero()[0].max() > SIDE - 10, "the value ends at the right"
        assert (sheet[y : y + height, x + SIDE + 1 : x + width] == 255).all(), "words stay below their picture"
    for count in (0, MOST + 1):
        with pytest.raises(InputError, match="give from 1 to 1000"):
            contact_sheet(cells[:1] * count)
