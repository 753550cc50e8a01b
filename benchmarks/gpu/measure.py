"""What a machine with one GPU shows in half an hour: does everything work, how fast, why not faster, how accurate?

    python benchmarks/gpu/measure.py check                      # versions, peak rates, 30 steps, a run
    python benchmarks/gpu/measure.py throughput --batch-size 64 # beside PyTorch on the same card
    python benchmarks/gpu/measure.py flags                      # what flags of XLA change
    python benchmarks/gpu/measure.py profile                    # the largest costs of a step
    python benchmarks/gpu/measure.py resume --data-dir DIR      # is a resumed run equal, bit for bit?
    python benchmarks/gpu/measure.py recipe --data-dir DIR      # the published recipe; again, until it is finished
    python benchmarks/gpu/measure.py all --data-dir DIR         # all of these, one after the other

Each command ends within --minutes and adds to results.json and results.md in the folder --out. What fails is a line
there, and does not stop the rest. docs/gpu.md describes the order of a session.

Exit status: 0 if nothing failed, 1 if something did, 3 if the recipe is not finished and the command is to be repeated.
"""

import argparse
import dataclasses
import importlib
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks that these use

from report import UNFINISHED, Report

# The module of each part, in this order.
PARTS = {
    "check": "check",
    "throughput": "throughput",
    "flags": "throughput",
    "profile": "costs",
    "resume": "recipe",
    "recipe": "recipe",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and where.

    Attributes:
        out: Folder of the results.
        work: Folder of the runs.
        data_dir: Folder of CIFAR-100 as TFDS prepares it; None is TFDS's own choice.
        model: Preset of the network.
        batch_sizes: Images per step of the timings.
        ends: Time, of ``time.monotonic``, at which the command has to be done.
        quick: Whether to do everything on little data and few steps, on any device, to see that it works.
        dtype: Dtype of the recipe.
        deterministic: Whether the recipe uses deterministic operations alone.
    """

    out: Path
    work: Path
    data_dir: Path | None
    model: str
    batch_sizes: tuple[int, ...]
    ends: float
    quick: bool
    dtype: str
    deterministic: bool

    @property
    def seconds(self) -> float:
        """The seconds that are left."""
        return self.ends - time.monotonic()


def parse(arguments: list[str]) -> tuple[str, Options]:
    """Reads the arguments. Returns the name of the part, or "all", and the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("gpu-work"), help="folder of the runs")
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-100 as TFDS prepares it")
    parser.add_argument("--model", help="preset of the network; seanet20, or seanet20_narrow with --quick")
    parser.add_argument("--batch-size", type=int, nargs="+", help="images per step; 64 256 1024, or 4 with --quick")
    parser.add_argument("--minutes", type=float, default=9.0, help="time of one part")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="dtype of the recipe")
    parser.add_argument(
        "--no-deterministic",
        dest="deterministic",
        action="store_false",
        help="let the recipe use the fastest operations, which may not be bit for bit the same in each run",
    )
    parser.add_argument(
        "--quick", action="store_true", help="little of everything, on any device, to see that it works"
    )
    read = parser.parse_args(arguments)
    if min(read.batch_size or [1]) < 1:
        parser.error("--batch-size must be positive")
    if read.minutes <= 0:
        parser.error("--minutes must be positive")
    options = Options(
        out=read.out.absolute(),
        work=read.work.absolute(),
        data_dir=read.data_dir and read.data_dir.absolute(),
        model=read.model or ("seanet20_narrow" if read.quick else "seanet20"),
        batch_sizes=tuple(read.batch_size or ([4] if read.quick else [64, 256, 1024])),
        ends=time.monotonic() + 60 * read.minutes,
        quick=read.quick,
        dtype=read.dtype,
        deterministic=read.deterministic,
    )
    return read.part, options


def main(arguments: list[str]) -> int:
    """Runs one part, or all of them in a process each. Returns the exit status."""
    part, options = parse(arguments)
    if part == "all":
        statuses = []
        for name in PARTS:
            print(f"# {name}", flush=True)
            again = [name if word == "all" else word for word in arguments]
            statuses.append(subprocess.run([sys.executable, __file__, *again], check=False).returncode)
        return next((status for status in statuses if status not in (0, UNFINISHED)), max(statuses))
    try:
        measure = getattr(importlib.import_module(PARTS[part]), part)
    except Exception as error:  # a part that cannot even be imported is a failure of that part
        report = Report(options.out, part)
        report.failure(f"{part} cannot start: {type(error).__name__}: {error}")
        return 1
    return measure(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
