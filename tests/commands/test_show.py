"""The command ``seanet show``: its page, what it prints, and what it refuses."""

import io
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from html_pages import Elements
from PIL import Image
from predict_fixtures import IMAGES, SPEC, expected_fixture, folder_fixture, model_fixture  # noqa: F401

from seanet_jax import InputError
from seanet_jax.commands import show
from seanet_jax.data.digits import load_digits
from seanet_jax.errors import RunError


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[1]).save("1.png")
    return "1.png"


def here(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["seanet show", *map(str, arguments)])
    show.run()


@pytest.mark.slow
def test_a_network_of_the_package_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    Image.fromarray(digits.test_images[0]).save("digit.png")
    here(monkeypatch, "seanet20_narrow-digits", "digit.png", "--top", 2)
    first, best, _, _, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("digit.png", "the maps are in show.html")
    assert best.split()[1] == digits.image_spec.class_names[digits.test_labels[0]]
    page = Elements((tmp_path / "show.html").read_text())
    text = page.text()
    for words in ("Stage 3: 128 channels become 32", "Squeeze-excitation weights", "8 x 8 pixels, weighted"):
        assert words in text
    assert "seanet show seanet20_narrow-digits digit.png --top 2" in text
    # The image twice, two classes, six groups of four and their sums in three stages, and a figure of each stage.
    assert len(page.named("img")) == 2 + 2 + 3 * 6 * 5 + 3


def test_it_predicts_what_predict_does_and_reads_standard_input(folder, picture, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(Path(picture).read_bytes())))
    here(monkeypatch, folder, "-", "--out", "pages/found.html")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "-" and lines[-1] == "the maps are in pages/found.html"
    shares = [float(line.split("%")[0]) for line in lines[:3]]
    np.testing.assert_allclose(shares, 100 * np.sort(expected[1])[::-1], atol=0.006)


def test_what_cannot_be_shown_is_refused(folder, picture, tmp_path, monkeypatch):
    shutil.copy(picture, "photo.html")
    (tmp_path / "notes.txt").write_text("no image")
    for arguments, words in [
        ([folder, "no.png"], r"no\.png: there is no such file"),
        ([folder, tmp_path], "is a folder; name one image file"),
        ([folder, "notes.txt"], r"notes\.txt cannot be read as an image .*; name another file"),
        ([folder, picture, "--out", "page.png"], "page.png is no name of a page; give one that ends in .html"),
        ([folder, "photo.html", "--out", tmp_path / "photo.html"], "is the image; name another file"),
        ([folder, picture, "--top", 0], "--top is 0; it must be a positive integer"),
        ([folder, picture, "--which", "first"], "invalid choice"),
        (["resnet", picture], "'?resnet'? is neither a folder nor a network that comes with the package"),
        ([tmp_path, picture], "holds no run"),
    ]:
        with pytest.raises(InputError, match=words):
            here(monkeypatch, *arguments)
    assert not (tmp_path / "show.html").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--out: .*page\.html could not be written"):
        here(monkeypatch, folder, picture, "--out", tmp_path / "file" / "page.html")
