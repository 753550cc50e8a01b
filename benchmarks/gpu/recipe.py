"""The published recipe on CIFAR-100, in pieces that end in time, and the proof that pieces change nothing."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import UNFINISHED, Report

if TYPE_CHECKING:
    from measure import Options

_SAVING = 60  # seconds that a run has to end after it is asked to, before it is killed
# Little enough for a CPU: two epochs of four steps.
_QUICK = ("--batch-size", "16", "--limit-train", "64", "--limit-test", "32", "--epochs", "2")


def resume(options: "Options") -> int:
    """Trains the same steps three times: twice in one go and once in two. Returns the exit status."""
    report = Report(options.out, "Resume")
    steps = 6 if options.quick else 600
    states: dict[str, str] = {}
    with report.attempt("the comparison"):
        for name, stops in (("one go", [steps]), ("the same again", [steps]), ("two goes", [steps // 2, steps])):
            folder = options.work / "resume" / name.replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            for index, stop in enumerate(stops):
                # So that the stop comes between calls, as a stop by a signal does.
                flags = ["--max-steps", str(stop), "--steps-per-call", str(steps // 60 or 3)]
                flags += ["--resume"] if index else []
                if not _train(options, folder, flags, options.seconds):
                    raise RuntimeError(f"the time was over before the run in {name} was finished")
            states[name] = _state(folder)
        report.data(states=states)
        for name in ("the same again", "two goes"):
            what = f"parameters, statistics, momentum and losses after {steps} steps: {name}, and one go"
            if states[name] == states["one go"]:
                report.text(f"Equal bit for bit, {what}{' (deterministic operations)' * options.deterministic}.")
            else:
                report.failure(f"different, {what}")
    return bool(report.failures)


def recipe(options: "Options") -> int:
    """Trains the recipe, or goes on with it, until the time is over. Returns the exit status: 3 if it is to go on."""
    report = Report(options.out, "Recipe")
    folder = options.work / f"recipe-{options.model}-{options.dtype}"
    finished = False
    with report.attempt("the run"):
        flags = ["--resume"] if (folder / "config.json").exists() else []
        finished = _train(options, folder, flags, options.seconds)
    with report.attempt("the curve"):
        _curve(report, options, folder, finished)
    return 1 if report.failures else 0 if finished else UNFINISHED


def _train(options: "Options", folder: Path, flags: list[str], seconds: float) -> bool:
    """Trains in a process, which is asked to stop in time. Returns whether the run is finished.

    Raises:
        RuntimeError: If the run failed. The message is the last line that it wrote.
    """
    command = [sys.executable, "-m", "seanet_jax", "train", "--dataset", "cifar100", "--model", options.model]
    command += ["--dtype", options.dtype, "--out", str(folder), *flags]
    command += [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
    command += list(_QUICK) if options.quick else ["--require-gpu"]
    command += ["--deterministic"] if options.deterministic else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            status = process.wait(max(1, seconds - _SAVING))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(_SAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        finally:
            process.kill()
    # A run that is asked before it takes steps ends by the signal itself.
    if status in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        return status == 0
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    raise RuntimeError(f"seanet train ended with status {status}: {lines[-1] if lines else 'it wrote nothing'}")


def _state(folder: Path) -> str:
    """Returns the SHA-256 of everything that the newest checkpoint of a run holds: its arrays and the losses."""
    # The comparison needs no GPU, and another process may hold the memory of it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np

    from seanet_jax.inference.trained import saved_network
    from seanet_jax.training.checkpoint import Checkpoints

    _, template = saved_network(folder)
    with Checkpoints(folder) as checkpoints:
        state, records = checkpoints.restore_latest(template)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    measured = [{name: value for name, value in one.items() if "second" not in name} for one in records]
    digest.update(repr(measured).encode())
    return digest.hexdigest()


def _curve(report: Report, options: "Options", folder: Path, finished: bool) -> None:
    """Adds the accuracies beside the published ones, and draws the curve over the published curve."""
    from seanet_jax.models.scores import LOGITS
    from seanet_jax.training.curves import draw_curves, published_curves
    from seanet_jax.training.saved_run import read_config, read_records

    records: list[Any] = read_records(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    if not records:
        report.text("No epoch is finished yet.")
        return
    epochs = read_config(folder / "config.json").config["epochs"]
    published = {row["epoch"]: row for row in published_curves("cifar100")}
    last, best = records[-1], max(record["test_accuracy"] for record in records)
    report.text(
        f"{options.model} on CIFAR-100 in {options.dtype}, {last['epoch']:g} of {epochs} epochs"
        f"{'' if finished else ' (to be continued by the same command)'}: test accuracy {last['test_accuracy']:.2%} "
        f"at the last epoch, {best:.2%} at the best; {sum(record['seconds'] for record in records):.0f} s of training, "
        f"{last['images_per_second']:.0f} images/s in the last epoch."
    )
    title = f"{options.model} on CIFAR-100, {options.dtype}"
    draw_curves(records, options.out / "curves.png", LOGITS, title=title, dataset="cifar100", epochs=epochs)
    shutil.copyfile(folder / "metrics.jsonl", options.out / "metrics.jsonl")
    rows = []
    for record in records:
        if record["epoch"] % 20 == 0 or record is last:
            theirs = published.get(record["epoch"])
            errors = [100 * (1 - record[f"{split}_accuracy"]) for split in ("train", "test")]
            old = (
                ["-", "-"]
                if theirs is None
                else [f"{100 * (1 - theirs[f'{s}_accuracy']):.2f}" for s in ("train", "test")]
            )
            rows.append([f"{record['epoch']:g}", f"{errors[0]:.2f}", old[0], f"{errors[1]:.2f}", old[1]])
    report.table(("epoch", "training error, %", "published", "test error, %", "published"), rows)
    report.data(finished=finished, records=records)
