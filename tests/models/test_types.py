"""The public names have precise types for mypy and editors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
from typing import assert_type

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.layers.modules import Linear
from seanet_jax.models import PRESETS, SEANet, SEANetConfig, create_model, list_models

x = jnp.zeros((1, 32, 32, 3))
model = create_model("seanet20", rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
assert_type(model.features(x)["pooled"], jax.Array)
assert_type(model.num_features, int)
assert_type(model.config.num_classes, int)
assert_type(model.classifier, nnx.Module | None)
assert_type(PRESETS["seanet20"].num_classes, int)
assert_type(list_models(), list[str])

seanet = SEANet(SEANetConfig(dtype=jnp.bfloat16), rngs=nnx.Rngs(0))
assert_type(seanet.config, SEANetConfig)
assert_type(seanet.classifier, nnx.Linear | None)
seanet.classifier = nnx.Linear(seanet.num_features, 5, rngs=nnx.Rngs(0))
seanet.classifier = Linear(seanet.num_features, 5, rngs=nnx.Rngs(0))
assert_type(seanet(x), jax.Array)
"""


def mypy(path, source):
    path.write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent", path],
        capture_output=True,
        text=True,
        check=False,
        cwd=path.parent,
        env=os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
    )


@pytest.mark.slow
def test_the_public_names_have_their_types(tmp_path):
    done = mypy(tmp_path / "use.py", USE)
    assert done.returncode == 0, done.stdout
    done = mypy(tmp_path / "misuse.py", f"{USE}\nmodel.feature(x)\nlist_models(3)\n")
    assert 'has no attribute "feature"' in done.stdout and "Too many arguments" in done.stdout
