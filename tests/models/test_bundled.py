"""The networks that come with the package: found by name, described by their cards, and as accurate as these say."""

import hashlib
import os
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from seanet_jax import InputError, SEANet, from_pretrained, load
from seanet_jax.inference.evaluation import evaluate, target_folder
from seanet_jax.models import weights
from seanet_jax.models.bundled import bundled_name, find_folder, list_bundled, trained_on

NAMES = list_bundled()
DIGITS = "seanet20_narrow-digits"
MOST_BYTES = 2_500_000


def card(name):
    return (find_folder(name) / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_found_by_its_name(name):
    folder = find_folder(name)
    assert (bundled_name(folder), bundled_name(Path("mine") / name)) == (name, None)
    model, dataset = name.split("-")
    assert trained_on(name) == dataset
    config = load(name).model.config
    assert config == from_pretrained(name).config == SEANet.from_pretrained(name).config
    assert f"`{model}`, trained on {dataset}" in card(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_small_and_the_one_of_the_card(name):
    content = (find_folder(name) / weights.WEIGHTS).read_bytes()
    assert len(content) <= MOST_BYTES
    assert f"{len(content):,} bytes, SHA-256 `{hashlib.sha256(content).hexdigest()}`" in card(name)
    assert {array.dtype.name for array in weights.read(name).arrays.values()} == {"float16"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_accurate_as_its_card_says(name, tmp_path):
    if trained_on(name) != "digits" and "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("TFDS_DATA_DIR names no folder with CIFAR-100")
    found = evaluate(name, out=tmp_path)
    claimed, images = re.search(r"\*\*Test accuracy:\*\* ([\d.]+) % of ([\d,]+) test images", card(name)).groups()
    assert (f"{100 * found['top_1_accuracy']:.2f}", f"{found['images']:,}") == (claimed, images)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation", "report.html"}


def test_an_evaluation_is_written_beside_the_runs(tmp_path):
    assert target_folder(DIGITS, None) == Path("runs") / DIGITS
    assert target_folder(DIGITS, tmp_path) == tmp_path


def test_a_wrong_name_lists_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (load, from_pretrained, evaluate):
        with pytest.raises(InputError, match=f"neither a folder nor .*{DIGITS}.*; did you mean {DIGITS}?"):
            read("seanet20_narow-digits")


def test_a_folder_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = from_pretrained(DIGITS)
    network.classifier.kernel.set_value(jnp.zeros_like(network.classifier.kernel[...]))
    network.save_pretrained(DIGITS)
    assert not from_pretrained(DIGITS).classifier.kernel[...].any()
