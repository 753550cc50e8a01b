"""Commands whose power is cut while they write, and what must be there afterwards (``cut_power``)."""

import dataclasses
import random
import re
import shutil
import sys
import time
from pathlib import Path

from disk_image import DiskImage
from ended_process import Process, errors_as_problems
from kill_and_resume import final_arrays
from PIL import Image

Content = dict[str, bytes]

# It knows the small networks of the runs.
_SEANET = Path(__file__).with_name("small_seanet.py")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that reads a run and writes files.

    Attributes:
        name: Name of the command.
        arguments: The arguments after ``seanet``.
        says: Pattern of the first line that says that everything is written.
        begins: Pattern of what exists as soon as the command begins to write.
        results: Patterns, in the folder of the file system, of the files and folders that the command writes.
    """

    name: str
    arguments: tuple[str, ...]
    says: str
    begins: str
    results: tuple[str, ...]


COMMANDS = (
    Command(
        "evaluate", ("evaluate", "trained"), "resnet20 on digits", "trained/evaluation",
        ("trained/evaluation/[!.]*", "trained/report.html"),
    ),
    Command(
        "predict --sheet", ("predict", "trained", "image.png", "--sheet", "out/sheet.png"), ".*image.png", "out",
        ("out/sheet.png",),
    ),
    Command("convert to weights", ("convert", "trained", "out/weights"), ".*out/weights:", "out", ("out/weights",)),
    Command(
        "convert to a run",
        ("convert", "weights", "out/run", "--dataset", "digits"), ".*out/run:", "out", ("out/run",),
    ),
    Command(
        "export", ("export", "trained", "net.stablehlo"), ".*net.stablehlo:", "*net.stablehlo*", ("net.stablehlo*",)
    ),
)  # fmt: skip


class Commands:
    """Commands whose power is cut. They read a finished run, and pretrained weights converted from it.

    Args:
        disk: The file system.
        peaceful: The folder of a finished run, which is copied.
        moments: Source of random moments.
    """

    def __init__(self, disk: DiskImage, peaceful: Path, moments: random.Random):
        self._disk = disk
        self._moments = moments
        self._trained = disk.folder / "trained"
        shutil.copytree(peaceful, self._trained)
        self._run = content(self._trained)
        Image.linear_gradient("L").save(disk.folder / "image.png")
        self._expected: dict[str, Content] = {}
        self._seconds: dict[str, float] = {}
        self.in_peace(COMMANDS[2])
        shutil.copytree(disk.folder / "out" / "weights", disk.folder / "weights")
        disk.synchronize()

    def command(self, command: Command) -> list[str]:
        """Returns the command line, with whole paths."""
        paths = re.compile(r"trained|weights|image\.png|net\.stablehlo|out/.*")
        words = (str(self._disk.folder / word) if paths.fullmatch(word) else word for word in command.arguments)
        return [sys.executable, str(_SEANET), *words]

    def in_peace(self, command: Command) -> None:
        """Runs a command once, remembers what it writes and how long that takes."""
        with Process(self.command(command)) as process:
            self._wait_for_begin(command, process)
            began = time.perf_counter()
            if not process.read_to(command.says):
                raise SystemExit(f"error: {command.name} failed: {''.join(process.lines)}")
            self._seconds[command.name] = time.perf_counter() - began
        self._expected[command.name] = self._results(command)

    def prepare(self, command: Command) -> None:
        """Deletes what the command writes."""
        if command.name not in self._expected:
            self.in_peace(command)
        for path in self._paths(command.begins, *command.results):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._disk.synchronize()

    def moment(self, command: Command, process: Process) -> str:
        """Waits for a random moment of a command. Returns what the command is doing then.

        Args:
            command: The command.
            process: The command's process.
        """
        if self._moments.random() < 0.5:
            process.read_to(command.says)
            return f"{command.name}, done"
        self._wait_for_begin(command, process)
        time.sleep(self._moments.uniform(0, self._seconds[command.name]))
        return command.name

    def problems(self, command: Command, process: Process) -> list[str]:
        """Lists what is lost or damaged after a cut.

        Args:
            command: The command.
            process: The process that ran until the cut.
        """
        problems: list[str] = []
        with errors_as_problems(problems, command.name):
            found, expected = self._results(command), self._expected[command.name]
            problems += [f"{name} is damaged" for name in found if found[name] != expected.get(name)]
            if process.printed(command.says):
                problems += [f"{name} was written, and is not there" for name in expected.keys() - found.keys()]
        with errors_as_problems(problems, f"the run, after {command.name}"):
            if content(self._trained) != self._run:
                problems.append(f"the run differs, after {command.name}")
        return problems

    def _wait_for_begin(self, command: Command, process: Process) -> None:
        while not self._paths(command.begins) and not process.has_ended():
            time.sleep(0.001)

    def _paths(self, *patterns: str) -> list[Path]:
        return [path for pattern in patterns for path in self._disk.folder.glob(pattern)]

    def _results(self, command: Command) -> Content:
        paths = self._paths(*command.results)
        return {str(Path(path.name, name)): value for path in paths for name, value in content(path).items()}


def content(path: Path) -> Content:
    """Returns the bytes of a file, of the files in a folder by their names, or of the arrays of a run."""
    if path.is_file():
        return {"": path.read_bytes()}
    if not (path / "checkpoints").exists():
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    arrays = b"".join(array.tobytes() for array in final_arrays(path))
    return {"config.json": (path / "config.json").read_bytes(), "checkpoints": arrays}
