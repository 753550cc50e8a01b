"""A study in processes of its own: killed, started again, started twice."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import forks
import pytest
from training_fixtures import records

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "support" / "tiny_study.py"
FLAGS = ("--learning-rates", "0.05", "0.02", "--validation-fraction", "0.2", "--seeds", "2", "--out", "study")
RATES = ("0.05", "0.02")


def start(folder):
    # How fast they train is known: it is not measured.
    study = folder / "study"
    study.mkdir(parents=True, exist_ok=True)
    (study / "speed.json").write_text(json.dumps({"images_per_second": {"tiny": [1.0], "tiny_plain": [1.0]}}))
    return forks.start([SCRIPT, *FLAGS], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    end(start(folder))
    return folder / "study"


def runs(study):
    return {folder.name: records(folder) for folder in study.iterdir() if folder.is_dir()}


def test_a_study_trains_every_rate_once_and_the_best_for_further_seeds(undisturbed):
    names = runs(undisturbed).keys()
    assert {f"{m}-lr{r}-seed0" for m in ("tiny", "tiny_plain") for r in RATES} < names
    assert len(names) == 6
    table = (undisturbed / "table.md").read_text()
    assert "| tiny | " in table and "| tiny_plain | " in table


def test_started_twice_killed_and_started_again_it_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    study = tmp_path / "study"
    first, second = (start(tmp_path) for _ in range(2))
    wait_for(lambda: any(study.glob("*/metrics.jsonl")), first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (study / "table.md").exists()
    together = [second, start(tmp_path)]
    told = "".join(end(process) for process in together)
    assert runs(study) == runs(undisturbed)
    # The tables, but for what the runs' speeds are.
    assert (study / "table.md").read_text() == (undisturbed / "table.md").read_text()
    for name in runs(study):
        assert told.count(f"everything is in study/{name}\n") <= 1
    again = end(start(tmp_path))
    assert "everything is in" not in again


def test_told_to_stop_it_says_that_the_same_command_goes_on(tmp_path):
    process = start(tmp_path)
    wait_for(lambda: any((tmp_path / "study").glob("*/metrics.jsonl")), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert error.startswith("stopped by SIGTERM at step ")
    assert error.endswith(", of which a checkpoint is saved; the same command continues from there\n")
