"""Installs and joins what pack.py has packed, on a machine without a network. Needs nothing but Python and pip.

    python benchmarks/gpu/unpack.py gpu-pack --data-dir data   # installs, and joins CIFAR-100 into data/cifar100

Every file is checked by its SHA-256 first.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO


class Pieces:
    """The pieces of an archive, read one after the other as one file.

    Args:
        paths: The pieces, in order.
    """

    def __init__(self, paths: list[Path]):
        self._paths = list(paths)
        self._open: BinaryIO | None = None

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            self._open.close()

    def read(self, size: int) -> bytes:
        """Returns the next bytes: ``size`` of them, or fewer at the end."""
        found = b""
        while len(found) < size and (self._open or self._paths):
            file = self._open = self._open or self._paths.pop(0).open("rb")
            more = file.read(size - len(found))
            found += more
            if not more:
                file.close()
                self._open = None
        return found


def check(folder: Path) -> list[str]:
    """Returns what is wrong with the files of a folder, a line each: those that are missing, and those that differ."""
    problems = []
    for name, expected in json.loads((folder / "sha256.json").read_text()).items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing; copy it into {folder}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            problems.append(f"{name} is not as it was packed; copy it into {folder} again")
    return problems


def join(folder: Path, name: str, target: Path) -> bool:
    """Joins the pieces of an archive and unpacks it.

    Args:
        folder: The folder of the pieces.
        name: Name of the archive.
        target: Where it is unpacked.

    Returns:
        Whether there is such an archive.
    """
    pieces = sorted(folder.glob(f"{name}.tar.*"))
    if pieces:
        target.mkdir(parents=True, exist_ok=True)
        with Pieces(pieces) as whole, tarfile.open(fileobj=whole, mode="r|") as archive:
            archive.extractall(target, filter="data")
    return bool(pieces)


def main(arguments: list[str]) -> int:
    """Checks, installs and joins. Returns the exit status: 0, or 1 if something is missing or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that pack.py has written, copied here")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where CIFAR-100 is joined")
    read = parser.parse_args(arguments)
    folder = read.folder.absolute()
    if not (folder / "sha256.json").is_file():
        parser.error(f"{folder} has no sha256.json, which pack.py writes last; name the folder that it wrote")
    if problems := check(folder):
        print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
        return 1
    join(folder, "wheels", folder)
    wheels = folder / "wheels"
    wheel = next(wheels.glob("seanet_jax-*.whl"))
    install = ["install", "--no-index", "--find-links", str(wheels), f"{wheel}[train]"]
    if subprocess.run([sys.executable, "-m", "pip", *install], check=False).returncode:
        print(f"error: pip {' '.join(install)} failed", file=sys.stderr)
        return 1
    if join(folder, "cifar100", read.data_dir):
        print(f"CIFAR-100 is in {read.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
