"""Runs every block of code in README, CONTRIBUTING and docs.

A shell runs the commands, on small networks and little data (see documented.py). Python makes networks small too, and
runs as it is written. What no test machine has (a cluster, a package index) is a stand-in, which runs the command it is
given or checks that the files it is given exist.
"""

import dataclasses
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from documented import RECIPES, small_dataset, small_preset
from flax import nnx
from forks import serving
from PIL import Image

from seanet_jax.models import PRESETS, SEANet
from seanet_jax.training import images
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    # changelog.md and contributing.md show the files of those names.
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if "--8<--" not in path.read_text()),
]
# Extras, by the package whose absence shows.
NEEDED = {
    "README.md": {"torch": "convert"},
    "docs/pytorch.md": {"torch": "convert"},
    "docs/onnx.md": {"jax2onnx": "onnx", "onnxruntime": "onnx"},
}
# Folders of runs that documents use without making them, with the preset of each.
RUNS = {"runs/cifar100-seanet20-seed0": "seanet20", "A": "seanet20_narrow", "B": "narrow_resnet20"}

_PIP = """
import re, sys, tomllib
from pathlib import Path
words = sys.argv[1:]
assert words[0] == "install", words
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for word in words[1:]:
    if word.endswith(".txt"):
        assert Path(word).exists(), word
    for extra in re.findall(r"\\w+", (re.search(r"^\\.\\[(.*)]$", word) or [0, ""])[1]):
        assert extra in project["optional-dependencies"], extra
"""

# The programs that the shell finds in a document's folder, each a line of bash.
_FORK = [sys.executable, "-S", "tests/support/forks.py", "forks"]
_DOCUMENTED = f"exec {shlex.join(_FORK)} tests/support/documented.py"
STAND_INS = {
    ".venv/bin/python": f'{_DOCUMENTED} "$@"',
    ".venv/bin/seanet": f'{_DOCUMENTED} -m seanet_jax "$@"',
    ".venv/bin/pip": f"exec {sys.executable} -c '{_PIP}' \"$@\"",
    "bin/python": f'{_DOCUMENTED} "$@"',
    "bin/python3": '[ "$1 $2" = "-m venv" ]',
    "bin/pip": f"exec {sys.executable} -c '{_PIP}' \"$@\"",
    # The command begins at the first word that is a program; the words before it are flags of the launcher.
    "bin/srun": 'while [ ! -x "$1" ]; do shift; done; exec "$@"',
    "bin/mpirun": 'while [ ! -x "$1" ]; do shift; done; exec "$@"',
    "bin/sbatch": 'test -x "$1"',
    "bin/kubectl": '[ "$1 $2" = "apply -f" ] && test -f "$3"',
}


class Block(NamedTuple):
    line: int
    language: str
    code: str


def blocks(document):
    text = (ROOT / document).read_text()
    if document == "CONTRIBUTING.md":
        text = text[: text.index(f"\n## {RECIPES[0]}\n") + 1]
    found = [
        Block(text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), "a fence is not closed"
    return found


ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/support"}


@pytest.fixture(scope="module")
def forks():
    """The socket of the process that runs documented commands."""
    with serving(ENVIRONMENT) as path:
        yield path


@pytest.fixture
def folder(tmp_path, monkeypatch, forks):
    """Returns a copy of the checkout with stand-ins and the images that documents use."""
    (tmp_path / "forks").symlink_to(forks)
    for name in ("experiments", "tests", "examples", "benchmarks", "seanet_jax", "pyproject.toml", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, words in STAND_INS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{words}\n")
        path.chmod(0o755)
    for name in ("photo.jpg", "holiday/1.png", "holiday/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(images, "load", small_dataset)
    for preset in set(RUNS.values()):
        monkeypatch.setitem(PRESETS, preset, small_preset(PRESETS[preset]))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a function that trains a preset once and returns the run's folder. The preset and the data are small."""

    @functools.cache
    def run(preset):
        out = tmp_path_factory.mktemp(preset) / "run"
        fit(TrainConfig(model=preset, epochs=1, batch_size=8, eval_batch_size=20, out=out))
        return out

    return run


def make_runs(folder, code, trained):
    """Makes the runs and the checkpoint that a block uses, unless an earlier block has made them."""
    for name, preset in RUNS.items():
        if re.search(rf"(?<![\w/.-]){name}(?![\w-])", code) and not (folder / name).exists():
            shutil.copytree(trained(preset), folder / name)
    if "best_model.pth" in code and not (folder / "best_model.pth").exists():
        write_checkpoint(folder / "best_model.pth")


def write_checkpoint(path):
    """Writes a checkpoint in the format of the release for CIFAR-100, of a small network."""
    import torch

    from seanet_jax.models.pytorch import state_dict

    config = dataclasses.replace(PRESETS["seanet20"], num_classes=100)
    arrays = {n: torch.tensor(array) for n, array in state_dict(SEANet(config, rngs=nnx.Rngs(0))).items()}
    parameters = [torch.nn.Parameter(tensor) for name, tensor in arrays.items() if "running" not in name]
    sgd = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    sum(parameter.sum() for parameter in parameters).backward()
    sgd.step()
    saved = {f"module.{name}": tensor for name, tensor in arrays.items()}
    # A documented training ends after one epoch here, so that the checkpoint must be of an earlier one to be continued.
    torch.save({"epoch": 0, "state_dict": saved, "optimizer": sgd.state_dict(), "best_acc1": torch.tensor(78.67)}, path)


def run(folder, block):
    environment = os.environ | ENVIRONMENT | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    if block.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block.code + "\nwait\n"]
    elif block.language == "python":
        # jax2onnx warns of its own.
        python = [sys.executable] if "jax2onnx" in block.code else _FORK
        small = (
            "import documented\ndocumented.make_presets_small()\n"
            if re.search(r"fit\(|create_model\(", block.code)
            else ""
        )
        command = [*python, "-c", small + block.code]
    else:
        return
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"line {block.line}:\n{block.code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_code_runs(document, folder, trained):
    for package, extra in NEEDED.get(document, {}).items():
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[{extra}]'")
    found = blocks(document)
    assert {block.language for block in found} <= {"bash", "python", ""}, "a language that is not run"
    if document == "docs/studies.md":
        shutil.copytree(ROOT / "docs", folder / "docs")  # the records that results.py reads
    for block in found:
        if document == "docs/scaling.md":
            shutil.rmtree(folder / "runs", ignore_errors=True)  # its blocks are alternatives
        make_runs(folder, block.code, trained)
        run(folder, block)


@pytest.mark.slow
def test_a_block_that_fails_is_noticed(folder):
    for language, code, reason in (
        ("bash", ".venv/bin/python experiments/digits.py --learning_speed 3", "error: Unrecognized options"),
        ("bash", "false\ntrue", "line 7"),
        ("bash", "srun --nodes=2 .venv/bin/python experiments/nothing.py", "FileNotFoundError"),
        ("bash", ".venv/bin/python tests/support/kill_and_resume.py --kicks 3", "unrecognized arguments"),
        ("bash", ".venv/bin/pip install -e '.[nothing]'", "AssertionError: nothing"),
        ("bash", ".venv/bin/python -m pytest tests/test_nothing.py", "line 7"),
        ("python", "import seanet_jax\nseanet_jax.nothing", "no attribute 'nothing'"),
    ):
        with pytest.raises(AssertionError, match=reason):
            run(folder, Block(7, language, code))


def test_contributors_are_told_where_everything_is():
    tree = next(block.code for block in blocks("CONTRIBUTING.md") if block.language == "")
    listed = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    package = ROOT / "seanet_jax"
    assert all((package / name).exists() for name in listed), listed
    there = {path.name + ("/" if path.is_dir() else "") for path in package.iterdir()}
    there = {name for name in there if name.endswith((".py", "/")) and not name.startswith("__")}
    assert there == set(listed), "CONTRIBUTING's list of rooms"


def test_the_extras_that_documents_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for document in DOCUMENTS:
        for named in re.findall(r"'(?:\.|seanet-jax)\[(.*?)\]'", (ROOT / document).read_text()):
            assert set(named.split(",")) <= extras.keys(), document


def test_the_tests_that_documents_name_exist():
    named = {file for document in DOCUMENTS for file in re.findall(r"`(tests/[\w/.]+)`", (ROOT / document).read_text())}
    assert {file for file in named if not (ROOT / file).exists()} == {"tests/ROOM/test_x.py"}  # a pattern
    assert len(named) > 15


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / document).read_text()):
            if "://" not in link:
                assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"
