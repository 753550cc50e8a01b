"""The exported artifact answers as the network does, where neither this package nor Flax can be imported."""

import dataclasses
import errno
import hashlib
import json
import subprocess
import sys

import forks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import settled

from seanet_jax import ImageSpec, InputError, SEANetConfig
from seanet_jax.errors import RunError
from seanet_jax.inference import stablehlo
from seanet_jax.inference.trained import Trained

CONFIG = SEANetConfig(stage_sizes=(1, 1), widths=(16, 32), stem_width=4, num_classes=3)
SPEC = ImageSpec(8, 12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), ("cat", "dog", "cow"))
IMAGES = np.random.RandomState(0).randint(0, 256, (5, 8, 12, 3)).astype(np.uint8)

# What follows runs as on a machine that has JAX alone.
WITHOUT = """
import sys

class Without:
    def find_spec(name, path, target=None):
        if name.split(".")[0] in ("seanet_jax", "flax"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without)
"""


@pytest.fixture(scope="module")
def model():
    made = settled(CONFIG)
    made.classifier.kernel[...] *= 0.05  # for probabilities that are not all 0 and 1
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "weights"
    model.save_pretrained(path, SPEC)
    return path


def export(*arguments, cwd):
    return forks.run(["-m", "seanet_jax", "export", *arguments], cwd=cwd)


@pytest.mark.slow
def test_the_artifact_is_the_network(model, folder, tmp_path):
    done = export(folder, "net.stablehlo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "net.stablehlo: " in done.stdout and "MiB for cpu, cuda, rocm, tpu" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"net.stablehlo", "net.stablehlo.json"}

    about = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert about["sha256"] == hashlib.sha256((tmp_path / "net.stablehlo").read_bytes()).hexdigest()
    assert about["classes"] == ["cat", "dog", "cow"]
    assert about["input"]["shape"] == ["batch", 8, 12, 3] and about["output"]["shape"] == ["batch", 3]
    assert about["platforms"] == ["cpu", "cuda", "rocm", "tpu"]
    assert about["versions"]["jax"] == jax.__version__ and f"'jax>={jax.__version__}'" in about["needs"]
    assert 0 <= about["verified"]["largest_relative_difference"] < 1e-4

    np.save(tmp_path / "images.npy", IMAGES)
    assert len(about["run"]) == 5
    ours = [
        "assert probabilities.shape == (2, 3)",
        "images = np.load('images.npy')",
        "found = [np.asarray(jax.jit(artifact.call)(images[:count])) for count in (1, 2, 5)]",
        "assert all(one.dtype == np.float32 for one in found)",
        "np.savez('found.npz', *found)",
        "assert not {'seanet_jax', 'flax'} & set(sys.modules)",
    ]
    command = [sys.executable, "-W", "error", "-c", WITHOUT + "\n".join(about["run"] + ours)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pixels = (jnp.asarray(IMAGES, jnp.float32) / 255 - jnp.asarray(SPEC.mean)) / jnp.asarray(SPEC.std)
    expected = jax.nn.softmax(model(pixels))
    assert float(expected.std(0).min()) > 0.01, "the images must differ in what they are taken for"
    with np.load(tmp_path / "found.npz") as found:
        assert len(found) == 3
        for array in found.values():
            np.testing.assert_allclose(array, expected[: len(array)], atol=1e-5)


@pytest.mark.slow
def test_a_run_in_half_precision_is_exported_in_float32(model, folder, tmp_path, monkeypatch):
    half = nnx.clone(model)
    half.config = dataclasses.replace(CONFIG, dtype="bfloat16", conv_method="lax")
    monkeypatch.setattr(stablehlo, "load", lambda folder, which: Trained(half, SPEC))
    stablehlo.write(folder, tmp_path / "net.stablehlo")
    difference = stablehlo.largest_difference((tmp_path / "net.stablehlo").read_bytes(), Trained(model, SPEC))
    assert difference < 1e-4


@pytest.mark.slow
def test_an_artifact_that_computes_something_else_is_not_written(folder, tmp_path, monkeypatch):
    def wrong(model):
        folded = nnx.clone(model)
        folded.classifier.bias[...] += jnp.asarray([0.01, 0, 0])
        return folded

    monkeypatch.setattr(stablehlo, "fold_batch_norm", wrong)
    with pytest.raises(RunError, match=r"differ from the network's by up to .*; nothing was written"):
        stablehlo.write(folder, tmp_path / "net.stablehlo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_a_network_whose_logits_are_not_finite_is_refused(model, tmp_path):
    diverged = nnx.clone(model)
    diverged.classifier.kernel[...] *= jnp.inf
    diverged.save_pretrained(tmp_path / "weights", SPEC)
    with pytest.raises(InputError, match="the network's logits are NaN or infinite; its weights are damaged or its tr"):
        stablehlo.write(tmp_path / "weights", tmp_path / "net.stablehlo")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.slow
def test_a_full_disk_is_said_in_a_sentence(folder, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stablehlo, "write_together", full)
    with pytest.raises(RunError, match=r"net\.stablehlo could not be written \(No space left on device\)"):
        stablehlo.write(folder, tmp_path / "net.stablehlo")


def test_what_cannot_be_exported_is_refused_at_once(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "export_network", None)
    for out, words in (("net.onnx", r"ends in \.stablehlo"), ("no/net.stablehlo", "create it, or name another")):
        with pytest.raises(InputError, match=words):
            stablehlo.write(folder, tmp_path / out)
    with pytest.raises(InputError, match="holds no run"):
        stablehlo.write(tmp_path, tmp_path / "net.stablehlo")
    model.save_pretrained(tmp_path / "backbone")
    with pytest.raises(InputError, match="does not say how images are normalized"):
        stablehlo.write(tmp_path / "backbone", tmp_path / "net.stablehlo")
    done = export(folder, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: the following arguments are required: out; --help lists the arguments\n"
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]
