"""Kills a run again and again, resumes it, and compares it bit for bit with the same run that was never killed.

    python tests/support/kill_and_resume.py --kills 50

Each kill is a SIGKILL at a random moment: during the start of the process, a step, an evaluation, the end of an epoch
or the writing of a checkpoint. The exit status is 1 if anything differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from training_fixtures import records

from seanet_jax.inference.trained import saved_network
from seanet_jax.training.checkpoint import Checkpoints

EXPERIMENT = Path(__file__).with_name("small_digits.py")
# Two steps make an epoch, and every step is saved, so that most moments after the start are inside a write.
FLAGS = (
    *("--model", "resnet20", "--batch-size", "32", "--limit-train", "64", "--limit-test", "40"),
    *("--checkpoint-steps", "1", "--log-every", "1", "--learning-rate", "0.002", "--decay-every", "1000"),
    "--no-tune-cpu",  # a restart would be another start
)


def command(folder: Path, epochs: int, *flags: str) -> list[str]:
    """Returns the command line of the experiment."""
    return [sys.executable, str(EXPERIMENT), *FLAGS, "--epochs", str(epochs), "--out", str(folder), *flags]


def killed(folder: Path, epochs: int, moments: random.Random, recipe: tuple[str, ...]) -> str | None:
    """Starts or resumes the run, and kills it at a random moment.

    Args:
        folder: The run's folder.
        epochs: The run's number of epochs.
        moments: Source of random moments. A third of them are during the start of the process, the others after it.
        recipe: Flags of the run's recipe.

    Returns:
        What the run was doing, as far as that is visible from outside, or None if the run had ended.
    """
    resume = ["--resume"] if folder.exists() else []
    before = unfinished(folder)
    process = subprocess.Popen(command(folder, epochs, *recipe, *resume), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        starts = moments.random() < 1 / 3
        if starts:
            time.sleep(moments.uniform(0, 6))
        else:
            next((line for line in output if line.startswith("compiled")), None)
            # Each step and each epoch is a line.
            for _ in zip(range(moments.randint(0, 9)), output, strict=False):
                pass
            time.sleep(moments.uniform(0, 1))
        process.kill()
        if status := process.wait():
            if status != -signal.SIGKILL:
                raise SystemExit(f"error: the run ended with status {status}")
            if unfinished(folder) - before:
                return "writing a checkpoint"
            return "starting" if starts else "training or evaluating"
    return None


def unfinished(folder: Path) -> set[tuple[Path, int]]:
    """Returns the checkpoints whose writing has begun and not ended, with the time at which it began."""
    return {(path, path.stat().st_ctime_ns) for path in folder.rglob("*.orbax-checkpoint-tmp")}


def recorded(folder: Path) -> int:
    """Returns the number of epochs in metrics.jsonl."""
    return len(records(folder)) if (folder / "metrics.jsonl").exists() else 0


def final_arrays(folder: Path) -> list[np.ndarray]:
    """Returns all arrays of the newest checkpoint and of the best."""
    _, template = saved_network(folder)
    with Checkpoints(folder) as checkpoints:
        states = [checkpoints.restore_latest(template)[0], checkpoints.restore_best(template)[0]]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(states)]


def main() -> None:
    """Reads the flags, kills the run and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument("--recipe", help="name of the run's recipe; the default is that of the experiment")
    arguments = parser.parse_args()
    # The schedules of the other recipes take no length of steps.
    recipe = ("--recipe", arguments.recipe, "--decay-every", "None") if arguments.recipe else ()
    moments = random.Random(arguments.seed)
    epochs = 4 * arguments.kills
    with tempfile.TemporaryDirectory() as temporary:
        peaceful, folder = Path(temporary) / "peaceful", Path(temporary) / "killed"
        subprocess.run(command(peaceful, epochs, *recipe), check=True, stdout=subprocess.DEVNULL)
        kills: Counter[str] = Counter()
        while kills.total() < arguments.kills:
            doing = killed(folder, epochs, moments, recipe)
            if doing is None:
                raise SystemExit(f"error: the run ended after {kills.total()} kills; it is too short for so many")
            kills[doing] += 1
            print(f"kill {kills.total()}: {doing}, {recorded(folder)} epochs recorded", flush=True)
        subprocess.run(command(folder, epochs, *recipe, "--resume"), check=True, stdout=subprocess.DEVNULL)
        problems = []
        pairs = zip(final_arrays(peaceful), final_arrays(folder), strict=True)
        if differing := sum(a.tobytes() != b.tobytes() for a, b in pairs):
            problems.append(f"{differing} arrays of the final states differ")
        if records(peaceful) != records(folder):
            problems.append("the records differ")
        if [record["epoch"] for record in records(folder)] != list(range(1, epochs + 1)):
            problems.append("an epoch is missing, or there twice")
    print(f"{kills.total()} kills ({', '.join(f'{count} while {doing}' for doing, count in kills.items())})")
    if problems:
        raise SystemExit(f"error: {'; '.join(problems)}")
    print("equal bit for bit: parameters, batch statistics, optimizer state and records")


if __name__ == "__main__":
    main()
