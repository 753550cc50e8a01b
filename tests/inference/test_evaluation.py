"""What an evaluation says of a run: beside the run's own records, whatever the batches, and in its files."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from training_fixtures import NAMES, made_dataset, records, small

from seanet_jax.commands import evaluate as command
from seanet_jax.errors import InputError, RunError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.evaluation import evaluate, text
from seanet_jax.inference.figures import confusion_figure, reliability_figure
from seanet_jax.inference.metrics import Reliability
from seanet_jax.inference.trained import load
from seanet_jax.models.scores import LOGITS
from seanet_jax.training.run_folder import RunFolder

DATASET = made_dataset(class_names=NAMES)


def read(folder):
    return json.loads((folder / "evaluation" / "evaluation.json").read_text(), parse_constant=pytest.fail)


def change_config(folder, **fields):
    about = json.loads((folder / "config.json").read_text())
    about["config"] |= fields
    (folder / "config.json").write_text(json.dumps(about))


def record_of(about, folder):
    (found,) = [record for record in records(folder) if record["step"] == about["step"]]
    return found


def measured(about):
    names = ("images", "top_1_accuracy", "confusion", "classes", "most_confused")
    return {name: about[name] for name in names} | {"mistakes": [one["image"] for one in about["mistakes"]]}


@pytest.fixture
def copy(evaluated, tmp_path):
    """Of the run, where its images are the small ones."""
    with small(DATASET):
        yield shutil.copytree(evaluated, tmp_path / "run")


def test_it_agrees_with_the_records(evaluated, copy):
    best, latest = read(evaluated), evaluate(copy, which="latest")
    for about in (best, latest):
        record = record_of(about, evaluated)
        assert about["top_1_accuracy"] == record["test_accuracy"]
        assert about["loss"] == pytest.approx(record["test_loss"], rel=1e-5)
        assert about["epoch"] == record["epoch"]
        assert about["recorded"] == {name: record[name] for name in ("test_accuracy", "test_loss")}
    assert (best["which"], best["step"]) == ("best", load(evaluated).step)
    assert (latest["which"], latest["step"]) == ("latest", 15) and latest["step"] != best["step"]
    assert read(copy) == latest


def test_each_image_counts_once_whatever_the_batches(evaluated, copy):
    expected = read(evaluated)  # batches of 10, 23 images
    for size in (1, 23):
        change_config(copy, eval_batch_size=size)
        about = evaluate(copy)
        assert measured(about) == measured(expected)
        assert about["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert [row["images"] for row in expected["classes"]] == np.bincount(DATASET.test_labels).tolist()
    assert np.sum(expected["confusion"]) == sum(row["images"] for row in expected["calibration"]) == 23


def test_the_numbers_agree_with_each_other(evaluated):
    about = read(evaluated)
    confusion = np.array(about["confusion"])
    assert about["top_1_accuracy"] == np.trace(confusion) / 23
    assert about["top_5_accuracy"] is None  # two classes
    assert [row["accuracy"] for row in about["classes"]] == (np.diag(confusion) / confusion.sum(1)).tolist()
    assert 0 < len(about["mistakes"]) == 23 - np.trace(confusion)  # else these tests would see no mistake
    for mistake in about["mistakes"]:
        assert mistake["class"] == NAMES[DATASET.test_labels[mistake["image"]]] != mistake["answer"]
        assert 0.5 <= mistake["confidence"] <= 1
    gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in about["calibration"] if row["images"]]
    assert about["expected_calibration_error"] == pytest.approx(sum(gaps) / 23)


def test_its_files_are_there(evaluated):
    folder = evaluated / "evaluation"
    figures = {f"{name}.{suffix}" for name in ("confusion", "reliability") for suffix in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == {"evaluation.json", "mistakes.png", *figures}
    for name in ("confusion", "reliability", "mistakes"):
        assert min(imread(folder / f"{name}.png").shape[:2]) > 150


class Answering(Classifier):
    """Gives the same logits, whatever it is asked."""

    def __init__(self, logits):
        self.logits, self.kind = logits, LOGITS

    def __call__(self, images):
        return self.logits


def test_a_network_without_mistakes_leaves_no_picture_of_some(copy, monkeypatch):
    right = np.eye(2, dtype=np.float32)[DATASET.test_labels] * 9
    monkeypatch.setattr("seanet_jax.inference.evaluation.Classifier", lambda *_: Answering(right))
    about = evaluate(copy)
    assert about["top_1_accuracy"] == 1 and about["mistakes"] == about["most_confused"] == []
    assert not (copy / "evaluation" / "mistakes.png").exists()
    assert re.search(r"^  most confused +none$", text(about), re.MULTILINE)


def test_a_class_without_test_images_has_no_accuracy(copy, monkeypatch):
    monkeypatch.setattr(
        "seanet_jax.inference.evaluation.Classifier", lambda *_: Answering(np.zeros((23, 3), np.float32))
    )
    spec = dataclasses.replace(DATASET.image_spec, class_names=(*NAMES, "unseen"))
    trained = dataclasses.replace(load(copy), images=spec)
    monkeypatch.setattr("seanet_jax.inference.evaluation.load", lambda *_: trained)
    assert evaluate(copy)["classes"][2] == {"name": "unseen", "images": 0, "accuracy": None}
    assert read(copy)["classes"][2]["accuracy"] is None


# The command.


def test_the_command_prints_a_short_table(copy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(copy), "--which", "latest"])
    command.run()
    about, lines = read(copy), capsys.readouterr().out.splitlines()
    assert about["command"] == f"seanet evaluate {copy} --which latest"
    assert lines[0] == "tiny on digits, latest checkpoint (epoch 3, step 15), 23 test images"
    assert re.fullmatch(r"  top-1 accuracy +\d+\.\d\d%", lines[1])
    assert re.fullmatch(r"  loss +\d\.\d{4} nats", lines[2])
    assert re.fullmatch(r"  expected calibration error +\d+\.\d\d% \(15 bins\)", lines[3])
    assert lines[4].split()[-3:] == [lines[1].split()[-1] + ",", lines[2].split()[-2], "nats"]  # recorded by the run
    assert [line[:15].strip() for line in lines[5:]] == ["best classes", "worst classes", "most confused"]
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing holds no run: there is no config.json in it"),
        (("nothing", "--which", "first"), "invalid choice: 'first'"),
        ((), "the following arguments are required: folder"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(tmp_path, arguments, words):
    words_of = [sys.executable, "-W", "error", "-m", "seanet_jax", "evaluate", *arguments]
    done = subprocess.run(words_of, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert not list(tmp_path.iterdir())


def test_other_images_of_the_same_name_are_refused(copy):
    shutil.rmtree(copy / "evaluation")
    with small(dataclasses.replace(DATASET, test_images=255 - DATASET.test_images)):  # noqa: SIM117
        with pytest.raises(InputError, match="was trained on other images of the name digits; give the folder"):
            evaluate(copy)
    assert not (copy / "evaluation").exists()


def test_pretrained_weights_and_damaged_records_are_refused(copy, tmp_path):
    trained = load(copy)
    trained.model.save_pretrained(tmp_path / "weights", trained.images)
    with pytest.raises(InputError, match=r"holds pretrained weights, .* name a run's folder"):
        evaluate(tmp_path / "weights")
    (copy / "metrics.jsonl").write_text('{"epoch": 1')
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing or damaged; --resume writes it anew"):
        RunFolder(copy).read_records()
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing or damaged"):
        evaluate(copy)


def test_a_run_that_was_stopped_in_its_first_epoch_is_refused(copy):
    shutil.rmtree(copy / "evaluation")
    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="has not finished an epoch, so there is nothing to show of it; go on with"):
        evaluate(copy, which="latest")
    assert not (copy / "evaluation").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(copy):
    shutil.rmtree(copy / "evaluation")
    (copy / "evaluation").touch()
    with pytest.raises(RunError, match=r"the evaluation could not be written into .*run \(File exists\)"):
        evaluate(copy)


# Its figures.


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_classes_are_named_where_there_is_room():
    names = ["$x$", "$\\nothing", *map(str, range(18))]
    for classes, named, numbered in ((2, True, True), (11, True, False), (20, True, False), (100, False, False)):
        made = confusion_figure(np.full((classes, classes), 2), (names * 5)[:classes])
        made.draw_without_rendering()
        axes = made.axes[0]
        assert labels(axes.xaxis) == labels(axes.yaxis) == (names[:classes] if named else [])
        assert len(axes.texts) == (classes**2 if numbered else 0)


def test_the_matrix_shows_shares_of_each_class():
    made = confusion_figure(np.array([[3, 1, 0], [0, 8, 0], [0, 0, 0]]), ("a", "b", "unseen"))
    (picture,) = made.axes[0].images
    assert picture.get_array().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert [one.get_text() for one in made.axes[0].texts] == ["3", "1", "8"]


def test_the_reliability_diagram_shows_every_bin():
    found = Reliability(np.array([0, 6, 2]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 1 / 3, 1.0]))
    above, below = reliability_figure(found, 0.15).axes
    assert [bar.get_height() for bar in above.patches] == [0, 1 / 3, 1]
    assert [bar.get_height() for bar in below.patches] == [0, 0.75, 0.25]
    (points,) = [line for line in above.lines if line.get_label() == "mean confidence"]
    assert points.get_xydata().tolist() == [[0.5, 1 / 3], [0.9, 1.0]]
    assert above.get_title(loc="left") == "expected calibration error 15.00%"
