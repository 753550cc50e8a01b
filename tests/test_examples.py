"""What stands in examples/, as far as it can be tried without a cluster."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import yaml

from seanet_jax.config import TrainConfig
from seanet_jax.flags import parse
from seanet_jax.processes import ProcessGroup

EXAMPLES = Path(__file__).parent.parent / "examples"


def programs(folder, name, words):
    """A program that writes down what it is started with."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/asked\n{words}\n')
    path.chmod(0o755)


def asked(folder):
    _, *arguments = (folder / "asked").read_text().splitlines()
    return parse(TrainConfig(), "", arguments)


def test_the_slurm_script_starts_and_resumes_a_run(tmp_path):
    programs(tmp_path, ".venv/bin/python", "")
    programs(tmp_path, "bin/srun", '[ "$1" = --kill-on-bad-exit=1 ] && shift && exec "$@"')
    script = EXAMPLES / "slurm.sh"
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    for resume in (False, True):
        subprocess.run([script], env=environment, check=True)
        command = asked(tmp_path)
        assert command.processes == ProcessGroup()
        assert command.config.resume == resume
        devices = re.search(r"--ntasks-per-node=(\d+)\n#SBATCH --gpus-per-node=(\d+)\n", script.read_text()).groups()
        assert devices == ("8", "8") and command.config.batch_size % 8 == 0

        (tmp_path / command.config.run_folder).mkdir(parents=True, exist_ok=True)
    outside = subprocess.run([script], env={"PATH": environment["PATH"]}, capture_output=True, text=True, check=False)
    assert outside.returncode != 0 and "submit this with sbatch" in outside.stderr


def test_the_jobset_starts_and_resumes_a_run(tmp_path):
    jobset = yaml.safe_load((EXAMPLES / "jobset.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    programs(tmp_path, "bin/python", "")
    # The pods' folder, here.
    script = script.replace("/shared", shlex.quote(f"{tmp_path}/shared"))
    for resume in (False, True):
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "1"}
        subprocess.run(["bash", "-c", script], env=environment, check=True)
        command = asked(tmp_path)
        # Pods are named <JobSet>-<job>-<index of the job>-<index of the pod>, in the JobSet's subdomain.
        port = container["ports"][0]["containerPort"]
        name = jobset["metadata"]["name"]
        assert command.processes == ProcessGroup(
            f"{name}-{replicated['name']}-0-0.{name}:{port}", job["parallelism"], 1
        )
        assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed"
        assert command.config.resume == resume
        gpus = job["parallelism"] * container["resources"]["limits"]["nvidia.com/gpu"]
        assert command.config.batch_size % gpus == 0
        command.config.run_folder.mkdir(parents=True, exist_ok=True)
