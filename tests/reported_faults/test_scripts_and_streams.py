"""A training or a prediction started in unusual ways, whose streams may be closed, full or of another encoding."""

import contextlib
import dataclasses
import fcntl
import importlib.util
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image
from training_fixtures import TINIEST, settled

from seanet_jax import ImageSpec

# Together they start a dozen processes.
pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"


def in_a_shell(folder, script, **variables):
    """Runs a shell script in which $PYTHON is Python, and $TRAIN a program that trains a tiny network."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "PYTHONUNBUFFERED")
    }
    environment |= {"PYTHON": sys.executable, "TRAIN": str(SUPPORT / "tiny_experiment.py"), "PYTHONPATH": str(SUPPORT)}
    return subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def check_trained(run):
    assert json.loads((run / "summary.json").read_text())["finished"]


# tests/commands/test_cpu_tuning.py has other ways to start a program that may not be started again.
def test_a_program_that_python_reads_from_a_pipe_trains(tmp_path):
    done = in_a_shell(tmp_path, 'cat "$TRAIN" | "$PYTHON" - --out run')
    assert done.returncode == 0, done.stderr
    check_trained(tmp_path / "run")


# The last starts the program again, with other settings of malloc.
@pytest.mark.parametrize("rest", ["--no-tune-cpu >&-", "--no-tune-cpu 2>&-", "<&- >&- 2>&-"])
def test_a_missing_stream_ends_no_training(rest, tmp_path):
    done = in_a_shell(tmp_path, f'"$PYTHON" "$TRAIN" --out run {rest}')
    assert (done.returncode, done.stderr) == (0, "")
    assert ("test accuracy" in done.stdout) == (rest == "--no-tune-cpu 2>&-")
    check_trained(tmp_path / "run")


@pytest.mark.parametrize("platform", ["cuda", "gpu", "nonsense"])
def test_a_platform_that_jax_lacks_is_one_sentence_before_anything_is_written(platform, tmp_path):
    if platform != "nonsense" and importlib.util.find_spec("jax_plugins"):
        pytest.skip("JAX has this platform here")
    done = in_a_shell(tmp_path, '"$PYTHON" "$TRAIN" --out run --require-gpu --no-tune-cpu', JAX_PLATFORMS=platform)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: JAX_PLATFORMS is '{platform}', and JAX finds no such device here")
    assert not any(tmp_path.iterdir())


def test_a_name_is_printed_in_an_encoding_that_lacks_its_letters(tmp_path):
    model = settled(dataclasses.replace(TINIEST, num_classes=2))
    model.save_pretrained(tmp_path / "weights", ImageSpec(8, 8, (0.5,) * 3, (0.2,) * 3, ("Käse", "猫")))
    (tmp_path / "pictures").mkdir()
    for name in ("café", "猫"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-m", "seanet_jax", "predict", "weights", "pictures"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode("cp1252")
    assert "pictures/café.png\n" in shown and r"pictures/\u732b.png" in shown and "  \\u732b\n" in shown


def test_a_training_outlives_the_reader_of_its_output(tmp_path):
    train = '"$PYTHON" "$TRAIN" --log-every 1 --no-tune-cpu --out run'
    done = in_a_shell(tmp_path, f"{{ {train}; echo $? > status; }} | head -n 1")
    assert (done.stdout.count("\n"), (tmp_path / "status").read_text()) == (1, "0\n")
    assert done.stderr == "warning: stdout cannot be written (Broken pipe); the work continues\n"
    check_trained(tmp_path / "run")


def test_a_training_outlives_a_full_disk_of_its_log(tmp_path):
    done = in_a_shell(tmp_path, '"$PYTHON" "$TRAIN" --log-every 1 --no-tune-cpu --out run > /dev/full')
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: stdout cannot be written (No space left on device); the work continues\n"
    check_trained(tmp_path / "run")


def test_an_interrupt_removes_the_bar_before_anything_is_printed(tmp_path):
    ours, terminal = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "tiny_experiment.py", "--epochs", "2000", "--out", tmp_path / "run"],
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
    )
    os.close(terminal)
    shown, is_interrupted = b"", False
    with contextlib.suppress(OSError):  # Linux raises it where the output ends
        while part := os.read(ours, 65536):
            shown += part
            if not is_interrupted and b"epoch 3/2000:" in shown:
                is_interrupted = True
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(60) == 130
    *_, last = re.split(r"[\r\n]", shown.decode().rstrip())
    assert re.fullmatch(r"stopped by SIGINT at step \d+, of which a checkpoint is saved; .* continues from there", last)
