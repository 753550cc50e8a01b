"""Folders of runs and weights that others made, edited or damaged: each reader refuses them in a sentence, or is right.

A reader never ends in a traceback, waits for ever, or prints a control sequence of the terminal.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket

import numpy as np
import pytest
from command_fixtures import run_here
from PIL import Image
from safetensors.numpy import load_file, save_file
from training_fixtures import TINY_RUN, made_dataset, records, small

from seanet_jax.errors import InputError, RunError
from seanet_jax.inference.evaluation import evaluate
from seanet_jax.inference.trained import load
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder

NEWER = "99.1"
HOSTILE = "\x1b[31mred\nerror: \u202e"


@pytest.fixture
def folder(evaluated, tmp_path):
    """A copy of the folder of a finished run of three epochs."""
    shutil.copytree(evaluated, tmp_path / "run")
    with small(made_dataset(class_names=("dark", "<script>alert(1)</script>"))):
        yield tmp_path / "run"


@contextlib.contextmanager
def no_waiting():
    """Raises an error if the code inside waits, for example for the writer of a named pipe."""

    def stop(number, frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def refused(message):
    with no_waiting(), pytest.raises((InputError, RunError), match=message) as caught:
        yield
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def resume(folder):
    fit(TrainConfig(out=folder, resume=True, **(TINY_RUN | {"learning_rate": 0.005, "epochs": 4})))


def put(name, *path, value):
    """Returns a damage that sets one value of a JSON file, or of the first line of ``metrics.jsonl``."""

    def damage(folder):
        file = folder / name
        lines = [json.loads(line) for line in file.read_text().splitlines()] if name.endswith("l") else []
        about = lines[0] if lines else json.loads(file.read_text())
        place = about
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        file.write_text("".join(json.dumps(line) + "\n" for line in lines) or json.dumps(about))

    return damage


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edited(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def in_utf_16(content):
    return content.decode().encode("utf-16")


def together(*damages):
    return lambda folder: [damage(folder) for damage in damages]


of_newer_version = put("config.json", "version", value=NEWER)


def drop(name):
    def damage(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return damage


def instead(name, make):
    """Returns a damage that makes something else in place of a file or a folder."""

    def damage(folder):
        drop(name)(folder)
        make(folder / name)

    return damage


def listening(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # the names of sockets are short
        made.bind(path.name)


# What may lie where a file should be.
NO_FILES = {
    "a folder": (lambda path: path.mkdir(), r"it is a folder"),
    "a named pipe": (os.mkfifo, r"it is a named pipe"),
    "a socket": (listening, r"it is a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), r"it is a device"),
    "a loop of links": (lambda path: path.symlink_to(path), r"Too many levels of symbolic links"),
    "nothing in it": (lambda path: path.touch(), r"Expecting value"),
    "too much in it": (lambda path: path.touch() or os.truncate(path, 2**40), r"it has more than 268,435,456 bytes"),
}

# Damages of config.json, which all readers refuse, and a part of the message.
CONFIGS = {
    **{kind: (instead("config.json", make), why) for kind, (make, why) in NO_FILES.items()},
    "a broken link": (instead("config.json", lambda path: path.symlink_to("nowhere")), "holds no run|not a run"),
    "not text": (written("config.json", b'{"a": "\xff"}'), "can't decode byte"),
    "a list": (written("config.json", "[1]"), "it is not a JSON object"),
    "a field twice": (written("config.json", '{"config": {}, "config": {}}'), "it has config twice"),
    "no fields": (written("config.json", "{}"), "it has no config, data_sha256, model_config, resumed"),
    "a hostile field": (put("config.json", HOSTILE, value=1), r"the field \\x1b\[31mred\\nerror: \\u202e, which"),
    "a long field": (put("config.json", "config", 100_000 * "x", value=1), r"the field x{300}…, which"),
    "many fields": (together(*(put("config.json", f"f{n}", value=1) for n in range(30))), "and 10 more, which"),
    "config is a list": (put("config.json", "config", value=[["dataset", "digits"]]), r"config is \[\[.* an object"),
    "model_config is a text": (put("config.json", "model_config", value="x"), "model_config is 'x' and must be an obj"),
    "images is a number": (put("config.json", "images", value=3), "images is 3 and must be an object or null"),
    "environment is a list": (put("config.json", "environment", value=["a"]), r"environment is \['a'\] and must be"),
    "a version of jax is a list": (put("config.json", "environment", "jax", value=[]), r"environment\.jax is \[\] and"),
    "data_sha256 is a number": (put("config.json", "data_sha256", value=5), "data_sha256 is 5 and must be a text"),
    "converted_from is an object": (put("config.json", "converted_from", value={}), r"converted_from is \{\} and must"),
    "resumed is null": (put("config.json", "resumed", value=None), "resumed is None and must be a list"),
    "resumed at a text": (
        put("config.json", "resumed", value=[{"step": "x", "changed": []}]),
        r"resumed\[0\]\.step is 'x' and must be an integer",
    ),
    "version is a number": (put("config.json", "version", value=1), "version is 1 and must be a text"),
    "class names are one text": (
        put("config.json", "images", "class_names", value="ab"),
        "class_names is 'ab'; it must",
    ),
    "class names are numbers": (put("config.json", "images", "class_names", value=[1, 2]), "class_names is .1, 2.; it"),
    "no class names": (put("config.json", "images", "class_names", value=[]), r"class_names is \(\); it must"),
    "an infinite height": (put("config.json", "images", "height", value=float("inf")), "height is inf; it must be"),
    "half a pixel": (put("config.json", "images", "height", value=1.5), "height is 1.5; it must be a positive integer"),
    "a deviation of zero": (
        put("config.json", "images", "std", value=[0.3, 0, 0.3]),
        "std is .*; it must be a tuple of pos",
    ),
    "a NaN deviation": (put("config.json", "images", "std", value=[0.3, float("nan"), 0.3]), "std is .*finite numbers"),
    "too few deviations": (put("config.json", "images", "std", value=[0.3]), "a tuple of 3 numbers, like mean"),
    "nested means": (
        put("config.json", "images", "mean", value=[[0.3]] * 3),
        "mean is .*; it must be a tuple of finite",
    ),
    "an image field of a newer version": (
        together(put("config.json", "images", "crop", value=1), of_newer_version),
        rf"has the field crop, which seanet_jax \S+ does not know; seanet_jax {NEWER} wrote it; install that version",
    ),
    "settings of a newer version": (
        together(
            put("config.json", "config", "recipe", value={}),
            put("config.json", "config", "ema", value=0.9),
            of_newer_version,
        ),
        rf"has the fields ema, recipe, which seanet_jax \S+ does not know; seanet_jax {NEWER} wrote it; install",
    ),
    "a part of a newer version": (
        together(put("config.json", "tokens", value=[]), of_newer_version),
        rf"the field tokens, which seanet_jax \S+ does not know; seanet_jax {NEWER} wrote it",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_refused_by_all_readers(name, folder):
    damage, message = CONFIGS[name]
    damage(folder)
    for read in (load, evaluate, resume):
        with refused(message):
            read(folder)


@pytest.mark.parametrize(
    "name", ["a named pipe", "a hostile field", "settings of a newer version", "a deviation of zero"]
)
def test_commands_refuse_it_in_one_line(name, folder, tmp_path, monkeypatch, capsys):
    CONFIGS[name][0](folder)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    for command in (
        ["evaluate", folder],
        ["predict", folder, tmp_path / "picture.png"],
        ["convert", folder, tmp_path / "weights"],
        ["export", folder, tmp_path / "network.stablehlo"],
        ["train", "--no-tune-cpu", "--dataset", "digits", "--model", "tiny", "--resume", "--out", folder],
    ):
        with no_waiting():
            status, out, error = run_here(command[0], command[1:], monkeypatch, capsys)
        assert (status, out) == (2, ""), command
        assert error.startswith("error: ") and error.endswith("\n") and error[:-1].isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "run"]


# A network that cannot be built or does not fit, which the records do without.
NETWORKS = {
    "a family of a plugin": (
        put("config.json", "model_config", "model_type", value="vit"),
        "model_type 'vit'; it must be",
    ),
    "a family that is no name": (
        put("config.json", "model_config", "model_type", value=[]),
        r"model_type \[\]; it must",
    ),
    "a field of a newer version": (
        together(put("config.json", "model_config", "depth", value=1), of_newer_version),
        rf"the field depth, which seanet_jax \S+ does not know; seanet_jax {NEWER} wrote it",
    ),
    "other classes": (put("config.json", "model_config", "num_classes", value=3), "2 classes, and its network 3 and 3"),
    "no classifier": (put("config.json", "model_config", "num_classes", value=0), "2 classes, and its network 3 and 0"),
    "other channels": (put("config.json", "model_config", "in_channels", value=1), "3 channels .* its network 1 and 2"),
    "a preset of a plugin": (put("config.json", "config", "model", value="vit"), "there is no model 'vit'"),
    "a data set of a plugin": (
        put("config.json", "config", "dataset", value="svhn"),
        "dataset is 'svhn'; it must be one",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_cannot_be_built_is_refused(name, folder):
    damage, message = NETWORKS[name]
    damage(folder)
    for read in (load, evaluate):
        with refused(message):
            read(folder)


def epochs(*numbers):
    def damage(folder):
        lines = records(folder, timing=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(lines[number - 1]) + "\n" for number in numbers))

    return damage


# All that a record must have, and one half of an evaluation.
FIELDS = ("epoch", "step", "learning_rate", "seconds", "images_per_second", "test_accuracy")
RECORDS = {
    **{
        kind: (instead("metrics.jsonl", make), why) for kind, (make, why) in NO_FILES.items() if kind != "nothing in it"
    },
    "nothing": (written("metrics.jsonl", ""), "has not finished an epoch"),
    "no file": (drop("metrics.jsonl"), "is missing; --resume writes it anew"),
    "UTF-16": (edited("metrics.jsonl", in_utf_16), "line [12] of .* is damaged"),
    "an empty line": (written("metrics.jsonl", "\n"), "line 1 of .* is damaged .Expecting value"),
    "another order": (epochs(2, 1, 3), "line 2 of .*its epoch or step is not after the one before"),
    "a record twice": (epochs(1, 2, 2), "line 3 of .*its epoch or step is not after the one before"),
    "a text": (
        put("metrics.jsonl", "test_accuracy", value="0.5"),
        "test_accuracy is '0.5' and must be a finite number or null",
    ),
    "an epoch that is NaN": (put("metrics.jsonl", "epoch", value=float("nan")), "epoch is None and must be a finite"),
    "a negative epoch": (put("metrics.jsonl", "epoch", value=-1), "line 1 .*its epoch or step is not after"),
    "a fractional step": (put("metrics.jsonl", "step", value=1.5), "step is 1.5 and must be an integer"),
    "a huge step": (put("metrics.jsonl", "step", value=10**400), "step is 10{299}… and must be an integer"),
    "a huge loss": (put("metrics.jsonl", "train_loss", value=10**400), "train_loss is 10{299}… and must be"),
    "a nested loss": (put("metrics.jsonl", "train_loss", value=[[1]]), r"train_loss is \[\[1\]\] and must be"),
    "a hostile loss": (put("metrics.jsonl", "train_loss", value=HOSTILE), r"train_loss is '\\x1b\[31m.* and must be"),
    "validation in one epoch": (put("metrics.jsonl", "val_loss", value=1), "line 2 .*its validation metrics are not"),
    "no times": (
        written("metrics.jsonl", '{"epoch": 1, "step": 5, "test_accuracy": 0.5}\n'),
        "has no images_per_second, learning_rate, seconds",
    ),
    "no test loss": (
        written("metrics.jsonl", json.dumps(dict.fromkeys(FIELDS, 1)) + "\n"),
        "it has only one of test_accuracy and test_loss",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_are_refused_where_they_are_read(name, folder):
    damage, message = RECORDS[name]
    damage(folder)
    with refused(message):
        evaluate(folder)


def test_a_run_with_damaged_records_resumes_and_writes_them_anew(folder):
    before = records(folder)
    epochs(2, 1, 3)(folder)
    resume(folder)
    assert records(folder)[:3] == before and len(records(folder)) == 4


# What changes nothing that is measured.
HARMLESS = {
    "a byte order mark": edited("metrics.jsonl", lambda content: b"\xef\xbb\xbf" + content),
    "lines of Windows": edited("metrics.jsonl", lambda content: content.replace(b"\n", b"\r\n")),
    "config.json in UTF-16": edited("config.json", in_utf_16),
    "a field of a newer version in a record": put("metrics.jsonl", HOSTILE, value=HOSTILE),
    "an infinite loss": put("metrics.jsonl", "train_loss", value=float("inf")),
    "no version": edited("config.json", lambda content: re.sub(rb'"version": "[^"]*",', b"", content, count=1)),
    **{f"summary.json is {kind}": instead("summary.json", make) for kind, (make, _) in NO_FILES.items()},
    "no summary": drop("summary.json"),
    "the summary of another run": put("summary.json", "last", "train_loss", value=1.5),
    "a summary of texts": put("summary.json", "training_seconds", value="long"),
    "a hostile summary": put("summary.json", "device", value=HOSTILE),
    "a place of the data that is no name": put("config.json", "config", "data_dir", value="\ud800"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_no_number_is_evaluated_as_before(name, folder, capsys):
    before = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    HARMLESS[name](folder)
    with no_waiting():
        found = evaluate(folder)
    assert found["top_1_accuracy"] == before["top_1_accuracy"] and found["recorded"] == before["recorded"]
    assert "\x1b" not in "".join(capsys.readouterr())
    without = "summary" in name and name != "a hostile summary"
    assert ("The run is not finished." in (folder / "report.html").read_text()) == without


# What lies where the run would be written. Resuming finds it before it trains; the network can still be loaded.
PLACES = {
    **{
        f"the lock is {kind}": (instead("lock", make), why)
        for kind, (make, why) in NO_FILES.items()
        if "in it" not in kind
    },
    "the lock is a link": (instead("lock", lambda path: path.symlink_to("config.json")), "lock is a link; remove it"),
    "the curves are a folder": (
        instead("curves.png", lambda path: path.mkdir()),
        "curves.png cannot be read .it is a fo",
    ),
    "the summary is a pipe": (instead("summary.json", os.mkfifo), "summary.json cannot be read .it is a named pipe"),
    "tensorboard is a file": (instead("tensorboard", lambda path: path.touch()), "tensorboard is no folder; remove it"),
}


@pytest.mark.parametrize("name", PLACES)
def test_resuming_finds_what_is_in_the_way_before_it_trains(name, folder):
    damage, message = PLACES[name]
    damage(folder)
    before = (folder / "config.json").read_bytes()
    with refused(message):
        resume(folder)
    assert (folder / "config.json").read_bytes() == before
    load(folder)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir()])
def test_a_lock_that_is_no_file_does_not_make_a_study_wait(make, tmp_path):
    make(tmp_path / "lock")
    with refused("lock cannot be read"):
        RunFolder(tmp_path).in_use()


@pytest.mark.parametrize("name", ["evaluation", "report.html"])
def test_an_evaluation_that_cannot_be_written_says_so(name, folder):
    instead(name, lambda path: path.touch() if name == "evaluation" else path.mkdir())(folder)
    with refused("the evaluation could not be written into"):
        evaluate(folder)


@pytest.fixture
def pretrained(folder, tmp_path):
    trained = load(folder)
    trained.model.save_pretrained(tmp_path / "weights", trained.images)
    return tmp_path / "weights"


def newer(weights):
    """Changes what the file of weights says of its version, and adds a field of that version."""
    path = weights / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "flax", "seanet_jax": NEWER})
    put("config.json", "depth", value=1)(weights)


WEIGHTS = {
    **{kind: (instead("config.json", make), why) for kind, (make, why) in NO_FILES.items()},
    **{
        f"weights: {kind}": (instead("model.safetensors", make), why if "in it" not in kind else "is damaged")
        for kind, (make, why) in NO_FILES.items()
        if kind != "too much in it"
    },
    "a field of a newer version": (
        newer,
        rf"the field depth, which seanet_jax \S+ does not know; seanet_jax {NEWER} wrote",
    ),
    "a hostile field": (put("config.json", HOSTILE, value=1), r"the field \\x1b\[31mred\\nerror: \\u202e, which"),
    "no family": (written("config.json", "{}"), "it has no model_type"),
    "a family of a plugin": (put("config.json", "model_type", value="vit"), "model_type 'vit'; it must be"),
    "images are a number": (put("config.json", "images", value=3), "images is 3 and must be an object or null"),
    "no height": (put("config.json", "images", value={"width": 8}), "images has no height, mean, std, class_names"),
    "a deviation of zero": (put("config.json", "images", "std", value=[0.3, 0, 0.3]), "std is .*; it must be"),
    "other classes": (put("config.json", "images", "class_names", value=["a"]), "1 classes, and its network 3 and 2"),
    "widths that are nested": (put("config.json", "widths", value=[[8], 16]), "widths is .*; it must be"),
    "a million stages": (
        put("config.json", "stage_sizes", value=[1] * 1_000_000),
        "widths has 1 entries and stage_siz",
    ),
    "the config.json of a run": (written("config.json", '{"config": {}, "model_config": {}}'), "it has no model_type"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights_are_refused(name, pretrained):
    damage, message = WEIGHTS[name]
    damage(pretrained)
    with refused(message):
        load(pretrained)


def test_a_folder_of_weights_is_no_run_to_resume(pretrained):
    before = (pretrained / "config.json").read_bytes()
    with refused("has the fields aggregate_factor, aggregate_norm, .*, which"):
        resume(pretrained)
    assert (pretrained / "config.json").read_bytes() == before


def test_the_predictions_of_what_stays_readable_are_those_of_the_run(folder):
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    before = load(folder).model(pixels)
    for name in ("metrics.jsonl", "summary.json", "lock", "curves.png", "tensorboard"):
        instead(name, os.mkfifo)(folder)
    np.testing.assert_array_equal(load(folder).model(pixels), before)
