"""The command ``seanet predict``: its output, its errors and its sheet."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predict_fixtures import IMAGES, SPEC, expected_fixture, model_fixture  # noqa: F401
from scipy.special import softmax
from training_fixtures import made_dataset

from seanet_jax import InputError
from seanet_jax.commands import predict
from seanet_jax.errors import RunError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import MOST, SIDE
from seanet_jax.inference.trained import load
from seanet_jax.printable import printable
from seanet_jax.training.run import fit


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "weights"
    model.save_pretrained(path, SPEC)
    return path


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


def test_the_command_prints_the_most_likely_classes(folder, pictures, expected, tmp_path):
    done = run(folder, pictures, pictures / "0.png", "--top", 2, "--json", "--sheet", "out/sheet.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    order = [0, 1, 2, 3, 4, 5, 6, 0]
    assert [prediction["path"] for prediction in found] == [
        str(pictures / (f"deeper/{number}.PNG" if number > 4 else f"{number}.png")) for number in order
    ]
    for prediction, number in zip(found, order, strict=True):
        likeliest = np.argsort(-expected[number])[:2]
        assert [one["name"] for one in prediction["predictions"]] == [SPEC.class_names[index] for index in likeliest]
        probabilities = [one["probability"] for one in prediction["predictions"]]
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


def test_one_broken_file_that_is_named_is_an_error_before_any_prediction(folder, pictures, tmp_path):
    broken = pictures / "deeper/3.png"
    broken.write_bytes((pictures / "3.png").read_bytes()[:80])
    done = run(folder, pictures, broken, "--sheet", "sheet.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {pictures}/deeper/3.png cannot be read as an image (")
    assert done.stderr.endswith("); name another file, or leave it out\n")
    assert not (tmp_path / "sheet.png").exists()


def test_one_broken_file_in_a_folder_does_not_end_the_others(folder, pictures, expected, tmp_path, monkeypatch, capsys):
    broken = pictures / "2.png"
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(RunError, match=r"^1 of 7 images could not be read; the others were classified$"):
        here(monkeypatch, folder, pictures, "--top", 1, "--json", "--sheet", tmp_path / "sheet.png")
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [Path(entry["path"]).stem for entry in found] == list("0123456")
    for number, entry in enumerate(found):
        if number == 2:
            assert entry.keys() == {"path", "error"}
            assert entry["error"].startswith(f"{broken} cannot be read as an image (")
            assert err == f"error: {entry['error']}\n"
        else:
            assert entry["predictions"][0]["name"] == SPEC.class_names[expected[number].argmax()]
    assert (tmp_path / "sheet.png").exists()
    for path in pictures.rglob("*.[pP][nN][gG]"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^none of the 7 images can be read; name other files or folders$"):
        here(monkeypatch, folder, pictures)


@pytest.mark.slow
def test_a_png_of_the_size_of_cifar_is_classified_exactly_as_its_array(tiny, tmp_path, monkeypatch, capsys):
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
    predictions = {}
    for which in ("best", "latest"):
        here(monkeypatch, config.out, tmp_path / "0.png", "--json", "--which", which)
        (found,) = json.loads(capsys.readouterr().out)
        predictions[which] = {prediction["name"]: prediction["probability"] for prediction in found["predictions"]}
        logits = Classifier(load(config.out, which), batch_size=1)(test[:1])
        probabilities = softmax(logits.astype(np.float64), axis=-1)[0]
        assert predictions[which] == pytest.approx(dict(zip(("dark", "bright"), probabilities, strict=True)), rel=1e-6)
    assert predictions["best"] != predictions["latest"]


def test_what_cannot_be_classified_is_refused(folder, pictures, tmp_path, monkeypatch, model):
    (tmp_path / "empty").mkdir()
    good = pictures / "0.png"
    for arguments, words in [
        ([folder, tmp_path / "no.png"], r"no\.png: there is no such file"),
        ([folder, tmp_path / "empty"], "empty holds no image; name a folder"),
        ([folder, pictures / "notes.txt"], r"notes\.txt .* \(its format is none of AVIF, BMP, .* and WebP\)"),
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
