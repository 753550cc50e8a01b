"""The recipes of CONTRIBUTING.md, followed step by step: the blocks of code in the document are what runs here."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from documented import RECIPES
from PIL import Image
from training_fixtures import TINY

from seanet_jax.__main__ import main
from seanet_jax.data import registry
from seanet_jax.models import PRESETS, families

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


class Recipe(NamedTuple):
    """The blocks of a section: Python to put into a file, and lines of a shell."""

    python: list[str]
    commands: list[list[str]]


def recipe(heading):
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    lines = "".join(re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)).splitlines()
    return Recipe(
        re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL), list(map(shlex.split, lines))
    )


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the blocks of a recipe in an empty folder with a picture; what they register is forgotten afterwards."""
    before = [(table, dict(table)) for table in (registry.DATASETS, PRESETS)]
    monkeypatch.setitem(PRESETS, "resnet20", TINY)  # compiles in seconds
    monkeypatch.setattr(families, "_FAMILIES", list(families._FAMILIES))
    monkeypatch.chdir(tmp_path)
    # As if the process had restarted itself with malloc tuned.
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    Image.fromarray(np.full((9, 12, 3), 210, np.uint8)).save("photo.jpg")

    def run(heading, *, commands=True):
        blocks = recipe(heading)
        for code in blocks.python:
            exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "made"})
        # What each command prints.
        printed = []
        for program, *arguments in blocks.commands if commands else ():
            assert program == ".venv/bin/seanet"
            monkeypatch.setattr(sys, "argv", ["seanet", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
            output = capsys.readouterr()
            assert not ended.value.code, output.err
            printed.append(output.out)
        return printed

    yield run
    for table, rows in before:
        for name in table.keys() - rows.keys():
            del table[name]


def config_of(folder):
    """Returns what a run was told."""
    return json.loads(Path(folder, "config.json").read_text())["config"]


def test_the_recipes_are_those_of_the_document():
    assert list(RECIPES) == re.findall(r"^## (Add .*|Change .*)$", TEXT, re.MULTILINE)
    in_recipes = sum(len(found.python) for found in map(recipe, RECIPES))
    assert in_recipes == TEXT.count("```python"), "a block of Python is in no recipe"


@pytest.mark.slow
def test_a_data_set_is_added(run):
    _, evaluation, prediction = run("Add a data set")
    assert config_of("runs/brightness")["dataset"] == "brightness"
    assert Path("runs/brightness/summary.json").exists()
    assert Path("runs/brightness/report.html").exists()
    assert "top-1" in evaluation
    assert "dark" in prediction and "bright" in prediction


@pytest.mark.slow
def test_a_network_is_added(run):
    run("Add a data set", commands=False)
    _, evaluation, prediction = run("Add a network")
    # Its own recipe, which no flag names.
    assert config_of("runs/plain")["learning_rate"] == 0.05
    assert "top-1" in evaluation
    assert "bright" in prediction


@pytest.mark.slow
def test_the_recipe_is_changed(run):
    run("Add a data set", commands=False)
    run("Add a network", commands=False)
    _, evaluation, prediction = run("Change the recipe")
    config = config_of("runs/adam")
    assert (config["optimizer"], config["learning_rate"]) == ("adam", 0.01)
    assert "top-1" in evaluation
    assert "bright" in prediction
