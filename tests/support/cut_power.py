"""Cuts the power of a run again and again, resumes it, and compares it bit for bit with a run left in peace.

    python tests/support/cut_power.py --cuts 50 --file-system ext4

The run is in a file system in an image (``disk_image``), so this needs root and loop devices. Each cut is at a random
moment of the training, or of a command that reads a run and writes beside it. After a cut, the file system is mounted
again. Whatever a process had reported as saved must be there:

- A printed epoch is a line of metrics.jsonl. All lines are those of the run left in peace.
- The loop waits for earlier checkpoints before it records an epoch, and for the previous one before it saves another.
  So the line of an epoch reports the checkpoint of the step before that epoch's last step, and the line of a step
  reports the checkpoint two steps before. A run never resumes further back.
- Every checkpoint that counts is intact, reported or not. The best epoch of its records has a checkpoint too.
- config.json is there once a step is printed, and summary.json once the end of the run is. Neither is ever torn.
- A file or folder that a command reports as written is there, byte by byte, or array by array if it is a run. Before
  the report, whatever has its final name is whole too. The run that the command reads still loads.

A run that lost something is started anew. The exit status is 1 if anything was lost, or if the end differs.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cut_commands import COMMANDS, Command, Commands
from disk_image import FILE_SYSTEMS, DiskImage, missing
from ended_process import Process, errors_as_problems
from kill_and_resume import command as train_command
from kill_and_resume import final_arrays
from training_fixtures import records

from seanet_jax.inference.trained import saved_network
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.run_folder import RunFolder

# Two steps make an epoch, and every step is saved. The batches are small, so that most moments are inside a write.
STEPS_PER_EPOCH = 2
FLAGS = ("--batch-size", "8", "--limit-train", "16", "--limit-test", "20")
EPOCHS_PER_CUT = 3

Records = list[dict[str, Any]]

# What a run prints.
COMPILED, RESUMED, ENDED = "compiled", r"resuming .* at step (\d+)", ".*; everything is in"
STEP, EPOCH = r"  epoch (\d+)/\d+, step (\d+)", r"epoch (\d+)/"
LAST_STEP = rf"  epoch \d+/\d+, step {STEPS_PER_EPOCH}/"


@dataclasses.dataclass
class Progress:
    """The part of the run that is known to be on disk.

    Attributes:
        step: Step of the newest checkpoint; 0 if there is none.
        epochs: Number of epochs in metrics.jsonl.
        begun: Whether there is a config.json.
    """

    step: int = 0
    epochs: int = 0
    begun: bool = False


class Training:
    """The run whose power is cut.

    Args:
        folder: The run's folder.
        epochs: The run's number of epochs.
        peaceful: The records of the same run left in peace.
        moments: Source of random moments.
    """

    def __init__(self, folder: Path, epochs: int, peaceful: Records, moments: random.Random):
        self.folder = folder
        self._epochs = epochs
        self._peaceful = peaceful
        self._moments = moments
        self._before = Progress()

    def command(self) -> list[str]:
        """Returns the command that starts or resumes the run."""
        resume = ["--resume"] if RunFolder(self.folder).was_started() else []
        return train_command(self.folder, self._epochs, *FLAGS, *resume)

    def moment(self, what: str, process: Process) -> str:
        """Waits for a random moment of the training. Returns what the run is doing then.

        Args:
            what: One of the keys of ``TRAINING``.
            process: The run's process.
        """
        if what == "starting":
            time.sleep(self._moments.uniform(0, 8))
            return what
        pattern, longest = TRAINING[what]
        process.read_to(COMPILED)
        for _ in range(self._moments.randint(1, 5)):
            process.read_to(pattern)
        if what == "writing a checkpoint":
            while not unfinished(self.folder) and not process.has_ended():
                time.sleep(0.001)
        time.sleep(self._moments.uniform(0, longest))
        return "writing a checkpoint" if unfinished(self.folder) else what

    def problems(self, process: Process) -> list[str]:
        """Lists what is lost or damaged after a cut.

        Args:
            process: The process that ran until the cut.
        """
        before, found = self._before, Progress()
        problems = []
        recorded = max([int(epoch) for (epoch,) in process.printed(EPOCH)], default=0)
        steps = [(int(epoch) - 1) * STEPS_PER_EPOCH + int(step) for epoch, step in process.printed(STEP)]
        counted = max(before.step, recorded * STEPS_PER_EPOCH - 1, max(steps, default=0) - 2)
        for (step,) in process.printed(RESUMED):
            if int(step) != before.step:
                problems.append(f"resumed at step {step} in place of {before.step}")
        found.begun = before.begun or bool(steps)
        if found.begun or (self.folder / "config.json").exists():
            found.begun = True
            with errors_as_problems(problems, "config.json"):
                RunFolder(self.folder).read()
        with errors_as_problems(problems, "metrics.jsonl"):
            promised = max(recorded, before.step // STEPS_PER_EPOCH)
            lines = RunFolder(self.folder).read_records() if promised or self._has("metrics.jsonl") else []
            found.epochs = len(lines)
            if found.epochs < promised:
                problems.append(f"{found.epochs} epochs are recorded, and {promised} were printed")
            if lines and records(self.folder)[: found.epochs] != self._peaceful[: found.epochs]:
                problems.append("the records differ")
        if counted > 0 or (self.folder / "checkpoints").exists():
            with errors_as_problems(problems, "checkpoints"):
                found.step = self._newest(counted, problems)
        self._before = found
        return problems

    def start_anew(self) -> None:
        """Deletes the run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._before = Progress()

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _newest(self, counted: int, problems: list[str]) -> int:
        """Checks the checkpoints, and returns the step of the newest; 0 if there is none."""
        with Checkpoints(self.folder) as checkpoints:
            if not checkpoints.exist():
                if counted > 0:
                    problems.append(f"no checkpoint is there, and that of step {counted} was saved")
                return 0
            _, template = saved_network(self.folder)
            with contextlib.redirect_stderr(io.StringIO()) as warnings:
                state, history = checkpoints.restore_latest(template)
                step, epochs = int(state.step), self._epochs_of(history)
                if epochs != self._peaceful[: len(epochs)] or len(epochs) not in {
                    step // STEPS_PER_EPOCH,
                    (step - 1) // STEPS_PER_EPOCH,
                }:
                    problems.append(f"the records in the checkpoint of step {step} are wrong")
                best, _ = checkpoints.restore_best(template)
                if epochs and int(best.step) != best_step(epochs):
                    problems.append(f"the best checkpoint is of step {int(best.step)}, not {best_step(epochs)}")
        problems += warnings.getvalue().splitlines()
        if step < counted:
            problems.append(f"the newest checkpoint is of step {step}, and that of step {counted} was saved")
        return step

    def _epochs_of(self, history: Records) -> Records:
        varying = ("seconds", "images_per_second")
        whole = [record for record in history if "epoch" in record]
        return [{name: value for name, value in record.items() if not name.endswith(varying)} for record in whole]


# Moments of the training: the line after which the power is cut, and the longest time in seconds between both.
TRAINING = {
    "starting": ("", 0.0),
    "a step": (STEP, 0.1),
    "the end of an epoch": (EPOCH, 0.02),
    "writing a checkpoint": (STEP, 0.06),
    "an evaluation": (LAST_STEP, 0.1),
}


def unfinished(folder: Path) -> bool:
    """Returns whether a checkpoint is being written. It gets its name after its content, and its marker last."""
    paths = list((folder / "checkpoints").glob("*"))
    marked = {path.parent for path in (folder / "checkpoints").glob("*/complete")}
    return any("tmp" in path.name or (path.name.isdigit() and path not in marked) for path in paths)


def best_step(epochs: Records) -> int:
    """Returns the last step of the best epoch."""
    return int(max(epochs, key=lambda record: record["test_accuracy"])["step"])


def cut(disk: DiskImage, command: list[str], moment: Callable[[Process], str]) -> tuple[Process, str, list[str]]:
    """Starts a process, cuts the power at a moment, kills the process and restarts the file system.

    Returns:
        The process with all that it said, what it was doing, and what went wrong before the cut.
    """
    with Process(command) as process:
        doing = moment(process)
        failed = process.has_failed()
        disk.cut()
    disk.restart()
    return process, doing, [f"the process failed: {''.join(process.lines[-3:])}"] if failed else []


def at_the_end(disk: DiskImage, training: Training, peaceful: Path) -> list[str]:
    """Lets the run finish, cuts the power as soon as it has, and compares it with the one left in peace."""
    done = subprocess.run(training.command(), capture_output=True, text=True, check=False)
    disk.cut()
    disk.restart()
    if done.returncode:
        return [f"the run does not finish: {done.stderr}"]
    problems: list[str] = []
    folder = training.folder
    with errors_as_problems(problems, "the finished run"):
        pairs = zip(final_arrays(peaceful), final_arrays(folder), strict=True)
        if differing := sum(a.tobytes() != b.tobytes() for a, b in pairs):
            problems.append(f"{differing} arrays of the final states differ")
        if records(peaceful) != records(folder):
            problems.append("the records differ")
        summary = RunFolder(folder).read_summary()
        if summary is None or summary["last"]["step"] != records(peaceful)[-1]["step"]:
            problems.append("summary.json is not that of the finished run")
    return problems


def order(moments: random.Random) -> Iterator[str | Command]:
    """Yields moments of the training and commands in turn, each of them equally often, in random order."""
    training: list[str] = []
    commands: list[Command] = []
    for number in itertools.count():
        training = training or moments.sample(list(TRAINING), len(TRAINING))
        commands = commands or moments.sample(COMMANDS, len(COMMANDS))
        yield commands.pop() if number % 2 else training.pop()


def main() -> None:
    """Reads the flags, cuts the power and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--file-system", choices=FILE_SYSTEMS, default="ext4")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    epochs = EPOCHS_PER_CUT * arguments.cuts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves all contexts
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        scratch = Path(temporary)
        if reason := missing(arguments.file_system, scratch):
            raise SystemExit(f"error: the power cannot be cut here: {reason}")
        peaceful = scratch / "peaceful"
        subprocess.run(train_command(peaceful, epochs, *FLAGS), check=True, stdout=subprocess.DEVNULL)
        disk = stack.enter_context(DiskImage(arguments.file_system, scratch))
        training = Training(disk.folder / "run", epochs, records(peaceful), moments)
        commands = Commands(disk, peaceful, moments)
        cuts: Counter[str] = Counter()
        lossy: Counter[str] = Counter()
        for what in itertools.islice(order(moments), arguments.cuts):
            if isinstance(what, str):
                moment = lambda process, what=what: training.moment(what, process)  # noqa: E731
                process, doing, problems = cut(disk, training.command(), moment)
                problems += training.problems(process)
                if process.printed(ENDED):
                    raise SystemExit(f"error: the run ended after {cuts.total()} cuts; it is too short for so many")
                if problems:
                    training.start_anew()
            else:
                commands.prepare(what)
                moment = lambda process, what=what: commands.moment(what, process)  # noqa: E731
                process, doing, problems = cut(disk, commands.command(what), moment)
                problems += commands.problems(what, process)
            cuts[doing] += 1
            lossy.update([doing] if problems else [])
            print(f"cut {cuts.total()}: {doing}: {'; '.join(problems) or 'nothing lost'}", flush=True)
        last = at_the_end(disk, training, peaceful)
    print(f"{cuts.total()} cuts on {arguments.file_system} ({counted(cuts)})")
    if last or lossy:
        print(f"something was lost in {lossy.total()} of them ({counted(lossy)})")
        raise SystemExit(f"error: {'; '.join(last) or 'what was said to be saved was lost, though the end is right'}")
    print("nothing was lost, and the run equals the one left in peace bit for bit")


def counted(moments: Counter[str]) -> str:
    """Returns how often something happened at which moment, as text."""
    return ", ".join(f"{count} during {doing}" for doing, count in moments.items())


if __name__ == "__main__":
    main()
