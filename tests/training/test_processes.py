"""Several processes on this machine: the result of one, and a clear end whatever happens to any of them."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import forks
import jax
import numpy as np
import pytest
from training_fixtures import TINIEST, records

from seanet_jax.inference.trained import load_model, saved_network
from seanet_jax.models import PRESETS
from seanet_jax.training.checkpoint import Checkpoints

SUPPORT = Path(__file__).parents[1] / "support"
EXPERIMENT = SUPPORT / "tiny_experiment.py"
# A smaller rate than elsewhere: a large one amplifies rounding step by step.
FLAGS = ("--no-tune-cpu", "--log-every", "1", "--learning-rate", "0.01", "--decay-every", "99", "--epochs", "4")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The network that the experiment trains."""
    monkeypatch.setitem(PRESETS, "tiny", TINIEST)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(count, *flags, script=EXPERIMENT, common=FLAGS, differing=None, port=None, launch="flags", environment=None):
    """Starts that many processes of one run.

    ``differing`` gives some of them further flags, by number; ``launch`` is how they find each other.
    """
    port = port or free_port()
    processes = []
    for number in range(count):
        if launch == "slurm":
            group, job = ["--distributed"], in_slurm(count, number) | {"JAX_COORDINATOR_PORT": str(port)}
        else:
            group, job = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count)], {}
            group += ["--process-id", str(number)]
        processes.append(
            forks.start(
                [script, *common, *group, *flags, *(differing or {}).get(number, ())],
                env=os.environ | job | (environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return processes


def end(processes, timeout=240):
    """Statuses, outputs and complaints; whoever still runs is killed."""
    try:
        found = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [process.returncode for process in processes], [out for out, _ in found], [err for _, err in found]


def run(count, *flags, **keywords):
    statuses, outputs, complaints = end(start(count, *flags, **keywords))
    assert statuses == [0] * count, complaints
    return outputs


def said(output):
    """What the experiment printed, without what Gloo does."""
    return [line for line in output.splitlines() if line and not line.startswith("[Gloo]")]


def newest(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(saved_network(folder)[1])[0]


def assert_close(folder, other):
    """Records and every array of the state, to what rounding makes of four epochs; measured: 9e-7."""
    for record, expected in zip(records(folder), records(other), strict=True):
        assert record == pytest.approx(expected, rel=1e-4)
    for leaf, expected in zip(jax.tree.leaves(newest(folder)), jax.tree.leaves(newest(other)), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def run_alone(*flags):
    """The output of the same run of one process."""
    done = forks.run([EXPERIMENT, *FLAGS, *flags])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Its folder."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_alone("--out", folder)
    return folder


def in_slurm(count, number):
    """The variables that srun would set, without Slurm."""
    return {
        **{"SLURM_JOB_ID": "4321", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(count)},
        **{"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
    }


@pytest.mark.slow
def test_processes_give_the_result_of_one(alone, tmp_path):
    first, *others = run(4, "--out", tmp_path / "run", launch="slurm")
    assert "device: 4 x cpu" in first and "of 4 processes" in first
    assert [said(other) for other in others] == [[]] * 3  # the first alone prints
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in alone.iterdir()}
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert_close(tmp_path / "run", alone)
    assert load_model(tmp_path / "run").config == load_model(alone).config


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(alone, tmp_path):
    """Two, then one, then two: what a checkpoint gives back is what was saved, or its SHA-256 would be wrong."""
    run(2, "--out", tmp_path / "run", "--max-steps", "7")
    assert "at step 7\n" in run_alone("--out", tmp_path / "run", "--resume", "--max-steps", "12")
    outputs = run(2, "--out", tmp_path / "run", "--resume")
    assert "at step 12\n" in outputs[0]
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_each_process_reads_its_own_part_of_the_images(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PARTS)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    outputs = run(2, script=script, common=(), environment={"XLA_FLAGS": flags})
    # Two devices in each process, twelve rows of which the last two are filled up.
    assert [said(output) for output in outputs] == [["[0, 1, 2, 3, 4, 5]"], ["[6, 7, 8, 9]"]]


PARTS = """
import sys
import numpy as np
from seanet_jax.training import processes, sharding

class Recorder:
    array, rows = np.arange(10), set()
    shape, dtype = array.shape, array.dtype
    def __len__(self):
        return len(self.array)
    def __getitem__(self, index):
        self.rows |= set(self.array[index].tolist())
        return self.array[index]

processes.start(processes.ProcessGroup(sys.argv[2], int(sys.argv[4]), int(sys.argv[6])))
sharding.pad_and_shard(Recorder(), sharding.make_mesh(), rows=12, fill=-1)
print(sorted(Recorder.rows))
"""


# The end


def wait_for(process, text):
    """Reads what a process prints until a line holds the text."""
    assert any(text in line for line in process.stdout), process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_one_process_asked_to_stop_stops_all_with_a_checkpoint(tmp_path, asked, number):
    # Enough steps for the request to come in time.
    flags = ("--out", tmp_path / "run", "--epochs", "2000")
    processes = start(2, *flags)
    wait_for(processes[0], "epoch 2/")
    processes[asked].send_signal(number)
    statuses, _, complaints = end(processes, timeout=60)
    assert statuses == [143, 143]
    lines = [next(line for line in text.splitlines() if line.startswith("stopped by SIGTERM")) for text in complaints]
    assert lines[0] == lines[1]
    steps = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert f"at step {max(steps)}," in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "killed"), [(2, 0), (4, 2)], ids=["first", "of four"])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path, count, killed):
    flags = ("--out", tmp_path / "run")
    processes = start(count, *flags, "--epochs", "2000", "--checkpoint-steps", "3")
    wait_for(processes[0], "epoch 2/")
    processes[killed].kill()
    began = time.monotonic()
    statuses, _, complaints = end(processes)
    assert time.monotonic() - began < 60
    assert statuses.pop(killed) == -signal.SIGKILL
    assert 0 not in statuses
    complaints.pop(killed)
    for complaint in complaints:
        # JAX's words, where the coordinator itself is gone, or where its silence is noticed before a connection's.
        assert "lost another process of this run" in complaint or "another task died" in complaint
    if not killed:
        return  # it would go on as in the other case
    outputs = run(2, *flags, "--resume", "--epochs", "8")  # of four, two are enough to go on
    assert "test accuracy" in outputs[0]
    assert [record["epoch"] for record in records(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.slow
def test_a_failure_of_one_process_ends_the_others(tmp_path):
    """Of the first, which writes: a folder that takes no more records."""
    processes = start(2, "--out", tmp_path / "run", "--epochs", "2000")
    wait_for(processes[0], "epoch 2/")
    # Whoever the tests run as, a record cannot be appended to a folder.
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    statuses, _, complaints = end(processes)
    assert statuses[0] == 1 and statuses[1] != 0
    assert "metrics.jsonl could not be written" in complaints[0]
    assert "lost another process" in complaints[1] or "another task died" in complaints[1]


# Refused before training starts


def refused(count, *flags, **keywords):
    """The lines of all processes that begin with "error:"; each ended with status 2."""
    statuses, outputs, complaints = end(start(count, *flags, **keywords))
    assert statuses == [2] * count, complaints
    assert not any("epoch" in output for output in outputs)
    return [next(line for line in text.splitlines() if line.startswith("error:")) for text in complaints]


@pytest.mark.slow
def test_a_process_started_otherwise_is_refused_by_all(tmp_path):
    first, second = refused(2, "--out", tmp_path / "run", differing={1: ("--seed", "3", "--batch-size", "4")})
    expected = "batch_size is 8 in process 0 and 4 in process 1; seed is 0 in process 0 and 3 in process 1"
    assert first == second == f"error: the processes of a run must be started alike: {expected}"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_the_first_process_cannot_use_all_refuse(alone):
    first, second = refused(2, "--out", alone)
    assert first == f"error: {alone} holds a run already; --resume continues it, --out names another folder"
    assert second == first


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    folders = dict.fromkeys(range(2), ("--out", "run"))
    script = tmp_path / "script.py"
    script.write_text(
        IN_A_FOLDER_OF_ITS_OWN.format(folder=str(tmp_path), tests=str(SUPPORT), experiment=str(EXPERIMENT))
    )
    first, second = refused(2, script=script, differing=folders)
    assert "run is not the folder that the first process writes; name one on a file system that all machines" in second
    assert first.startswith("error: process 1: --out: run is not the folder")


IN_A_FOLDER_OF_ITS_OWN = """
import os, runpy, sys
folder = os.path.join({folder!r}, sys.argv[sys.argv.index("--process-id") + 1])
os.makedirs(folder)
os.chdir(folder)
sys.path.insert(0, {tests!r})
runpy.run_path({experiment!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_a_process_with_other_images_is_refused_by_all(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ANOTHER_IMAGE.format(tests=str(SUPPORT), experiment=str(EXPERIMENT)))
    first, second = refused(2, "--out", tmp_path / "run", script=script)
    assert second.startswith("error: the images of made are not those of process 0; give all processes the same")
    assert first.startswith("error: process 1: the images of made are not those of process 0")
    assert not (tmp_path / "run").exists()


# The last image is in the second process's part.
ANOTHER_IMAGE = """
import runpy, sys
sys.path.insert(0, {tests!r})
import training_fixtures
real = training_fixtures.made_dataset

def other():
    dataset = real()
    dataset.train_images[-1, 0, 0, 0] ^= 1
    return dataset

if sys.argv[sys.argv.index("--process-id") + 1] == "1":
    training_fixtures.made_dataset = other
runpy.run_path({experiment!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        first, second = start(2, "--out", tmp_path / "run", port=port)
        with contextlib.closing(first.stderr):
            complaint = first.stderr.read()
        # The other one waits for a coordinator, as it must where machines do not start at once.
        assert second.poll() is None
        second.kill()
        second.communicate()
    assert first.wait() == 2
    assert complaint.startswith(f"error: --coordinator: process 0 cannot listen at port {port} (")
    assert complaint.count("\n") == 1
    first.stdout.close()


def test_no_cluster_is_refused(tmp_path):
    done = forks.run([EXPERIMENT, *FLAGS, "--distributed", "--out", tmp_path / "run"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: --distributed: JAX detects no Slurm, Open MPI, Kubernetes or TPU job here (")
    assert done.stderr.count("\n") == 1
