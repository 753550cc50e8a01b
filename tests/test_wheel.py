"""The wheel holds the package, all of it and nothing else, and works where it is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import seanet_jax

ROOT = Path(__file__).parent.parent


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network from a copy, since setuptools leaves files of its own in what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("seanet_jax", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", ".", str(source), cwd=out)
    (built,) = out.iterdir()
    return built


def test_it_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"seanet_jax-{seanet_jax.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "seanet_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    data = {"seanet_jax/py.typed", "seanet_jax/training/published_curves.csv", "seanet_jax/inference/report.html.jinja"}
    assert data | {"seanet_jax/studies/__init__.py"} <= packed


def test_it_is_imported_from_where_it_is_installed(wheel, tmp_path):
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", ".", str(wheel), cwd=tmp_path)
    code = (
        "import seanet_jax, seanet_jax.training.run; from importlib.metadata import version; "
        "print(seanet_jax.__file__, seanet_jax.SEANet.__name__, version('seanet-jax'))"
    )
    place, name, version = run("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(place) == tmp_path / "seanet_jax" / "__init__.py"
    assert (name, version) == ("SEANet", seanet_jax.__version__)
