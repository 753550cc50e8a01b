"""The real commands, in processes of their own, as a user runs them."""

import json
import os
import platform
import shlex
import signal
from pathlib import Path

import forks
import jax
import pytest
from training_fixtures import records

from seanet_jax.commands import train
from seanet_jax.commands.cpu_tuning import XLA
from seanet_jax.training.interrupt import StoppedError

ON_GLIBC = platform.libc_ver()[0] == "glibc"
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "support" / "tiny_experiment.py"


def run(folder, script, *arguments, **environment):
    return forks.run([ROOT / "experiments" / script, *arguments], cwd=folder, env=os.environ | environment)


@pytest.mark.slow
def test_train_stop_and_resume(tmp_path):
    flags = ("--log-every", "1", "--epochs", "2")
    first = run(tmp_path, TINY, *flags, "--max-steps", "7", "--out", "run")
    assert first.returncode == 0, first.stderr
    assert "device: 1 x cpu" in first.stdout
    assert "tiny on digits: 1,112 parameters" in first.stdout  # of two classes
    assert "step 5/5: loss" in first.stdout
    assert "\r" not in first.stdout + first.stderr  # no progress bar where there is no terminal
    again = run(tmp_path, TINY, *flags, "--out", "run")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: run holds a run already; --resume continues it, --out names another folder\n"
    resumed = run(tmp_path, TINY, "--resume", "run", "--max-steps", "None")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming run at step 7" in resumed.stdout and "rounded differently" not in resumed.stdout
    whole = run(tmp_path, TINY, *flags, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"] and summary["last"]["epoch"] == 2
    for name, value in summary["environment"].items():
        assert f"{name}={value}\n" in resumed.stdout
    assert ("glibc.malloc.hugetlb=1" in summary["environment"].get("GLIBC_TUNABLES", "")) == ON_GLIBC
    assert XLA.items() <= summary["environment"].items()


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
    assert "--learning-rate" in done.stdout and "Learning rate, before any decay." in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("TFDS_DATA_DIR", "")) / "cifar100" / "3.0.2").is_dir(),
    reason="TFDS_DATA_DIR names no folder with CIFAR-100",
)
def test_real_cifar100(tmp_path):
    quick = ("--model", "resnet20", "--max-steps", "2", "--batch-size", "32", "--limit-test", "100", "--out", "run")
    done = run(tmp_path, "cifar100.py", *quick)
    assert done.returncode == 0, done.stderr
    assert "278,324 parameters" in done.stdout and "1562 an epoch" in done.stdout


def test_a_saved_run_tells_which_flags_rounded_its_numbers():
    tuned, plain = train.XLA | {"device": "1 x cpu (2 cores)"}, {"device": "1 x cpu (2 cores)"}
    assert train.switches(tuned) == {"deterministic": False, "tune_cpu": True}
    assert train.switches(plain) == {"deterministic": False, "tune_cpu": False}
    assert train.switches(train.DETERMINISTIC | {"device": "1 x H100"}) == {"deterministic": True, "tune_cpu": True}


@pytest.mark.parametrize(
    ("program", "command"),
    [("seanet train", "seanet train"), ("my experiments/run.py", "python 'my experiments/run.py'")],
)
def test_a_stopped_run_says_how_it_goes_on(tmp_path, monkeypatch, capsys, program, command):
    def stop(config, compiler_options, command):
        raise StoppedError(signal.SIGTERM, "stopped by SIGTERM")

    monkeypatch.setattr("seanet_jax.training.run.fit", stop)
    quiet = ["--no-tune-cpu", "--no-compilation-cache"]
    monkeypatch.setattr("sys.argv", [program, "--dataset", "digits", *quiet, "--out", str(tmp_path / "my run")])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 128 + signal.SIGTERM
    folder = shlex.quote(str(tmp_path / "my run"))
    assert capsys.readouterr().err == f"stopped by SIGTERM; {command} --resume {folder} continues from there\n"


def test_deterministic_operations_are_an_option_that_xla_knows(monkeypatch):
    options = []
    monkeypatch.setattr(
        "seanet_jax.training.run.fit", lambda _, compiler_options, command: options.append(compiler_options)
    )
    for flags in ([], ["--deterministic"]):
        quiet = ["--no-tune-cpu", "--no-compilation-cache"]
        monkeypatch.setattr("sys.argv", ["seanet train", "--dataset", "digits", *quiet, *flags])
        with pytest.raises(SystemExit):
            train.main()
    assert options == [{}, train.DETERMINISTIC]
    jax.jit(lambda: 0).lower().compile(compiler_options=train.DETERMINISTIC)  # an unknown option is an error
