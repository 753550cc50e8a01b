"""Runs the examples, with stand-ins for a cluster."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import chex
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import yaml
from flax import nnx
from PIL import Image, ImageFont
from training_fixtures import TINY, settled

from seanet_jax import SEANet
from seanet_jax.models import weights
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import parse
from seanet_jax.training.processes import ProcessGroup

EXAMPLES = Path(__file__).parent.parent / "examples"


def programs(folder, name, words):
    """Makes a program that records its arguments."""
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
    # The folder that pods share is a local one here.
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


def accuracy(name, *arguments, monkeypatch, capsys):
    """Runs an example and returns the accuracy that it prints. Its docstring must name the command."""
    script = EXAMPLES / name
    assert f"    python examples/{name}{' FOLDER' if arguments else ''}\n" in script.read_text()
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")
    return float(re.fullmatch(r"accuracy: (0\.\d{3}|1\.000)\n", capsys.readouterr().out).group(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flax_nnx.py", "flax_linen.py", "plain_jax.py"])
def test_the_blocks_learn_digits_in_other_frameworks(name, monkeypatch, capsys):
    assert accuracy(name, monkeypatch=monkeypatch, capsys=capsys) > 0.85


@pytest.mark.slow
def test_a_pretrained_network_learns_digits(tmp_path, monkeypatch, capsys):
    settled(TINY).save_pretrained(tmp_path)
    # The weights are random and a stage of them is frozen. One in ten would be chance.
    assert accuracy("fine_tune.py", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys) > 0.5


def test_fine_tuning_leaves_what_is_frozen_alone(tmp_path):
    settled(TINY).save_pretrained(tmp_path)
    example = runpy.run_path(str(EXAMPLES / "fine_tune.py"))
    model = SEANet.from_pretrained(tmp_path, num_classes=7, rngs=nnx.Rngs(0))
    before = weights.to_arrays(model)
    images = jnp.asarray(np.random.RandomState(0).standard_normal((64, 8, 8, 3)), jnp.float32)
    example["fine_tune"](model, images, jnp.arange(64) % 7, steps=3)
    after = weights.to_arrays(model)
    frozen = {name for name in before if name.startswith(("stem.", "stem_bn.", "stages.0."))}
    assert {"stem_bn.mean", "stem_bn.scale", "stages.0.blocks.0.shortcut_bn.var"} < frozen < before.keys()
    chex.assert_trees_all_equal(*({name: arrays[name] for name in frozen} for arrays in (before, after)))
    for name in before.keys() - frozen:
        assert (before[name] != after[name]).any(), f"{name} did not move"
    chex.assert_shape(after["classifier.bias"], (7,))


def test_a_folder_of_emoji_is_written(tmp_path):
    """With a font that every machine has, whose emoji are outlines."""
    example = runpy.run_path(str(EXAMPLES / "own_images.py"))
    listed = tmp_path / "emoji-test.txt"
    listed.write_text(
        "# group: Smileys & Emotion\n# subgroup: face-smiling\n"
        "1F600                  ; fully-qualified     # 😀 E1.0 grinning face\n"
        "# group: Symbols\n"
        "2764 FE0F              ; fully-qualified     # ❤️ E0.6 red heart\n"
        "2764                   ; unqualified         # ❤ E0.6 red heart\n"
        "1F44B 1F3FB            ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone\n",
        encoding="utf-8",
    )
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    assert example["write_folder"](tmp_path / "emoji", font, listed) == 2
    for name in ("Smileys & Emotion/1f600.png", "Symbols/2764-fe0f.png"):
        with Image.open(tmp_path / "emoji" / name) as image:
            assert image.size == (136, 128) and image.getextrema() == ((0, 255),) * 3


def test_the_emoji_of_the_system_are_in_nine_groups(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "own_images.py"))
    if not (example["FONT"].exists() and example["EMOJI"].exists()):
        pytest.skip("apt install fonts-noto-color-emoji unicode-data")
    groups = [group for group, _ in example["read_emoji"](example["EMOJI"])]
    assert len(set(groups)) == 9 and len(groups) > 1800
    font = ImageFont.truetype(str(example["FONT"]), example["FONT_SIZE"])
    grin = np.asarray(example["draw"]("😀", font)).reshape(-1, 3)
    yellow = (grin[:, 0] > 200) & (grin[:, 1] > 150) & (grin[:, 2] < 120)
    assert yellow.mean() > 0.3


def test_the_emoji_example_names_what_is_missing(tmp_path):
    script = (EXAMPLES / "own_images.py").read_text().replace("/usr/share/unicode", "/usr/share/missing")
    (tmp_path / "own_images.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "own_images.py", tmp_path / "emoji"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "is missing: sudo apt install fonts-noto-color-emoji unicode-data" in done.stderr
