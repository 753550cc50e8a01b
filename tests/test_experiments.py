"""The real commands, in processes of their own, as a user runs them."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from training_fixtures import records

from seanet_jax.cpu_tuning import XLA
from seanet_jax.train import load_model

ON_GLIBC = platform.libc_ver()[0] == "glibc"
ROOT = Path(__file__).parent.parent
# The quickest of the named networks, on as little as shows everything.
QUICK = ("--model", "resnet20", "--limit-train", "64", "--limit-test", "50", "--batch-size", "32", "--log-every", "1")


def run(folder, script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", ROOT / "experiments" / script, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_train_stop_and_resume(tmp_path):
    first = run(tmp_path, "digits.py", *QUICK, "--max-steps", "3", "--out", "run")
    assert first.returncode == 0, first.stderr
    assert "device: 1 x cpu" in first.stdout
    assert "278,324" not in first.stdout and "272,474 parameters" in first.stdout
    assert "step 2/2: loss" in first.stdout
    assert "\r" not in first.stdout + first.stderr  # no progress bar where there is no terminal
    again = run(tmp_path, "digits.py", *QUICK, "--epochs", "2", "--out", "run")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: run holds a run already; --resume continues it, --out names another folder\n"
    resumed = run(tmp_path, "digits.py", *QUICK, "--epochs", "2", "--out", "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming run at step 3" in resumed.stdout
    whole = run(tmp_path, "digits.py", *QUICK, "--epochs", "2", "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"] and summary["last"]["epoch"] == 2
    for name, value in summary["environment"].items():
        assert f"{name}={value}\n" in resumed.stdout
    assert ("glibc.malloc.hugetlb=1" in summary["environment"].get("GLIBC_TUNABLES", "")) == ON_GLIBC
    assert XLA.items() <= summary["environment"].items()


def test_two_devices_give_the_numbers_of_one(tmp_path):
    for devices in ("1", "2"):
        done = run(
            # Not tuned: that rounds sums otherwise, by more than one and two devices differ. At a tenth of the learning
            # rate, since a large one amplifies rounding step by step.
            tmp_path, "digits.py", *QUICK, "--epochs", "2", "--eval-batch-size", "40", "--out", devices,
            "--no-tune-cpu", "--learning-rate", "0.002",
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"device: {devices} x cpu" in done.stdout
    one, two = (records(tmp_path / devices) for devices in ("1", "2"))
    for record, other in zip(one, two, strict=True):
        # Measured: 6e-6 and 2e-5. Statistics of each device's own half of the batch would be off by far more.
        assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert record["test_loss"] == pytest.approx(other["test_loss"], rel=2e-4)
    # Here there is one device.
    logits = [load_model(tmp_path / devices, "latest")(jnp.ones((1, 32, 32, 3))) for devices in ("1", "2")]
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3)


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path):
    flags = "--xla_force_host_platform_device_count=3"
    done = run(tmp_path, "digits.py", *QUICK, "--no-tune-cpu", XLA_FLAGS=flags)
    assert done.returncode == 2
    assert done.stderr == "error: batch_size is 32; it must be a multiple of the 3 devices\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "0"), "error: epochs is 0; it must be a positive integer\n"),
        (("--require-gpu",), "error: --require-gpu: JAX finds no GPU, only 1 x cpu"),
        (("--resume",), "error: runs/digits-seanet20_narrow-seed0 holds no run: there is no config.json in it\n"),
        (("--limit-train", "5000"), "error: --limit-train must be between 1 and 1438"),
        (("--dataset", "cifar10", "--data-dir", "nowhere"), "error: CIFAR-10 is not in nowhere (looked for"),
    ],
)
def test_wrong_input_is_one_line_status_2_and_leaves_nothing(tmp_path, arguments, message):
    done = run(tmp_path, "digits.py", *arguments, HTTPS_PROXY="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["digits.py", "cifar10.py", "cifar100.py"])
def test_help_is_readable(tmp_path, script):
    done = run(tmp_path, script, "--help")
    assert done.returncode == 0
    assert "--learning-rate" in done.stdout and "Initial learning rate." in done.stdout


@pytest.mark.skipif(
    not (Path(os.environ.get("TFDS_DATA_DIR", "")) / "cifar100" / "3.0.2").is_dir(),
    reason="TFDS_DATA_DIR names no folder with CIFAR-100",
)
def test_real_cifar100(tmp_path):
    quick = ("--model", "resnet20", "--max-steps", "2", "--batch-size", "32", "--limit-test", "100", "--out", "run")
    done = run(tmp_path, "cifar100.py", *quick)
    assert done.returncode == 0, done.stderr
    assert "278,324 parameters" in done.stdout and "1562 an epoch" in done.stdout
