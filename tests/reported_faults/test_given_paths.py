"""Paths that users give: in a home folder or without one, of what may not be read, URLs and pipes."""

import os
import re
import shutil
from pathlib import Path

import pytest
from command_fixtures import run_here
from path_fixtures import obeying_permissions
from PIL import Image
from training_fixtures import TINY, TINY_RUN, made_dataset, settled, small

from seanet_jax import ImageSpec, TrainConfig, fit, load
from seanet_jax.models import PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder in which the test works, in a home folder that is empty too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder of weights and an image for it."""
    folder, names = tmp_path_factory.mktemp("network"), tuple(map(str, range(TINY.num_classes)))
    settled(TINY).save_pretrained(folder / "weights", ImageSpec(8, 8, (0.4,) * 3, (0.3,) * 3, names))
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    return folder / "weights", folder / "red.png"


@pytest.fixture
def homeless(place, no_home, monkeypatch):
    """Takes every folder away that could hold data or what is compiled."""
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_folder_nothing_is_cached_and_one_line_says_so(network, place, homeless, monkeypatch, capsys):
    status, out, error = run_here("predict", network, monkeypatch, capsys)
    assert status == 0 and out.startswith(str(network[1]))
    assert error.count("\n") == 1 and error.startswith("there is no home folder; name a folder with XDG_")
    assert not any(place.iterdir())


def test_without_a_home_folder_the_folder_of_the_data_is_asked_for(place, homeless, monkeypatch, capsys):
    status, _, error = run_here("train", ["--max-steps", "1", "--no-compilation-cache"], monkeypatch, capsys)
    assert status == 2
    assert error == "error: there is no home folder that could hold the data set; name its folder with --data-dir\n"
    assert not any(place.iterdir())


@pytest.fixture(scope="module")
def forbidden(network, in_peace, tmp_path_factory):
    """A folder with files and folders that may not be read. Returns it, and values for arguments."""
    place = tmp_path_factory.mktemp("forbidden")
    weights, picture = network
    for name in ("weights of a closed config", "weights that are closed"):
        shutil.copytree(weights, place / name)
    with small(made_dataset()):
        run = in_peace().out
    for name in ("run", "run of closed checkpoints", "closed/run"):
        shutil.copytree(run, place / name)
    shutil.copy(picture, place / "closed.png")
    closed = [place / "weights of a closed config/config.json", place / "weights that are closed/model.safetensors"]
    closed += [place / "run/config.json", place / "closed.png", place / "closed"]
    closed += [path for path in (place / "run of closed checkpoints/checkpoints").rglob("*") if path.is_file()]
    for path in closed:
        path.chmod(0)
    yield place, {"weights": weights, "picture": picture, "long": "a" * 300}
    for path in closed:
        path.chmod(0o700)


@pytest.mark.parametrize(
    "arguments",
    [
        "predict closed/run {picture}",
        "predict run {picture}",
        "predict {long} {picture}",
        "predict|weights of a closed config|{picture}",
        "predict|weights that are closed|{picture}",
        "predict|run of closed checkpoints|{picture}",
        "predict {weights} closed/x.png",
        "predict {weights} closed.png",
        "predict {weights} closed",
        "predict {weights} {long}.png",
        "predict {weights} {picture} --sheet closed/x.png",
        "predict {weights} {picture} --sheet {long}.png",
        "evaluate closed/run",
        "evaluate run",
        "evaluate {long}",
        "export closed/run x.stablehlo",
        "export {weights} closed/x.stablehlo",
        "export {weights} {long}.stablehlo",
        "convert closed/x.pth x",
        "convert {long} x",
        "convert {weights} closed/x.pth",
        "convert|run of closed checkpoints|x",
        "train --dataset digits --out closed/run",
        "train --dataset digits --out {long}",
        "train --dataset digits --resume --out run",
        "train --data-dir closed/data --out new",
        "train --data-dir {long} --out new",
        "compare --dataset digits --out closed/study",
        "ablate --dataset digits --out {long}",
        "analyze closed/run run",
        "analyze {long} run",
    ],
)
def test_what_may_not_be_read_is_refused_in_one_sentence(arguments, forbidden, monkeypatch, capsys):
    command, *flags = arguments.split("|") if "|" in arguments else arguments.split()
    place, values = forbidden
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    before = sorted(place.rglob("*"))
    with obeying_permissions():
        status, out, error = run_here(command, [flag.format(**values) for flag in flags], monkeypatch, capsys)
    assert status == 2 and (not out or out.startswith("device: "))
    why = "File name too long" if "long" in arguments else "Permission denied"
    assert re.fullmatch(rf"error: .* cannot be read (as an image )?\({why}\)[^\n]*\n", error)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "train --dataset digits --out gs://bucket/run",
        "train --out run --data-dir s3://bucket/data",
        "convert {weights} s3://bucket/w.pth",
        "convert hf://owner/name run",
        "predict gs://bucket/run {picture}",
        "predict {weights} https://example.org/cat.png",
        "predict {weights} {picture} --sheet gs://bucket/x.png",
        "evaluate gs://bucket/run",
        "export {weights} gs://bucket/x.stablehlo",
        "export gs://bucket/run x.stablehlo",
        "compare --out gs://bucket/study",
        "ablate --out gs://bucket/study",
        "analyze gs://bucket/one gs://bucket/two",
    ],
)
def test_a_url_is_refused_before_anything_is_written(arguments, network, place, monkeypatch, capsys):
    command, *flags = arguments.format(weights=network[0], picture=network[1]).split()
    status, out, error = run_here(command, flags, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: (\w+: )?\w+:/\S+ is a URL; only local folders and files can be used\n", error)
    assert not any(place.iterdir())


def test_a_url_in_the_environment_is_refused_before_anything_is_written(place, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    status, _, error = run_here("train", ["--out", "run"], monkeypatch, capsys)
    assert status == 2
    assert error == "error: TFDS_DATA_DIR: gs://bucket/data is a URL; only local folders and files can be used\n"
    assert not any(place.iterdir())


def test_the_home_folder_is_expanded_and_a_string_is_a_path(tiny, place, monkeypatch, capsys):
    fields = TINY_RUN | {"epochs": 1}  # of both runs, so that they are compiled once
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    status, _, _ = run_here("train", [*flags, "--out=~/runs/x"], monkeypatch, capsys)
    assert status == 0 and (Path.home() / "runs/x/summary.json").is_file()
    assert not any(place.iterdir())
    assert load("~/runs/x", "latest").step == 5
    fit(TrainConfig(out="runs/y", **fields))
    assert (place / "runs/y/summary.json").is_file() and load("runs/y", "latest").step == 5


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there is no /dev/fd")
def test_an_image_is_read_from_a_pipe(network, monkeypatch, capsys):
    weights, picture = network
    reader, writer = os.pipe()
    os.write(writer, picture.read_bytes())
    os.close(writer)
    status, piped, _ = run_here("predict", [weights, f"/dev/fd/{reader}"], monkeypatch, capsys)
    os.close(reader)
    assert status == 0
    _, named, _ = run_here("predict", [weights, picture], monkeypatch, capsys)
    assert piped.splitlines()[1:] == named.splitlines()[1:]
