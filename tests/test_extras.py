import importlib.metadata
import re

import pytest

from seanet_jax.extras import explain, is_installed


def missing(module):
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


DECLARED = [
    "jax>=0.10",
    'pillow>=11; extra == "predict"',
    'orbax-checkpoint>=0.11.30; extra == "predict"',
    'seanet-jax[predict]; extra == "train"',
    'Tyro>=1.0; extra == "train"',
    'tensorboard_X; python_version >= "3" and extra == "train"',
    'torch<3,>=2.6; extra == "convert"',
    'absent-package; extra == "absent"',
]


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: DECLARED)


@pytest.mark.parametrize(
    ("module", "extra", "named", "requirement"),
    [
        ("tyro", "train", "train", "Tyro>=1.0"),
        ("PIL", "predict", "predict", "pillow>=11"),
        ("PIL.Image", "train", "train", "pillow>=11"),  # by way of "predict", which "train" includes
        ("orbax.checkpoint", "predict", "predict", "orbax-checkpoint>=0.11.30"),
        ("tensorboard_x", "train", "train", "tensorboard_X"),
        ("torch", "train", "convert", "torch<3,>=2.6"),  # not in the extra of the command
        ("tyro", "", "train", "Tyro>=1.0"),
    ],
)
def test_a_missing_package_is_explained_by_its_extra(declared, module, extra, named, requirement):
    package = re.match(r"[\w-]+", requirement).group()
    assert explain(missing(module), "seanet train", extra) == (
        f"seanet train needs {package}, which is not installed; it is in the extra {named!r} of seanet_jax: "
        f"install that, or {requirement} itself"
    )


@pytest.mark.parametrize("module", ["jax", "nothing_like_it", None])
def test_what_no_extra_brings_is_not_explained(declared, module):
    assert explain(missing(module), "seanet train", "train") is None


def test_an_extra_is_installed_if_all_of_it_is(declared):
    assert is_installed("predict")
    assert not is_installed("absent")


def test_a_package_that_was_never_installed_has_no_extras(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert explain(missing("tyro"), "seanet train", "train") is None
    assert is_installed("train")


def test_every_module_that_needs_an_extra_is_explained():
    # The names by which the package imports what its extras bring.
    for module in (
        *("PIL", "array_record", "filelock", "flatbuffers", "importlib_resources", "jinja2", "matplotlib", "orbax"),
        *("requests", "scipy", "sklearn", "tensorboardX", "tensorflow_datasets", "torch", "tqdm", "tyro"),
    ):
        assert explain(missing(module), "seanet convert", "convert"), module
