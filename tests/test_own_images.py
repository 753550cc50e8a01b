"""A folder of images through every command, as a user does: train, evaluate, predict, export, resume."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from command_fixtures import run_here
from folder_fixtures import image, two_classes
from jax import export
from training_fixtures import TINIEST

from seanet_jax.data.image_file import open_image, to_pixels
from seanet_jax.inference.trained import load
from seanet_jax.models import PRESETS, EncapNetConfig

TRAIN = ("--model", "tiny", "--epochs", "1", "--batch-size", "8", "--dataset", "folder")


@pytest.fixture
def seanet(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, and returns its status, stdout and stderr."""
    monkeypatch.setitem(PRESETS, "tiny", TINIEST)
    monkeypatch.setitem(PRESETS, "tiny_capsules", EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return lambda name, *arguments: run_here(name, arguments, monkeypatch, capsys)


@pytest.mark.slow
def test_a_folder_of_images_of_any_size_becomes_a_network_that_serves(tmp_path, seanet):
    size = 96
    two_classes(tmp_path / "images", 15)
    status, _, error = seanet("train", *TRAIN, "--data-dir", "images", "--image-size", size, "--out", "run")
    assert status == 0, error
    status, out, error = seanet("evaluate", "run")
    assert (status, error) == (0, "")
    assert re.match(r"tiny on folder, best checkpoint \(epoch 1, step \d\), \d+ test images", out)
    assert "<title>tiny on folder: " in (tmp_path / "run/report.html").read_text()

    trained = load(tmp_path / "run")
    assert (trained.images.height, trained.images.width, trained.images.class_names) == (size, size, ("cat", "dog"))
    photo = tmp_path / "images/cat/0.png"
    status, out, _ = seanet("predict", "run", photo, "--json")
    (found,) = json.loads(out)
    predicted = {entry["name"]: entry["probability"] for entry in found["predictions"]}

    status, _, error = seanet("export", "run", "exported.stablehlo")
    assert status == 0, error
    artifact = export.deserialize(bytearray((tmp_path / "exported.stablehlo").read_bytes()))
    with open_image(photo) as opened:
        pixels = to_pixels(opened, trained.images)
    served = np.asarray(jax.jit(artifact.call)(pixels[None]))[0]
    np.testing.assert_allclose(served, [predicted["cat"], predicted["dog"]], atol=1e-5)

    # Its images are found where they are now, unless they are others.
    (tmp_path / "images").rename(tmp_path / "moved")
    status, _, error = seanet("evaluate", "run")
    assert status == 2 and "name the folder that holds it with --data-dir" in error
    assert seanet("evaluate", "run", "--data-dir", "moved")[0] == 0
    image(99).save(tmp_path / "moved/cat/new.png")
    status, _, error = seanet("evaluate", "run", "--data-dir", "moved")
    assert (
        status == 2
        and "error: run was trained on other images of the name folder, or they have changed since; name" in error
    )


@pytest.mark.slow
def test_a_run_resumes_on_the_same_images_alone(tmp_path, seanet):
    two_classes(tmp_path / "images", 15)
    train = ("train", *TRAIN, "--data-dir", "images", "--out", "run")
    assert seanet(*train, "--max-steps", 1)[0] == 0
    shutil.copytree(tmp_path / "images", tmp_path / "moved")
    shutil.rmtree(tmp_path / "images")
    train = ("train", *TRAIN, "--data-dir", "moved", "--out", "run", "--resume")
    assert seanet(*train, "--max-steps", 2)[0] == 0
    image(99).save(tmp_path / "moved/cat/new.png")
    status, _, error = seanet(*train)
    assert status == 2
    assert (
        "error: --resume: run was trained on other images of the name folder, or they have changed since; give" in error
    )


@pytest.mark.slow
def test_weights_are_tested_on_the_test_images_of_their_run(tmp_path, seanet):
    two_classes(tmp_path / "images", 30)
    (tmp_path / "images/cat/broken.png").write_text("no image")
    read = ("--test-fraction", "0.5", "--skip-broken")
    assert seanet("train", *TRAIN, "--data-dir", "images", *read, "--out", "run")[0] == 0
    assert seanet("convert", "run", "weights")[0] == 0
    assert seanet("evaluate", "run")[0] == 0
    evaluate = ("evaluate", "weights", "--dataset", "folder", "--data-dir", "images")
    status, _, error = seanet(*evaluate, *read)
    assert status == 0, error

    def found(name):
        about = json.loads((tmp_path / name / "evaluation/evaluation.json").read_text())
        return about["images"], about["top_1_accuracy"], about["loss"]

    assert found("weights") == found("run")
    assert seanet(*evaluate, "--skip-broken")[0] == 0
    assert found("weights")[0] < found("run")[0]
    status, _, error = seanet(*evaluate)
    assert status == 2 and "broken.png" in error
    for flag, *value in (read[:2], read[2:]):
        status, _, error = seanet("evaluate", "run", flag, *value)
        assert status == 2
        assert error == f"error: {flag}: run is a run, which says itself how its images are read; leave {flag} out\n"
    status, _, error = seanet("evaluate", "seanet20_narrow-digits", *read[:2], "--out", "out")
    assert status == 2 and "test_fraction is 0.5, but digits takes none; leave it out (it is for folder)" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_name_is_refused(tmp_path, seanet):
    status, _, error = seanet("train", *TRAIN)
    assert status == 2 and error.endswith(
        "error: the data set folder has no usual folder; name the folder that holds it with --data-dir\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_bad_folder_is_one_sentence_and_writes_nothing(tmp_path, seanet):
    two_classes(tmp_path / "images", 15)
    (tmp_path / "images/cat/a\n\x1b[31m.png").write_text("no image")
    train = ("train", *TRAIN, "--data-dir", "images", "--out", "run")
    status, _, error = seanet(*train)
    line = error.splitlines()[-1]
    assert status == 2 and not (tmp_path / "run").exists()
    assert line.startswith("error: 1 of 31 files cannot be read as images: ") and line.isprintable()
    assert line.endswith(
        "a\\n\\x1b[31m.png cannot be read as an image (its format is none of AVIF, BMP, GIF, JPEG, "
        "JPEG 2000, PNG, PPM, TIFF and WebP); mend or remove them, or leave them out with --skip-broken"
    )
    status, _, error = seanet(*train, "--skip-broken", "--max-steps", 1)
    assert status == 0 and "Left out: 1 of 31 files" in error


@pytest.mark.slow
def test_a_capsule_network_is_made_for_the_size_of_the_images(tmp_path, seanet):
    two_classes(tmp_path / "images", 15)
    train = ("train", "--model", "tiny_capsules", *TRAIN[2:], "--recipe", "encapnet", "--data-dir", "images")
    assert seanet(*train, "--image-size", 64, "--out", "run")[0] == 0
    assert load(tmp_path / "run").model.config.image_size == 64
    assert seanet("predict", "run", "images/cat/0.png")[0] == 0
