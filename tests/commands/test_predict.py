"""The command ``seanet predict``: its output, its errors and its sheet."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import forks
import numpy as np
import pytest
from PIL import Image
from predict_fixtures import IMAGES, SPEC, expected_fixture, folder_fixture, model_fixture  # noqa: F401
from scipy.special import softmax
from training_fixtures import made_dataset

from seanet_jax import InputError
from seanet_jax.commands import predict
from seanet_jax.data.image_file import ImageSource
from seanet_jax.errors import RunError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import MOST, SIDE
from seanet_jax.inference.trained import load
from seanet_jax.printable import printable
from seanet_jax.training.run import fit


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
    return forks.run(["-m", "seanet_jax", "predict", *arguments], cwd=cwd)


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


def test_a_broken_file_does_not_end_the_others(folder, pictures, expected, tmp_path, monkeypatch, capsys):
    broken = pictures / "2.png"
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(RunError, match=r"^1 of 7 images could not be read; the others were classified$"):
        named = [pictures / f"{number}.png" for number in range(5)]  # like those of a folder
        here(monkeypatch, folder, *named, pictures / "deeper", "--top", 1, "--json", "--sheet", tmp_path / "sheet.png")
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
        ([folder, good, "--output", "a.txt"], "a.txt is no name of a table; give one that ends in .csv or .jsonl"),
        ([folder, good, "--output", "a.csv", "--json"], "not allowed with argument"),
        ([folder], "the following arguments are required: images"),
        ([tmp_path, good], "holds no run"),
    ]:
        with pytest.raises(InputError, match=words):
            here(monkeypatch, *arguments)
    monkeypatch.setattr(predict, "image_sources", lambda given: [ImageSource(good)] * (MOST + 1))
    with pytest.raises(InputError, match="a sheet holds 1,000 at most"):
        here(monkeypatch, folder, good, "--sheet", tmp_path / "sheet.png")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    for flag, name in (("--sheet", "sheet.png"), ("--output", "table.csv")):
        with pytest.raises(RunError, match=f"^{flag}: .*could not be written"):
            here(monkeypatch, folder, good, flag, tmp_path / "file" / name)


def test_a_table_has_a_row_for_each_class_and_for_each_file_that_cannot_be_read(
    folder, pictures, expected, tmp_path, monkeypatch, capsys
):
    (pictures / "2.png").write_bytes(b"no image")
    rows = {}
    for suffix in (".csv", ".jsonl"):
        table = tmp_path / "made" / f"table{suffix}"
        with pytest.raises(RunError, match=r"^1 of 7 images could not be read"):
            here(monkeypatch, folder, pictures, "--top", 2, "--output", table)
        assert capsys.readouterr().out == f"{table}: 6 images\n"
        text = table.read_text()
        rows[suffix] = (
            list(csv.DictReader(text.splitlines())) if suffix == ".csv" else list(map(json.loads, text.splitlines()))
        )
    for number, (first, second) in enumerate(zip(rows[".csv"], rows[".jsonl"], strict=True)):
        assert {name: value for name, value in first.items() if value} == {
            name: printable(value) for name, value in second.items()
        }, number
    found = rows[".jsonl"]
    assert len(found) == 2 * 6 + 1
    assert found[4].keys() == {"file", "error"} and "2.png cannot be read as an image (" in found[4]["error"]
    assert [row["rank"] for row in found[:4]] == [1, 2, 1, 2]
    likeliest = expected[0].argmax()
    assert (found[0]["file"], found[0]["class"]) == (str(pictures / "0.png"), SPEC.class_names[likeliest])
    assert found[0]["probability"] == pytest.approx(expected[0][likeliest], abs=1e-5)


def test_an_image_is_read_from_standard_input(folder, pictures, tmp_path):
    command = ["-m", "seanet_jax", "predict", folder, "-", "--json"]
    with (pictures / "1.png").open("rb") as image:
        done = forks.run(command, cwd=tmp_path, stdin=image)
    (found,) = json.loads(done.stdout)
    (same,) = json.loads(run(folder, pictures / "1.png", "--json", cwd=tmp_path).stdout)
    assert found == same | {"path": "-"}
    done = forks.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: - cannot be read as an image (its format is none of ")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("net.pth", "convert it into the folder of a run by seanet convert FILE FOLDER"),
        ("net.stablehlo", "an exported artifact runs by the lines in its .json"),
        ("model.safetensors", "the one that holds this file"),
        ("net", "name the folder of a run or of pretrained weights"),
    ],
)
def test_a_file_in_place_of_a_folder_is_told_what_to_do_with_it(pictures, tmp_path, monkeypatch, name, remedy):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} is a file; .*{remedy}"):
        here(monkeypatch, tmp_path / name, pictures)
