"""Runs a documented command on small networks and little data. tests/test_documentation.py starts it, by forks.py.

What would take hours is made small from outside: every preset becomes a network of one narrow block, every data set
becomes noise, and epochs and repetitions are few. Programs, flags, files and modules stay as they are.
"""

import argparse
import dataclasses
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seanet_jax.data import image_spec, load
from seanet_jax.data.dataset import Dataset
from seanet_jax.models import PRESETS, EncapNetConfig, NetworkConfig

# Flags that replace those of a training command. Flags that need a GPU or a cluster are dropped.
_TRAINING = {"--epochs": "1", "--limit-train": "40", "--limit-test": "20", "--batch-size": "8"}
_COMPARE = _TRAINING | {"--seeds": "1", "--learning-rates": "0.1", "--extend-rates": "0"}
_ANALYZE = {"--images": "20", "--steps": "1"}
# By program, or by the command of the package.
_SMALLER = {
    "experiments/digits.py": _TRAINING,
    "experiments/cifar10.py": _TRAINING,
    "experiments/cifar100.py": _TRAINING,
    "seanet train": _TRAINING,
    # It writes a run, and train --resume accepts no other recipe.
    "seanet convert": _TRAINING,
    "seanet compare": _COMPARE,
    "seanet ablate": _COMPARE,
    "seanet analyze": _ANALYZE,
    "experiments/compare.py": _COMPARE,
    "experiments/ablate.py": _COMPARE,
    "benchmarks/inference.py": {"--models": "resnet20", "--batch-sizes": "2", "--rounds": "1", "--seconds": "0.01"},
    "experiments/analyze.py": _ANALYZE,
    "experiments/recipes.py": _TRAINING | {"--epochs": "2", "--seeds": "1"},
    "experiments/widths.py": _COMPARE,
    "experiments/results.py": {},
}
_DROPPED = ("--require-gpu", "--distributed")
# Programs that another test runs; this test checks that they have the documented flags.
_RUN_ELSEWHERE = (
    *("tests/support/kill_and_resume.py", "tests/support/cut_power.py"),
    # They need a GPU, or the network and gigabytes.
    *("benchmarks/gpu/pack.py", "benchmarks/gpu/unpack.py", "benchmarks/gpu/measure.py"),
)
# Programs without flags that tests/test_examples.py runs; this test checks that they exist.
_EXAMPLES = ("examples/flax_nnx.py", "examples/flax_linen.py", "examples/plain_jax.py")
# The sections of CONTRIBUTING.md whose blocks tests/test_contributing.py runs.
RECIPES = ("Add a data set", "Add a network", "Change the recipe")
# The networks that a study trains if its command names none. If it names some, the last two are trained.
_MODELS = {name: ["senet20", "seanet20_small"] for name in ("experiments/compare.py", "seanet compare")}


def smaller(program: str, arguments: list[str]) -> list[str]:
    """Returns the arguments of a documented command, changed to cost less."""
    flags: dict[str, list[str]] = {"": []}
    for argument in arguments:
        if argument.startswith("--"):
            flags[argument] = []
        else:
            flags[list(flags)[-1]].append(argument)
    replaced = dict(_SMALLER.get(program, {}))
    if flags.get("--out", [""])[0].startswith("docs/results"):
        # A later command of the page of results reads runs at each of the learning rates.
        replaced.pop("--learning-rates", None)
    flags |= {name: [value] for name, value in replaced.items()}
    if program in _MODELS:
        flags["--models"] = flags.get("--models", _MODELS[program])[-2:]
    return [word for name, values in flags.items() if name not in _DROPPED for word in (name, *values) if word]


def small_dataset(name: str, **options: Any) -> Dataset:
    """Returns a data set of noise with the shapes and classes of the named one, or the images of a folder."""
    if name == "folder":
        return load(name, **options)
    spec, random = image_spec(name), np.random.default_rng(0)
    arrays = []
    for count in (40, 20):
        arrays.append(random.integers(0, 256, (count, spec.height, spec.width, spec.channels), np.uint8))
        arrays.append(random.integers(0, len(spec.class_names), count, np.int32))
    return Dataset(name, *arrays, spec, flip=True)


def write_emoji(folder: Path) -> None:
    """Writes images of noise in place of those that examples/own_images.py draws with a font of the system."""
    random = np.random.default_rng(0)
    for group in ("Flags", "Food & Drink", "Symbols"):
        (folder / group).mkdir(parents=True)
        for code in range(0x1F355, 0x1F355 + 70):
            pixels = random.integers(0, 256, (16, 17, 3), np.uint8)
            Image.fromarray(pixels).save(folder / group / f"{code:x}.png")


def small_preset(preset: NetworkConfig) -> NetworkConfig:
    """Returns a preset with few channels and, if it is a SEANet, one block, whose stage may aggregate."""
    if isinstance(preset, EncapNetConfig):
        return dataclasses.replace(preset, widths=(4, 4, 8, 8), stem_width=4, groups=4)
    return dataclasses.replace(preset, stage_sizes=(1,), widths=(16,), stem_width=4, reduction=8, aggregate_stages=None)


def make_presets_small() -> None:
    """Replaces every preset by a small one."""
    for name, preset in PRESETS.items():
        PRESETS[name] = small_preset(preset)


def make_small(program: str) -> None:
    """Makes presets and data sets small, and the studies too if the program or command may use them."""
    from seanet_jax.training import images

    make_presets_small()
    images.load = small_dataset
    if "--epochs" in _SMALLER.get(program, {}):
        import tensorboardx_alone  # noqa: F401
    if program in (
        "seanet train",
        "seanet evaluate",
        "seanet predict",
        "seanet show",
        "seanet export",
        "seanet convert",
    ):
        return  # importing the studies takes longer than what is left of such a command

    from seanet_jax.studies import ablate, speed

    ablate.AXES = {"operation": {"sum": "base", "mean": "mean"}}
    ablate.VARIANTS = {name: ablate.VARIANTS[name] for name in ("base", "mean")}
    speed._SECONDS_A_TURN = 0.0


def main() -> None:
    """Runs ``sys.argv[1:]``: a program, or ``-m`` and a module, with its arguments."""
    program, *arguments = sys.argv[1:]
    if program == "-m" and arguments[0] == "pytest":
        # The tests that a document names run with the others; this checks that they exist.
        if not any(argument.startswith("tests/") for argument in arguments):
            sys.exit()  # All tests: this is one of them.
        import pytest

        sys.exit(pytest.main(["--collect-only", "-qq", "-n0", *arguments[1:]]))
    # As if the process had restarted itself with malloc tuned; a restart would lose what is made small here.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    if program == "-m":
        module, *arguments = arguments
        assert module == "seanet_jax", module
        name = f"seanet {arguments[0]}" if arguments else ""
        # Of the conversions, those of a PyTorch checkpoint write a run, and take the flags of its recipe.
        if name in _SMALLER and (name != "seanet convert" or arguments[1].endswith(".pth")):
            arguments = [arguments[0], *smaller(name, arguments[1:])]
        sys.argv = [module, *arguments]
        make_small(name)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    if program == "examples/own_images.py":
        assert Path(program).exists()
        return write_emoji(Path(*arguments))
    if program in _EXAMPLES:
        sys.exit(bool(arguments) or not Path(program).exists())
    sys.argv = [program, *smaller(program, arguments)]
    sys.path.insert(0, str(Path(program).parent))
    if program in _SMALLER:
        make_small(program)
    if program in _RUN_ELSEWHERE:
        parse = argparse.ArgumentParser.parse_args
        argparse.ArgumentParser.parse_args = lambda self, given=None: sys.exit(0 if parse(self, given) else 1)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
