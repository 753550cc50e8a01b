import ast
import graphlib
import importlib.util
import json
import os
import pydoc
import re
import shutil
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


def names(requirements, extras):
    """The distributions that requirements name, with those of the package's own extras."""
    found = set()
    for line in requirements:
        name, extra = re.match(r"([\w-]+)(?:\[(\w+)\])?", line).groups()
        found |= names(extras[extra], extras) if name == "seanet-jax" else {name}
    return found


def test_requirements_are_those_of_the_package_and_of_training():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = names([*project["dependencies"], "seanet-jax[train]"], project["optional-dependencies"])
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed.pop() == "-e ."
    assert set(listed) == declared and len(listed) == len(declared)


def test_public_names_exist():
    assert all(hasattr(seanet_jax, name) for name in seanet_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Aggregator'"):
        seanet_jax.Aggregator  # noqa: B018


def lazy_table():
    """Name and module of what is imported when it is asked for."""
    return {(name, f"seanet_jax.{module}") for module, names in seanet_jax._HOMES.items() for name in names}


def test_type_checkers_see_the_names_that_programs_get():
    tree = ast.parse((ROOT / "seanet_jax" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {(alias.name, statement.module) for statement in checked.body for alias in statement.names}
    assert seen == lazy_table()
    assert sorted(seanet_jax.__all__) == sorted(name for name, _ in seen)
    assert set(seanet_jax._EXTRAS) <= set(seanet_jax.__all__)


def test_dir_shows_public_names_only():
    assert dir(seanet_jax) == sorted(seanet_jax.__all__)


def test_help_says_where_to_start():
    shown = pydoc.render_doc(seanet_jax, renderer=pydoc.plaintext)
    assert "Where to start" in shown and "seanet --help" in shown
    for name in ("class SEANet(", "aggregate(x:", "list_models()", "fit(config:"):
        assert name in shown, name


FACE = """
from typing import Any, assert_type

import jax
import jax.numpy as jnp
from flax import nnx

import seanet_jax
from seanet_jax import PRESETS, Aggregate, ImageSpec, InputError, ResidualBlock, SEANet, SqueezeExcite, TrainConfig
from seanet_jax import aggregate, create_model, fit, functional, list_models, load, squeeze_excite

x = jnp.zeros((1, 32, 32, 16))
assert_type(aggregate(x, 4), jax.Array)
assert_type(functional.aggregate(x, 4), jax.Array)
assert_type(Aggregate(4)(x), jax.Array)
assert_type(SqueezeExcite(16, 4, rngs=nnx.Rngs(0))(x), jax.Array)
assert_type(create_model("seanet20", rngs=nnx.Rngs(0)).num_features, int)
assert_type(list_models(), list[str])
assert_type(PRESETS["seanet20"].num_classes, int)
assert_type(fit(TrainConfig(dataset="digits")), dict[str, Any])
assert_type(load("runs/digits").images, ImageSpec)
assert_type(seanet_jax.__version__, str)
"""


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_the_public_names(tmp_path, checker):
    if checker == "pyright":
        spec, node = importlib.util.find_spec("pyright"), shutil.which("node")
        program = spec and Path(spec.origin).parent / "dist" / "index.js"
        # Without these two it would download them.
        if not node or not program or not program.exists():
            pytest.skip("pyright, or the Node.js that runs it, is not installed")
        command = [node, program, "--pythonpath", sys.executable, "-p", tmp_path]
        (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "include": ["."]}))
    else:
        command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent", "use.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}

    def check(source):
        (tmp_path / "use.py").write_text(source)
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    done = check(FACE)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = check(f"{FACE}\nseanet_jax.SENet\naggregate(x, 4, 5, 6, 7)\n")
    assert wrong.returncode == 1 and "SENet" in wrong.stdout


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
        "import seanet_jax.training.run, seanet_jax.commands.cli; print(dict(os.environ) == before)"
    )
    assert python(code).strip() == "True"


# Each room may import from those after it, and the files at the root from one another.
ROOMS = ["commands", "studies", "inference", "training", "data", "models", "layers", ""]


def room(module):
    """The folder that a module is in; the files at the root are one room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def imports(path):
    """The modules that a file imports from the package, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seanet_jax"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("seanet_jax"))


def test_rooms_import_one_way():
    package = ROOT / "seanet_jax"
    found = set()
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        # The face of the package, and the command line, name what is in every room.
        if path.parent == package and path.stem in ("__init__", "__main__"):
            continue
        for imported in imports(path):
            found.add((room(name), room(imported)))
            assert ROOMS.index(room(imported)) >= ROOMS.index(room(name)), f"{path} imports {imported}"
    assert ("commands", "training") in found, "no import was found"


def test_modules_import_without_circles():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "seanet_jax").rglob("*.py")
    }
    # A name is that of a module, or of something in one.
    after = {
        name: {wanted if wanted in files else wanted.rpartition(".")[0] for wanted in imports(path)} - {"seanet_jax"}
        for name, path in files.items()
        if name not in ("seanet_jax", "seanet_jax.__main__")
    }
    graphlib.TopologicalSorter(after).prepare()  # raises CycleError


# Calls that write, outside durable.py, and why a power cut may undo them.
PLAIN_WRITES = {
    ("console.py", "open"): "/dev/null, in place of a stream that is closed",
    ("data/tfds.py", "mkdir"): "the folder of a download, which is put on disk before its content gets its name",
    ("training/tensorboard.py", "mkdir"): "events can be drawn again from the records",
}


def test_only_one_module_renames_files_makes_folders_and_opens_files_for_writing():
    found = set()
    for path in (ROOT / "seanet_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = ast.unparse(getattr(node.func, "value", node.func))
            modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            # str.replace and dataclasses.replace have two arguments, or keywords.
            is_rename = (
                name in ("rename", "replace") and owner != "dataclasses" and len(node.args) == 1 and not node.keywords
            )
            is_write = name == "open" and any(
                re.fullmatch("[rwaxbt+]+", mode) and set(mode) & set("wax+") for mode in modes
            )
            if is_rename or is_write or name in ("mkdir", "makedirs", "write_text", "write_bytes"):
                found.add((path.relative_to(ROOT / "seanet_jax").as_posix(), name))
    assert {name for path, name in found if path == "durable.py"} == {"mkdir", "open", "replace"}
    assert {one for one in found if one[0] != "durable.py"} == set(PLAIN_WRITES)


def test_every_module_has_its_tests_where_one_looks_for_them():
    package = ROOT / "seanet_jax"
    modules = [path.relative_to(package) for path in package.rglob("*.py") if not path.name.startswith("__")]
    missing = [str(path) for path in modules if not (ROOT / "tests" / path.with_name(f"test_{path.name}")).exists()]
    assert len(modules) > 60 and not missing
