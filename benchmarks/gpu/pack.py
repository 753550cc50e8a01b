"""Packs what a machine without a network needs beside JAX and PyTorch: wheels and CIFAR-100, in pieces.

    python benchmarks/gpu/pack.py --out gpu-pack --data-dir ~/tensorflow_datasets
    python benchmarks/gpu/unpack.py gpu-pack --data-dir data   # on the machine, with gpu-pack copied to it

Run it by the Python version of the machine, as pip decides by it what is needed. The wheels are of this package and of
what ``seanet-jax[train]`` needs and the machine does not have: pure Python, or for Linux on x86-64. No piece is larger
than 45 MB. unpack.py checks and joins them, and installs.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
PIECE = 45 * 10**6  # bytes
# What the machine has already, with all that this needs. Nothing of it is carried.
THERE = ("jax==0.11.2", "jaxlib==0.11.2", "flax", "optax", "orbax-checkpoint", "chex")
# Pure Python that is published as source alone. Its wheel is built here.
_AS_SOURCE = ("promise",)
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")


class PackError(Exception):
    """Something cannot be packed. The message says what, and what to do."""


def pip(*arguments: str | Path) -> None:
    """Runs pip.

    Raises:
        PackError: If it fails. The message is pip's last line.
    """
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise PackError(f"pip {arguments[0]} failed: {lines[-1]}")


def foreign() -> list[str]:
    """Returns pip's arguments that choose wheels for Linux on x86-64 and this version of Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *platforms]


def resolved(requirements: Iterable[str], wheels: Path) -> dict[str, str]:
    """Returns the versions, by name, of all that requirements need, themselves included. Downloads no wheel.

    Args:
        requirements: What is required, in pip's words.
        wheels: A folder of wheels that count as published.

    Raises:
        PackError: If there is no such set of wheels.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "report.json"
        nowhere = ("--dry-run", "--ignore-installed", "--target", folder, "--report", found)
        pip("install", "-q", *nowhere, *foreign(), "--find-links", wheels, *requirements)
        installed = json.loads(found.read_text())["install"]
    return {one["metadata"]["name"].lower().replace("_", "-"): one["metadata"]["version"] for one in installed}


def pack_wheels(wheels: Path, there: tuple[str, ...]) -> None:
    """Writes the wheels that are needed into a folder.

    Args:
        wheels: The folder.
        there: What the machine has, in pip's words.

    Raises:
        PackError: If a wheel cannot be built or found.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"  # a copy, because setuptools writes beside what it builds
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        shutil.copytree(ROOT / "seanet_jax", source / "seanet_jax", ignore=shutil.ignore_patterns("__pycache__"))
        pip("wheel", "-q", "--no-deps", "--wheel-dir", wheels, source)
    for name in _AS_SOURCE:
        pip("wheel", "-q", "--no-deps", "--wheel-dir", wheels, name)
    (own,) = wheels.glob("seanet_jax-*.whl")
    brought = resolved(there, wheels)
    needed = resolved([*there, f"{own}[train]"], wheels)
    packed = {path.name.split("-")[0].lower().replace("_", "-") for path in wheels.glob("*.whl")}
    missing = [f"{name}=={version}" for name, version in needed.items() if name not in brought.keys() | packed]
    pip("download", "-q", "--no-deps", *foreign(), "--dest", wheels, *missing)


def in_pieces(folder: Path, name: str, source: Path) -> None:
    """Writes an archive of a folder in pieces of at most ``PIECE`` bytes: ``NAME.tar.00``, ``NAME.tar.01``, ...

    Args:
        folder: Where the pieces are written.
        name: Name of the archive, and of the folder inside it.
        source: The folder that is packed.
    """
    with tempfile.TemporaryFile(dir=folder) as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.add(source, name)
        whole.seek(0)
        number = 0
        while piece := whole.read(PIECE):
            (folder / f"{name}.tar.{number:02}").write_bytes(piece)
            number += 1


def main(arguments: list[str]) -> int:
    """Packs. Returns the exit status: 0, 1 if something cannot be packed, or 2 if an argument is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, which must not exist")
    parser.add_argument(
        "--data-dir", type=Path, help="where TFDS has prepared CIFAR-100; without it, no images are packed"
    )
    parser.add_argument("--there", nargs="*", default=[], help="more packages that the machine has, in pip's words")
    read = parser.parse_args(arguments)
    if read.out.exists():
        parser.error(f"--out: {read.out} is there already; name a new folder")
    images = read.data_dir and read.data_dir / "cifar100"
    if images and not list(images.glob("*/dataset_info.json")):
        parser.error(f"--data-dir: {read.data_dir} has no CIFAR-100 that TFDS has prepared; name the folder that has")
    read.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            pack_wheels(Path(temporary), (*THERE, *read.there))
        except PackError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        names = sorted("-".join(path.name.split("-")[:2]) for path in Path(temporary).iterdir())
        in_pieces(read.out, "wheels", Path(temporary))
    if images:
        in_pieces(read.out, "cifar100", images)
    files = sorted(read.out.iterdir())
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (read.out / "sha256.json").write_text(json.dumps(sums, indent=1))
    print(f"{len(names)} wheels: {', '.join(names)}")
    for path in files:
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
