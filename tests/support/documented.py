"""Runs a Python command of the documentation, as it stands there, on little: tests/test_documentation.py starts it.

What costs hours is made small from outside: every preset is a network of one narrow block, a data set is noise,
epochs and repetitions are few. Which programs, flags, files and modules there are is left as it is.
"""

import argparse
import dataclasses
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from seanet_jax.data import image_spec
from seanet_jax.data.dataset import Dataset
from seanet_jax.models import PRESETS, EncapNetConfig, NetworkConfig
from seanet_jax.training.config import DatasetName

# Flags of a command that are given these values in place of its own; those that need what a test has not are dropped.
_TRAINING = {"--epochs": "1", "--limit-train": "40", "--limit-test": "20", "--batch-size": "8"}
_SMALLER = {
    "experiments/digits.py": _TRAINING,
    "experiments/cifar10.py": _TRAINING,
    "experiments/cifar100.py": _TRAINING,
    # A run that is written; --resume accepts no other recipe.
    "seanet_jax.commands.convert": _TRAINING,
    "experiments/compare.py": _TRAINING | {"--seeds": "1"},
    "experiments/ablate.py": _TRAINING | {"--seeds": "1", "--learning-rates": "0.1"},
    "benchmarks/inference.py": {"--models": "resnet20", "--batch-sizes": "2", "--rounds": "1", "--seconds": "0.01"},
    "experiments/analyze.py": {"--images": "20", "--steps": "1"},
    "experiments/results.py": {},
}
_DROPPED = ("--require-gpu", "--distributed")
# Programs that another test runs with these flags: here, that they have them.
_RUN_ELSEWHERE = ("tests/support/kill_and_resume.py",)
# Programs without flags that tests/test_examples.py runs: here, that they are there.
_EXAMPLES = ("examples/flax_nnx.py", "examples/flax_linen.py", "examples/plain_jax.py")
# The networks that a study compares where its command names none; where it names some, its last two.
_MODELS = {"experiments/compare.py": ["senet20", "seanet20_small"]}


def smaller(program: str, arguments: list[str]) -> list[str]:
    """The arguments of a documented command, made to cost less."""
    flags: dict[str, list[str]] = {"": []}
    for argument in arguments:
        if argument.startswith("--"):
            flags[argument] = []
        else:
            flags[list(flags)[-1]].append(argument)
    flags |= {name: [value] for name, value in _SMALLER.get(program, {}).items()}
    if program in _MODELS:
        flags["--models"] = flags.get("--models", _MODELS[program])[-2:]
    return [word for name, values in flags.items() if name not in _DROPPED for word in (name, *values) if word]


def small_dataset(name: DatasetName, **_: Any) -> Dataset:
    """Noise in the place of a data set's images."""
    spec, random = image_spec(name), np.random.default_rng(0)
    arrays = []
    for count in (40, 20):
        arrays.append(random.integers(0, 256, (count, spec.height, spec.width, spec.channels), np.uint8))
        arrays.append(random.integers(0, len(spec.class_names), count, np.int32))
    return Dataset(name, *arrays, spec.class_names, spec.mean, spec.std, flip=True)


def small_preset(preset: NetworkConfig) -> NetworkConfig:
    """Few channels, and of a SEANet one block."""
    if isinstance(preset, EncapNetConfig):
        return dataclasses.replace(preset, widths=(4, 4, 8, 8), stem_width=4, groups=4)
    return dataclasses.replace(preset, stage_sizes=(1,), widths=(16,), stem_width=4, reduction=8)


def make_presets_small() -> None:
    """Every one of them."""
    for name, preset in PRESETS.items():
        PRESETS[name] = small_preset(preset)


def make_small() -> None:
    """Presets, data sets and what studies measure."""
    from seanet_jax.studies import ablate, compare, speed
    from seanet_jax.training import images

    make_presets_small()
    ablate.AXES = {"operation": {"sum": "base", "mean": "mean"}}
    ablate.VARIANTS = {name: ablate.VARIANTS[name] for name in ("base", "mean")}
    images.load = compare.load = small_dataset
    speed._SECONDS_A_TURN = 0.0


def main() -> None:
    """Runs ``sys.argv[1:]``, a program or ``-m`` and a module with its arguments."""
    program, *arguments = sys.argv[1:]
    if program == "-m" and arguments[0] == "pytest":
        # The tests that a document names are run with the others; here, that there are such tests.
        if not arguments[1:]:
            sys.exit()  # all of them: this is one
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n0", *arguments[1:]]
        sys.exit(subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode)
    if program == "-m":
        name, *arguments = arguments
        if name == "seanet_jax.commands.convert" and arguments[0].endswith(".pth"):
            arguments = smaller(name, arguments)
        sys.argv = [name, *arguments]
        make_small()
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    if program in _EXAMPLES:
        sys.exit(bool(arguments) or not Path(program).exists())
    # The program and its arguments are what it would start again, tuned.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    sys.argv = [program, *smaller(program, arguments)]
    sys.path.insert(0, str(Path(program).parent))
    if program in _SMALLER:
        make_small()
    if program in _RUN_ELSEWHERE:
        parse = argparse.ArgumentParser.parse_args
        argparse.ArgumentParser.parse_args = lambda self: sys.exit(0 if parse(self) else 1)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
