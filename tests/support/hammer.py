"""Processes that write the same files at the same time, and a reader that looks at what is there meanwhile.

Everything that one write leaves carries the number of that write, so the reader sees whether files belong together.
The writers call the functions that the commands call, without the networks, figures and data that take time.

    python tests/support/hammer.py FOLDER SECONDS [WRITERS]      # figures for all kinds
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from unittest import mock

import numpy as np
from flax import nnx

from seanet_jax import ImageSpec, InputError, SEANet, SEANetConfig, style
from seanet_jax.data import cache
from seanet_jax.inference import conversion, evaluation, stablehlo, trained
from seanet_jax.studies import ablate
from seanet_jax.studies.study import Study
from seanet_jax.training.config import TrainConfig

try:
    from seanet_jax.durable import locked
except ImportError:  # so that this file measures earlier versions too

    @contextlib.contextmanager
    def locked(folder, *, shared=False):
        yield


_KEYS = 1000
_CONFIG = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=4, num_classes=2)


def _padded(key):
    """Content that carries a number, too long to be written at once."""
    return f"{key:04d}" * 20_000


def _key(text):
    assert len(text) == 80_000 and text == text[:4] * 20_000, "a part of a file"
    return int(text[:4])


class _Figure:
    """In place of a figure of Matplotlib."""

    def __init__(self, key):
        self.key = key

    def savefig(self, file, **_):
        file.write(_padded(self.key).encode())


def _network(key):
    model = SEANet(_CONFIG, rngs=nnx.Rngs(0))
    model.classifier.bias.set_value(np.full(2, key, np.float32))
    images = ImageSpec(8, 8, (0.5,) * 3, (0.5,) * 3, (f"{key}", "other"))
    return model, images


class Weights:
    """Two calls of save_pretrained into one folder."""

    def __init__(self, folder):
        self.folder = folder / "weights"
        self.model = _network(0)[0]

    def write(self, key):
        self.model.classifier.bias.set_value(np.full(2, key, np.float32))
        self.model.save_pretrained(self.folder, ImageSpec(8, 8, (0.5,) * 3, (0.5,) * 3, (f"{key}", "other")))

    def read(self):
        found = trained.load(self.folder)
        return {int(found.model.classifier.bias[0]), int(found.images.class_names[0])}


class Artifact:
    """Two exports to one artifact."""

    def __init__(self, folder):
        self.path = folder / "net.stablehlo"

    def write(self, key):
        exported = types.SimpleNamespace(
            serialize=lambda: _padded(key).encode(), platforms=("cpu",), calling_convention_version=9
        )
        model = types.SimpleNamespace(config=_CONFIG)
        found = trained.Trained(model, ImageSpec(8, 8, (0.5,) * 3, (0.5,) * 3, (f"{key}", "other")))
        with mock.patch.multiple(
            stablehlo,
            load=lambda *_: found,
            _in_float32=lambda model: model,
            export_network=lambda _: exported,
            largest_difference=lambda *_: 0.0,
        ):
            stablehlo.write("run", self.path)

    def read(self):
        with locked(self.path.parent, shared=True):
            artifact, about = self.path.read_bytes(), json.loads(Path(f"{self.path}.json").read_text())
        is_its_own = hashlib.sha256(artifact).hexdigest() == about["sha256"]
        return {_key(artifact.decode()), int(about["classes"][0]), *(() if is_its_own else (-1,))}


class Evaluation:
    """Two evaluations of one run. Only some networks have mistakes, so the sheet of them comes and goes."""

    def __init__(self, folder):
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)

    def write(self, key):
        dataset = types.SimpleNamespace(test_images=np.zeros((1, 8, 8, 3), np.uint8), superclasses=None)
        subject = types.SimpleNamespace(dataset=dataset, config=None, records=[], settings={}, summary=None)
        mistake = {"image": 0, "class": "a", "answer": "b", "confidence": 0.5}
        about = {"key": key, "calibration": [], "classes": [], "confusion": [], "expected_calibration_error": 0.0}
        about["mistakes"] = [mistake] * (key % 2)
        with mock.patch.multiple(
            evaluation,
            confusion_figure=lambda *_: _Figure(key),
            reliability_figure=lambda *_: _Figure(key),
            html_report=lambda *_: _padded(key),
            contact_sheet=lambda _: _padded(key).encode(),
        ):
            evaluation._write(self.folder, about, subject, None)

    def read(self):
        with locked(self.folder, shared=True):
            paths = [self.folder / "report.html", *(self.folder / "evaluation").glob("[!.]*")]
            contents = {path.name: path.read_text() for path in paths}
        about = json.loads(contents.pop("evaluation.json"))
        keys = {about["key"], *map(_key, contents.values())}
        return keys if ("mistakes.png" in contents) == bool(about["mistakes"]) else keys | {-1}


class FigureFiles:
    """Two processes that draw one figure, as .svg and .png."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, key):
        style.save(_Figure(key), self.folder / "lr0.1")

    def read(self):
        with locked(self.folder, shared=True):
            contents = [(self.folder / f"lr0.1{suffix}").read_text() for suffix in (".svg", ".png")]
        return set(map(_key, contents))


class Cache:
    """Two processes that decode the images of one data set."""

    def __init__(self, folder):
        self.path, self.mapped = folder / "made-0123456789abcdef.npz", False

    def write(self, key):
        cache._write(self.path, dict.fromkeys("xy", np.full((60, 1000), key)))

    def read(self):
        shapes = dict.fromkeys("xy", ((60, 1000), "i8"))
        self.mapped = not self.mapped
        return {int(key) for array in cache._read(self.path, shapes, self.mapped).values() for key in np.unique(array)}


class StudyFiles:
    """Two processes that join one study, and write its tables."""

    def __init__(self, folder):
        self.folder = folder / "study"

    def write(self, key):
        base = TrainConfig(dataset="digits", model="resnet20", batch_size=8)
        Study(self.folder, base, {f"v{key % 10}": {"model": "resnet20"}}).write()
        study = Study.read(self.folder)
        with mock.patch.multiple(ablate, markdown=lambda _: _padded(key), table=lambda _: []), study.locked():
            ablate.write_tables(study)

    def read(self):
        Study.read(self.folder)
        return {_key((self.folder / "table.md").read_text())}


class Conversion:
    """Two conversions to one target, of which one has to win and the other has to be refused in a sentence."""

    def __init__(self, folder):
        self.folder = folder
        self.model, self.images = _network(0)

    def write(self, key):
        # Both count in the same order, so that they meet at each target.
        found = trained.Trained(self.model, self.images)
        target = self.folder / "targets" / f"{key % _KEYS % 500}"
        with mock.patch.object(conversion, "load", lambda *_: found), contextlib.suppress(InputError):
            conversion.convert_to_weights(self.folder / "run", target)

    def read(self):
        newest = max((self.folder / "targets").glob("[!.]*"), key=lambda path: int(path.name))
        return {int(trained.load(newest).images.class_names[0])}


KINDS = {kind.__name__: kind for kind in (Weights, Artifact, Evaluation, FigureFiles, Cache, StudyFiles, Conversion)}


def _write_all(first, step):
    """Is a writer, in a process of its own: each line of its input is a kind, the seconds and the folder."""
    for line in sys.stdin:
        kind, seconds, folder = line.rstrip("\n").split(" ", 2)
        _write(KINDS[kind](Path(folder)), first, step, float(seconds))


def _write(writer, first, step, seconds):
    """Writes for some seconds, at least twice, and prints how many writes there were and what was raised."""
    errors, writes = [], 0
    writer.write(first)
    print("ready", flush=True)
    sys.stdin.readline()
    until, key = time.monotonic() + seconds, first
    while time.monotonic() < until or writes < 2:
        key = (key + step) % _KEYS
        writes += 1
        try:
            writer.write(key)
        except Exception as error:  # whatever it is, it is counted
            errors.append(f"{type(error).__name__}: {error}")
    print(json.dumps({"writes": writes, "errors": errors}), flush=True)


@contextlib.contextmanager
def writing(count):
    """Processes that write, as many kinds of files as they are told one after another."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--write", f"{number}", f"{count}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"JAX_PLATFORMS": "cpu"},
                )
            )
            for number in range(count)
        ]


def _tell(processes, line):
    for process in processes:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def hammer(kind, folder, processes, *, seconds):
    """Returns the counts of writes, errors, reads, and reads of files that do not belong together.

    Args:
        kind: A name of KINDS.
        folder: An empty folder.
        processes: Those of ``writing``.
        seconds: How long the processes write.
    """
    _tell(processes, f"{kind} {seconds} {folder}")
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    reader, reads, torn = KINDS[kind](folder), 0, []
    _tell(processes, "")
    until = time.monotonic() + seconds

    def read():
        try:
            keys = reader.read()
        except Exception as error:  # whatever it is, it is counted
            torn.append(f"{type(error).__name__}: {error}")
        else:
            if len(keys) != 1:
                torn.append(f"files of the writes {sorted(keys)}")

    while time.monotonic() < until or reads < 2:
        reads += 1
        read()
    counts = [json.loads(process.stdout.readline()) for process in processes]
    before = len(torn)
    read()  # what stays
    return {
        "writes": sum(count["writes"] for count in counts),
        "errors": [error for count in counts for error in count["errors"]],
        "reads": reads,
        "torn": torn[:before],
        "stays_torn": torn[before:],
        "left": sorted(path.name for path in folder.rglob(".*.tmp")),
    }


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        _write_all(int(sys.argv[2]), int(sys.argv[3]))
    else:
        with writing(int([*sys.argv, 2][3])) as writers:
            for name in KINDS:
                place = Path(sys.argv[1]) / name
                place.mkdir(parents=True)
                counts = hammer(name, place, writers, seconds=float(sys.argv[2]))
                shown = {key: len(value) if isinstance(value, list) else value for key, value in counts.items()}
                examples = {text[:150] for key in ("errors", "torn", "stays_torn") for text in counts[key][:3]}
                print(name, shown, *sorted(examples), sep="\n  ", flush=True)
