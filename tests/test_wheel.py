"""The wheel holds the package and nothing else, and works with its dependencies alone; the sdist can be tested."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import seanet_jax

ROOT = Path(__file__).parent.parent


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from, since setuptools leaves files of its own in what it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "checkpoints", "tensorboard", "*.lock", "lock")
    for name in ("seanet_jax", "tests", "docs", "examples", "experiments", "benchmarks", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("Dockerfile", ".dockerignore", ".gitignore", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def distributions(source, tmp_path_factory):
    """The sdist, and the wheel that is built from it, as for a release; nothing is downloaded."""
    out = tmp_path_factory.mktemp("distributions")
    run("-m", "build", "--no-isolation", "--outdir", str(out), str(source), cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(distributions):
    (built,) = distributions.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(distributions, tmp_path_factory):
    """The folder that the sdist unpacks to."""
    (built,) = distributions.glob("*.tar.gz")
    assert built.name == f"seanet_jax-{seanet_jax.__version__}.tar.gz"
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built) as archive:
        archive.extractall(folder, filter="data")
    return folder / built.name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_the_metadata_are_valid(distributions):
    pytest.importorskip("twine")
    run("-m", "twine", "check", "--strict", *map(str, distributions.iterdir()), cwd=distributions)


def test_the_license_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert archive.read(path) == (ROOT / "LICENSE").read_bytes()
        (path,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        assert "License-Expression: Apache-2.0\n" in archive.read(path).decode()


def test_the_sdist_has_what_its_tests_need(sdist, source):
    generated = {"PKG-INFO", "setup.cfg"}

    def files(folder):
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in paths if not {"seanet_jax.egg-info", "build"} & set(path.parts)}

    assert files(sdist) == files(source) | generated
    assert "tests/conftest.py" in files(sdist)
    assert any(name.endswith("_golden.npz") for name in files(sdist))


@pytest.mark.slow
def test_the_tests_of_the_sdist_are_collected(sdist):
    environment = {"PYTHONPATH": str(sdist), "PYTEST_ADDOPTS": ""}
    collected = run("-m", "pytest", "--collect-only", "-q", "-n0", "-m", "slow or not slow", cwd=sdist, **environment)
    modules = {line.partition("::")[0] for line in collected.splitlines() if "::" in line}
    # What is skipped as a whole for want of a package is not collected.
    skipped = set(re.findall(r"SKIPPED \[\d+\] ([\w/.]+\.py)", collected))
    assert {path.relative_to(sdist).as_posix() for path in sdist.rglob("test_*.py")} == modules | skipped


def test_it_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"seanet_jax-{seanet_jax.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "seanet_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    data = {"py.typed", "training/published_curves.csv", "inference/report.html.jinja", "studies/runs.html.jinja"}
    assert {f"seanet_jax/{name}" for name in (*data, "studies/__init__.py")} <= packed


@pytest.mark.slow
def test_it_is_imported_from_where_it_is_installed(wheel, tmp_path):
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", ".", str(wheel), cwd=tmp_path)
    code = (
        "import seanet_jax, seanet_jax.training.run; from importlib.metadata import version; "
        "print(seanet_jax.__file__, seanet_jax.SEANet.__name__, version('seanet-jax'))"
    )
    place, name, version = run("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(place) == tmp_path / "seanet_jax" / "__init__.py"
    assert (name, version) == ("SEANet", seanet_jax.__version__)


def distribution_files(requirements):
    """Installed files of the distributions that requirements name, and of those that they depend on in turn."""
    queue, seen = [Requirement(line) for line in requirements], set()
    while queue:
        requirement = queue.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            for line in importlib.metadata.requires(requirement.name) or []:
                needed = Requirement(line)
                if not needed.marker or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    for name in {name for name, _ in seen}:
        yield from importlib.metadata.files(name) or []


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """A virtual environment with the wheel and what it depends on, which are links to the packages of this one."""
    folder = tmp_path_factory.mktemp("core")
    run("-m", "venv", "--without-pip", str(folder), cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for file in distribution_files(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]):
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        place = packages / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(file.locate())
    python = folder / "bin" / "python"
    run(
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
        cwd=folder,
        PYTHONPATH="",
    )
    return folder


def in_core(core, tmp_path, *command):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = core / "bin" / command[0]
    return subprocess.run(
        [program, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


USE_OF_THE_CORE = """
import importlib, importlib.util, pkgutil, pydoc
import jax.numpy as jnp, numpy as np
from flax import nnx
import seanet_jax
from seanet_jax import Aggregate, SEANet, SEANetConfig, SqueezeExcite, create_model, from_pretrained
from seanet_jax.models import weights

for absent in ("PIL", "tyro", "filelock", "sklearn", "tensorflow_datasets", "matplotlib", "torch"):
    assert importlib.util.find_spec(absent) is None, absent

imported = set()
for module in pkgutil.walk_packages(seanet_jax.__path__, "seanet_jax."):
    room = module.name.split(".")[1]
    if room in ("layers", "models") or not module.ispkg and module.name == f"seanet_jax.{room}":
        importlib.import_module(module.name)
        imported.add(module.name)
assert {"seanet_jax.style", "seanet_jax.layers.modules", "seanet_jax.models.weights"} <= imported, imported

config = SEANetConfig(stage_sizes=(1, 1, 1), widths=(16, 16, 16), reduction=4)
model = SEANet(config, rngs=nnx.Rngs(0))
model.eval()
images = jnp.ones((2, 16, 16, 3))
model.save_pretrained("weights")
np.testing.assert_array_equal(from_pretrained("weights")(images), model(images))

shown = pydoc.render_doc(seanet_jax)
assert not {"TrainConfig", "fit", "load"} & set(dir(seanet_jax))
try:
    seanet_jax.fit
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_core_alone_builds_and_runs_a_network(core, tmp_path):
    done = in_core(core, tmp_path, "python", "-c", USE_OF_THE_CORE)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"seanet_jax\.fit needs \w+, which is not installed; it is in the extra 'train' of seanet_jax: install that, "
        r"or \w+>=[\d.]+ itself\n",
        done.stdout,
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("train", "--dataset", "digits"), "train"),
        pytest.param(("compare",), "train", marks=pytest.mark.slow),
        pytest.param(("evaluate", "folder"), "train", marks=pytest.mark.slow),
        pytest.param(("predict", "folder", "image.png"), "predict", marks=pytest.mark.slow),
        (("export", "folder", "out.stablehlo"), "predict"),
        (("convert", "export", "folder", "out.pth"), "convert"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_a_command_without_its_extra_says_which_to_install(core, tmp_path, command, extra):
    (tmp_path / "image.png").touch()
    done = in_core(core, tmp_path, "seanet", *command)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(
        rf"error: seanet {command[0]} needs (\w+), which is not installed; it is in the extra '{extra}' of seanet_jax: "
        r"install that, or \1>=[\d.]+ itself\n",
        done.stderr,
    ), done.stderr


def test_the_core_alone_has_help(core, tmp_path):
    done = in_core(core, tmp_path, "seanet", "--help")
    assert done.returncode == 0 and "usage: seanet COMMAND" in done.stdout
