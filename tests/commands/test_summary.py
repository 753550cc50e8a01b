"""The command ``seanet summary``: its numbers are those of the network, and its rows those of its calls."""

import sys

import pytest
from training_fixtures import TINY, made_dataset, settled, small

from seanet_jax import InputError
from seanet_jax.commands import summary
from seanet_jax.models import PRESETS


def here(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["summary", *map(str, arguments)])
    summary.run()
    return capsys.readouterr().out


def test_every_layer_of_a_preset_has_a_row(monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    lines = here(monkeypatch, capsys, "tiny", "--classes", 3, "--image-size", 8).splitlines()
    # By hand: the stem has 3x3x3x4 weights for 8x8 pixels, the classifier 8 features for 3 classes, and biases.
    assert lines[0].split() == ["layer", "class", "output", "parameters", "multiply-adds"]
    assert lines[1].split() == ["stem", "Conv", "8x8x4", "108", "6,912"]
    assert lines[3].split()[:3] == ["stages.0.blocks.0", "ResidualBlock", "8x8x8"]
    assert lines[4].split() == ["conv1", "Conv", "8x8x8", "288", "18,432"] and lines[4].startswith("  conv1")
    assert lines[-2].split() == ["classifier", "Linear", "3", "27", "24"]
    assert lines[-1].split()[:2] == ["in", "all"]
    assert len({len(line) for line in lines[:-1]}) == 1, "the numbers are not in columns"


def test_a_folder_has_its_own_classes_and_images(evaluated, tmp_path, monkeypatch, capsys):
    spec = made_dataset().image_spec
    settled(TINY).save_pretrained(tmp_path / "ten")  # ten classes, and no images
    with small(made_dataset()):
        of_run = here(monkeypatch, capsys, evaluated)
        assert "classifier" in of_run and "  8x8x4  " in of_run
        with pytest.raises(InputError, match=r"--classes is for presets, and .* is a folder"):
            here(monkeypatch, capsys, evaluated, "--classes", 3)
    with pytest.raises(InputError, match="does not say how images are normalized"):
        here(monkeypatch, capsys, tmp_path / "ten")
    assert spec.num_classes == 2
    row = next(line for line in of_run.splitlines() if line.startswith("classifier"))
    assert row.split()[2:4] == ["2", "10"]  # 4 features for 2 classes, and their biases


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seanet21"], r"there is no model 'seanet21'; .*did you mean seanet20"),
        (["seanet20", "--classes", "0"], "--classes is 0; it must be a positive integer"),
        (["seanet20", "--image-size", "-1"], "--image-size is -1; it must be a positive integer"),
    ],
)
def test_what_cannot_be_listed_is_refused(arguments, words, monkeypatch, capsys):
    with pytest.raises(InputError, match=words):
        here(monkeypatch, capsys, *arguments)


@pytest.mark.slow
def test_parameters_that_only_training_uses_are_named(monkeypatch, capsys):
    last = here(monkeypatch, capsys, "encapnet_plus_plus").splitlines()[-1]
    assert last == "2,067,462 of the parameters are used in training alone."
