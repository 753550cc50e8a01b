"""A data set and a network small enough to train in a test."""

import contextlib
import dataclasses
import functools
import json
import signal
import types

import jax
import numpy as np
import pytest
from flax import nnx
from tensorboardx_alone import event_pb2

from seanet_jax.data import Dataset
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import saved_network
from seanet_jax.models import PRESETS, SEANet, SEANetConfig, weights
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.progress import Progress

TINY = SEANetConfig(stage_sizes=(1, 1), widths=(8, 16), stem_width=4, reduction=4, aggregate_factor=2)
# Of one block, which is traced and compiled in half the time, for processes that train.
TINIEST = dataclasses.replace(TINY, stage_sizes=(1,), widths=(8,))
TINY_RUN = {
    **{"dataset": "digits", "model": "tiny", "batch_size": 8, "eval_batch_size": 10, "epochs": 3},
    **{"learning_rate": 0.05, "decay_every": 2},
}


def made_dataset(train=40, test=23, class_names=("dark", "bright")):
    """Makes a data set of 8x8 images in two classes, dark and bright."""
    source = np.random.RandomState(0)

    def split(count):
        labels = source.randint(0, 2, count).astype(np.int32)
        images = source.randint(0, 100, (count, 8, 8, 3)) + 120 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    spec = ImageSpec(8, 8, (0.4,) * 3, (0.3,) * 3, class_names)
    return Dataset("made", *split(train), *split(test), spec, flip=True)


def settled(config):
    """Makes a network in evaluation mode, whose statistics, scales and biases are not the initial ones."""
    model = SEANet(config, rngs=nnx.Rngs(0))
    random = np.random.RandomState(1)
    arrays = weights.to_arrays(model)
    for name, array in arrays.items():
        if name.endswith((".var", ".scale")):
            arrays[name] = np.exp(0.5 * random.standard_normal(array.shape))
        elif array.ndim == 1:
            arrays[name] = 0.5 * random.standard_normal(array.shape)
    weights.set_arrays(model, arrays, "the test")
    model.eval()
    return model


@pytest.fixture
def tiny(tmp_path):
    """Replaces ``--dataset digits --model tiny`` by small ones. Returns a function that makes a run's config."""

    def config(name="run", **fields):
        return TrainConfig(out=tmp_path / name, **(TINY_RUN | fields))

    with small(made_dataset()):
        yield config


@pytest.fixture(scope="session")
def in_peace(tmp_path_factory):
    """Returns a function that trains a config of ``tiny`` once and returns it. Tests must not write to the run."""
    from seanet_jax.training.run import fit

    @functools.cache
    def run(**fields):
        config = TrainConfig(out=tmp_path_factory.mktemp("peace") / "run", **(TINY_RUN | fields))
        with small(made_dataset()):
            fit(config)
        return config

    return run


NAMES = ("dark", "<script>alert(1)</script>")


@contextlib.contextmanager
def small(dataset, network=TINIEST):
    """A context in which ``--dataset digits --model tiny`` are these images and a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", network)
        patch.setattr("seanet_jax.training.images.load", lambda name, data_dir, mapped: dataset)
        yield


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """The folder of a short run, evaluated at its best epoch. Tests that write must copy it."""
    from seanet_jax.inference.evaluation import evaluate
    from seanet_jax.training.run import fit

    folder = tmp_path_factory.mktemp("evaluated") / "run"
    with small(made_dataset(class_names=NAMES)):
        fit(TrainConfig(out=folder, **(TINY_RUN | {"learning_rate": 0.005})))
        evaluate(folder, command="seanet evaluate run")
    return folder


def records(folder, timing=False):
    """Returns a run's records, without the times unless ``timing``, as they differ from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    varying = () if timing else ("seconds", "images_per_second")
    return [{name: value for name, value in line.items() if not name.endswith(varying)} for line in lines]


def made_record(epoch, **more):
    """Makes a record like those of a run with four steps per epoch."""
    values = {"train_loss": 2 / epoch, "train_accuracy": 0.5, "test_loss": 3 / epoch, "test_accuracy": 0.4}
    timing = {"learning_rate": 0.1, "step": 4 * epoch, "seconds": 0.5, "images_per_second": 80.0}
    return {"epoch": epoch} | values | timing | more


def made_summary(records, **more):
    """Makes the summary of a finished run with these records."""
    about = {"parameters": 1234, "training_seconds": 0.5 * len(records), "device": "1 x made", "versions": {"jax": "1"}}
    return {"finished": True, "last": records[-1]} | about | more


def newest(folder):
    """Returns the training state and the records in the newest checkpoint of a run."""
    _, template = saved_network(folder)
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(template)


def latest_state(folder):
    """Returns the training state in the newest checkpoint of a run."""
    return newest(folder)[0]


def assert_same_run(config, other):
    """Asserts that two runs have the same records and end with the same state, bit for bit."""
    assert records(config.out) == records(other.out)
    (state, history), (expected, expected_history) = newest(config.out), newest(other.out)
    assert len(history) == len(expected_history)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def raise_at(monkeypatch, place, call, number):
    """Sends a signal to this process when a method is called for the ``call``-th time."""
    cls, name = place
    real, calls = getattr(cls, name), []

    def method(*arguments):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(cls, name, method)


def one_second_per_step(monkeypatch):
    """Replaces the clock of epochs by one on which each training step takes a second and nothing else takes time."""
    clock, real = types.SimpleNamespace(now=0.0), Progress.step

    def step(progress, step, loss, accuracy):
        clock.now += step - progress._step
        real(progress, step, loss, accuracy)

    monkeypatch.setattr(Progress, "step", step)
    monkeypatch.setattr("seanet_jax.training.progress.time", types.SimpleNamespace(perf_counter=lambda: clock.now))


def read_points(folder):
    """Returns the points that TensorBoard shows of a run, by quantity and step, without those it hides."""
    points = {}
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            if event.session_log.status == event_pb2.SessionLog.START:
                points = {(tag, step): value for (tag, step), value in points.items() if step < event.step}
            for value in event.summary.value:
                if value.tag != "images_per_second":
                    assert (value.tag, event.step) not in points, "there twice"
                    points[value.tag, event.step] = value.simple_value
            data = data[16 + length :]
    return points
