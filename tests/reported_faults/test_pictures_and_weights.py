"""Pictures and weights of others."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from command_fixtures import run_here
from flax import nnx
from PIL import Image, PngImagePlugin

from seanet_jax import ImageSpec, InputError, SEANet, SEANetConfig, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of the weights of a small network for images of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("small") / "weights"
    config = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, num_classes=2)
    images = ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ("dark", "bright"))
    SEANet(config, rngs=nnx.Rngs(0)).save_pretrained(folder, images)
    return folder


@pytest.fixture
def copied(weights, tmp_path):
    """A copy of these weights, to be changed."""
    return shutil.copytree(weights, tmp_path / "weights")


@pytest.fixture
def predict(monkeypatch, capsys):
    """Returns a function that predicts, and returns the exit status, what is printed as JSON, and stderr."""

    def run(*arguments):
        status, out, error = run_here("predict", [*arguments, "--json"], monkeypatch, capsys)
        return status, json.loads(out) if out else None, error

    return run


def test_a_folder_with_files_that_pillow_only_identifies_is_classified(weights, predict, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    for name, content in [
        ("clip.mpg", b"\0\0\1\xb3\x14\0\xf0" + bytes(99)),
        ("data.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)),
        ("data.grib", b"GRIB\0\0\0\1" + bytes(99)),
        ("data.bufr", b"BUFR" + bytes(99)),
        ("old.wmf", b"\xd7\xcd\xc6\x9a\0\0" + bytes(99)),
    ]:
        (pictures / name).write_bytes(content)
    status, entries, error = predict(weights, pictures)
    assert (status, error) == (0, "")
    assert [entry["path"] for entry in entries] == [str(pictures / "a.png")]
    status, entries, error = predict(weights, pictures / "clip.mpg")
    assert (status, entries) == (2, None)
    assert "clip.mpg cannot be read as an image (its format is none of AVIF, BMP, GIF, JPEG," in error


def test_one_broken_image_does_not_end_a_hundred(weights, predict, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(99):
        Image.new("RGB", (8, 8), (number, number, number)).save(pictures / f"{number:02}.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG")
    status, entries, error = predict(weights, pictures)
    assert status == 1 and len(entries) == 100
    assert [entry["path"] for entry in entries if "error" in entry] == [str(pictures / "broken.png")]
    assert all(len(entry["predictions"]) == 2 for entry in entries if "error" not in entry)
    first, last = error.splitlines()
    assert first == f"error: {entries[-1]['error']}"
    assert last == "error: 1 of 100 images could not be read; the others were classified"


def test_an_image_is_not_refused_for_its_comment(weights, predict, tmp_path):
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", "x" * 1_500_000, zip=True)
    for name, options in [("with.png", {"pnginfo": comment}), ("without.png", {})]:
        Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / name, **options)
    status, (one, other), error = predict(weights, tmp_path / "with.png", tmp_path / "without.png")
    assert (status, error) == (0, "")
    assert one["predictions"] == other["predictions"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stage_sizes": [10**4]}, "stages.0.blocks.1.conv1.kernel is missing"),
        ({"stage_sizes": [1] * 10**6, "widths": [8] * 10**6}, "stage_sizes has 1,000,000 blocks"),
        ({"widths": [10**9]}, "more than 2,147,483,647"),
        ({"model_type": "vit"}, "is of the model_type 'vit'; it must be seanet or encapnet"),
        ({"hidden_size": 768}, "has the field hidden_size, which seanet_jax"),
    ],
)
def test_a_hostile_config_of_weights_is_one_sentence(copied, fields, words):
    about = json.loads((copied / "config.json").read_text()) | fields
    (copied / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        load(copied)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_json_nested_a_thousand_deep_is_one_sentence(copied):
    (copied / "config.json").write_text('{"a":' * 1000 + "1" + "}" * 1000)
    with pytest.raises(InputError, match=r"config\.json is damaged \(it is nested more than 50 levels deep\)"):
        load(copied)


def test_weights_of_eight_bits_are_one_sentence(copied):
    path = copied / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = 0
    for name in header.keys() - {"__metadata__"}:
        start, end = end, end + math.prod(header[name]["shape"])
        header[name] |= {"dtype": "F8_E4M3", "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    with pytest.raises(InputError, match=r"model\.safetensors has numbers of fewer than 16 bits: .* is F8_E4M3"):
        load(copied)


def test_a_large_image_takes_memory_for_itself_and_no_copies(tmp_path):
    # 16-bit gray of 36 megapixels: 72 MB in memory. Integers and floats of 64 bits took 576 MB more.
    Image.fromarray(np.full((6000, 6000), 0x8080, np.uint16)).save(tmp_path / "gray.png")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from seanet_jax import ImageSpec\n"
        "from seanet_jax.data.image_file import open_image, to_pixels\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_image(Path(sys.argv[1])) as image:\n"
        "    pixels = to_pixels(image, ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ('a',)))\n"
        "assert (pixels == 128).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "gray.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 140_000
