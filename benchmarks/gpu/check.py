"""Does everything work here? Versions, peak rates, 30 steps in each dtype, and a run that is resumed and evaluated."""

import importlib.metadata
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from report import Report

if TYPE_CHECKING:
    from measure import Options

# What the package and its training need, and the baseline; those that are missing are named.
PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "orbax-checkpoint", "chex", "numpy"),
    *("seanet-jax", "safetensors", "tyro", "tensorflow-datasets", "array-record", "tensorboardX", "tqdm", "filelock"),
    *("scikit-learn", "matplotlib", "pillow", "jinja2", "torch", "triton", "timm"),
)

# Each is a program of its own, so that one which cannot start its GPU does not stop the other.
DEVICES = {
    "jax": "import jax; d = jax.devices(); print(jax.default_backend(), len(d), d[0].device_kind)",
    "torch": "import torch; c = torch.cuda.is_available(); print(torch.cuda.get_device_name() if c else 'cpu')",
}

PEAKS = """
import sys, time
import jax, jax.numpy as jnp

def best(function, *arguments):
    function(*arguments).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            result = function(*arguments)
        result.block_until_ready()
        seconds.append((time.perf_counter() - started) / calls)
    return min(seconds)

size, calls = int(sys.argv[1]), int(sys.argv[2])
random = jax.random.normal(jax.random.key(0), (size, size))
for dtype in ("bfloat16", "float32"):
    a = random.astype(dtype)
    print(f"{dtype}: {2 * size**3 / best(jax.jit(jnp.matmul), a, a) / 1e12:.1f} TFLOP/s")
bytes_moved = 2 * 16 * random.nbytes
many = jnp.tile(random, (16, 1))
print(f"memory: {bytes_moved / best(jax.jit(lambda x: x + 1), many) / 1e9:.0f} GB/s")
"""


def check(options: "Options") -> int:
    """Writes what the machine has, and whether steps and runs work. Returns the exit status."""
    report = Report(options.out, "Check")
    _versions(report)
    peaks = ("512", "2") if options.quick else ("8192", "20")
    for name, code, arguments in (*((n, c, ()) for n, c in DEVICES.items()), ("peak rates, by JAX", PEAKS, peaks)):
        found = _output(report, name, [sys.executable, "-c", code, *arguments], min(180, options.seconds))
        if found is not None:
            lines = [line for line in found.splitlines() if line]
            report.text(f"{name}: {'; '.join(lines)}.")
            report.data(**{name: lines})
    if not options.quick and "gpu" not in str(report.found("jax")):
        report.failure("JAX does not use a GPU; what follows is measured on the CPU")
    for dtype in ("float32", "bfloat16"):
        with report.attempt(f"30 steps in {dtype}"):
            _steps(report, options, dtype)
    _commands(report, options)
    return bool(report.failures)


def _versions(report: Report) -> None:
    versions, missing = {}, []
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    here = f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"
    report.text(f"{here}; {', '.join(f'{name} {version}' for name, version in versions.items())}.")
    report.text(f"Not installed: {', '.join(missing) or 'nothing that is asked for'}.")
    report.data(versions=versions, missing=missing)


def _output(report: Report, what: str, command: list[str], seconds: float) -> str | None:
    """Returns the output of a command, or None after adding to the report why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, seconds), check=False)
    except subprocess.TimeoutExpired as error:
        report.failure(f"{what} did not end within {error.timeout:.0f} s")
        return None
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if re.search(r"[Ee]rror", line)] or [done.stderr[-300:]]
        report.failure(f"{what} ended with status {done.returncode}: {last[-1]}", done.stderr)
        return None
    return done.stdout


def _steps(report: Report, options: "Options", dtype: str) -> None:
    """Takes 30 steps on the digits and says whether the loss stayed finite and fell."""
    from implementations import Task
    from interleaved import Worker

    steps, batch = 30, 8 if options.quick else 64
    name = "seanet_jax" + (" bfloat16" if dtype == "bfloat16" else "")
    worker = Worker(name, Task(options.model, batch), patience=options.seconds)
    try:
        losses = worker.ask("losses", steps=steps, patience=max(1, options.seconds))["losses"]
    finally:
        worker.close()
    first, last = (statistics.fmean(part) for part in (losses[:5], losses[-5:]))
    report.data(**{f"losses in {dtype}": losses})
    found = f"{steps} steps in {dtype}: the loss goes from {first:.3f} to {last:.3f} (means of five steps)"
    if not all(map(math.isfinite, losses)):
        report.failure(f"{found}; it is not finite")
    elif last >= first:
        report.failure(f"{found}; it does not fall")
    else:
        report.text(f"{found}, compiled in {worker.compile_seconds:.0f} s.")


def _commands(report: Report, options: "Options") -> None:
    """Trains a run of 30 steps by the command, resumes it to 40 and evaluates it."""
    folder = options.work / "check"
    shutil.rmtree(folder, ignore_errors=True)
    train = [sys.executable, "-m", "seanet_jax", "train", "--dataset", "digits", "--model", options.model]
    train += ["--out", str(folder), "--log-every", "10", *([] if options.quick else ["--require-gpu"])]
    train += ["--batch-size", "8", "--limit-train", "160", "--limit-test", "32"] if options.quick else []
    for what, command in (
        ("a run of 30 steps", [*train, "--max-steps", "30"]),
        ("the run resumed to 40 steps", [*train, "--max-steps", "40", "--resume"]),
        ("the evaluation of the run", [sys.executable, "-m", "seanet_jax", "evaluate", str(folder)]),
    ):
        if (found := _output(report, what, command, options.seconds)) is None:
            return
        report.text(f"{what}: {' / '.join(line for line in found.splitlines() if 'test' in line)[:300]}")
