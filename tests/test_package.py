import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import seanet_jax

ROOT = Path(__file__).parent.parent


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed.pop() == "-e ."
    assert set(listed) == declared


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert seanet_jax.__version__ == project["version"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_public_names_exist():
    assert all(hasattr(seanet_jax, name) for name in seanet_jax.__all__)
    assert set(seanet_jax.__all__) <= set(dir(seanet_jax))
    with pytest.raises(AttributeError, match="no attribute 'Aggregator'"):
        seanet_jax.Aggregator  # noqa: B018


def test_importing_the_package_stays_light():
    slow = "{'tensorflow', 'tensorflow_datasets', 'matplotlib', 'sklearn', 'orbax.checkpoint', 'tensorboardX'}"
    code = (
        f"import sys, seanet_jax; print(sorted(({slow} | {{'jax', 'flax'}}) & set(sys.modules))); "
        f"seanet_jax.SEANet; print(sorted({slow} & set(sys.modules)))"
    )
    assert python(code).split() == ["[]", "[]"]


def test_importing_the_package_does_not_change_the_process():
    code = (
        "import os; before = dict(os.environ); "
        "import seanet_jax.train, seanet_jax.cli; print(dict(os.environ) == before)"
    )
    assert python(code).strip() == "True"


def test_modules_import_one_way():
    order = [
        *("convert", "export", "evaluate", "predict", "cli", "cpu_tuning", "evaluation"),
        *(
            "evaluation_figures",
            "measures",
            "html_report",
            "studies",
            "flags",
            "train",
            "stablehlo",
            "answers",
            "trained",
        ),
        *("loop", "trainer", "report", "run_folder", "checkpoint", "fold", "step", "recipes", "config", "interrupt"),
        *("processes", "parallel", "data", "contact_sheet", "image_file", "style", "models", "image_spec"),
        *("scores", "files", "transport", "capsules", "modules", "functional", "convolution", "printable", "errors"),
    ]
    package = ROOT / "seanet_jax"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        for imported in re.findall(r"^\s*from seanet_jax(?:\.(\w+))?[\w.]* import (.+)$", path.read_text(), re.M):
            for target in [imported[0]] if imported[0] else re.findall(r"\w+", imported[1]):
                assert order.index(target) >= order.index(name), f"{path} imports {target}"
