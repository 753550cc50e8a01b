"""An evaluation agrees with the run's records, does not depend on the batch size, and writes its files."""

import dataclasses
import hashlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from training_fixtures import NAMES, made_dataset, made_record, records, small

from seanet_jax.errors import InputError, RunError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.conversion import write_run
from seanet_jax.inference.evaluation import evaluate, text
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
    """A copy of the evaluated run, with the small dataset in place of the downloaded one."""
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


@pytest.mark.slow
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
    recalls = [row["accuracy"] for row in about["classes"]]
    assert about["mean_class_accuracy"] == pytest.approx(sum(recalls) / 2, rel=1e-15) != about["top_1_accuracy"]
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


def test_the_file_of_numbers_names_the_files_of_its_own_evaluation(evaluated):
    found = {path.relative_to(evaluated).as_posix() for path in (evaluated / "evaluation").iterdir()}
    expected = found - {"evaluation/evaluation.json"} | {"report.html"}
    named = read(evaluated)["sha256"]
    assert named == {name: hashlib.sha256((evaluated / name).read_bytes()).hexdigest() for name in expected}


class Constant(Classifier):
    """A classifier that returns the same logits for any images."""

    def __init__(self, logits):
        self.logits, self.kind = logits, LOGITS

    def __call__(self, images, advance=None):
        return self.logits


@pytest.mark.slow
def test_a_network_without_mistakes_leaves_no_picture_of_some(copy, monkeypatch):
    correct = np.eye(2, dtype=np.float32)[DATASET.test_labels] * 9
    monkeypatch.setattr("seanet_jax.inference.evaluation.Classifier", lambda *_: Constant(correct))
    about = evaluate(copy)
    assert about["top_1_accuracy"] == 1 and about["mistakes"] == about["most_confused"] == []
    assert not (copy / "evaluation" / "mistakes.png").exists()
    assert re.search(r"^  most confused +none$", text(about), re.MULTILINE)


def test_images_of_one_class_have_no_best_and_worst_classes(copy):
    about = evaluate(copy)
    about["classes"][1]["images"] = 0
    printed = text(about)
    assert "best classes" not in printed and "worst classes" not in printed and "most confused" in printed


def test_a_class_without_test_images_has_no_accuracy(copy, monkeypatch):
    monkeypatch.setattr(
        "seanet_jax.inference.evaluation.Classifier", lambda *_: Constant(np.zeros((23, 3), np.float32))
    )
    spec = dataclasses.replace(DATASET.image_spec, class_names=(*NAMES, "unseen"))
    trained = dataclasses.replace(load(copy), images=spec)
    monkeypatch.setattr("seanet_jax.inference.evaluation.load", lambda *_: trained)
    about = evaluate(copy)
    assert about["classes"][2] == {"name": "unseen", "images": 0, "accuracy": None, "superclass": None}
    # All images are taken for dark ones. The mean is over the two classes that have images.
    assert about["mean_class_accuracy"] == 0.5
    assert "50.00% (classes of 10 to 13 images; 1 class without test images left out)" in text(about)
    assert read(copy)["classes"][2]["accuracy"] is None


@pytest.mark.slow
def test_classes_in_superclasses_have_an_accuracy_and_a_matrix_of_superclasses(copy, monkeypatch):
    scores = np.zeros((23, 3), np.float32)
    scores[:, 1] = 1  # of the superclass of class 0
    monkeypatch.setattr("seanet_jax.inference.evaluation.Classifier", lambda *_: Constant(scores))
    spec = dataclasses.replace(DATASET.image_spec, class_names=(*NAMES, "unseen"))
    trained = dataclasses.replace(load(copy), images=spec)
    monkeypatch.setattr("seanet_jax.inference.evaluation.load", lambda *_: trained)
    matrices = [copy / "evaluation" / f"superclass_confusion.{suffix}" for suffix in ("png", "svg")]
    # The run itself does not know of superclasses, as those of earlier versions do not.
    with small(dataclasses.replace(DATASET, image_spec=spec, superclasses=("shades", "shades", "other"))):
        about = evaluate(copy)
    assert about["top_1_accuracy"] < about["superclass_accuracy"] == 1
    assert [row["superclass"] for row in about["classes"]] == ["shades", "shades", "other"]
    assert about["superclasses"] == [
        {"name": "other", "images": 0, "accuracy": None},
        {"name": "shades", "images": 23, "accuracy": 1.0},
    ]
    assert re.search(r"^  superclass accuracy +100\.00% \(2 superclasses\)$", text(about), re.MULTILINE)
    assert "Superclass accuracy" in (copy / "report.html").read_text()
    assert all(path.exists() and f"evaluation/{path.name}" in about["sha256"] for path in matrices)
    with small(dataclasses.replace(DATASET, image_spec=spec)):
        about = evaluate(copy)
    assert about["superclasses"] is about["superclass_accuracy"] is None and "superclass" not in text(about)
    assert not any(path.exists() for path in matrices)


@pytest.mark.slow
def test_the_moving_average_gives_the_metrics_that_training_recorded_of_it(tiny, in_peace, tmp_path):
    copy = shutil.copytree(in_peace(ema_decay=0.9).out, tmp_path / "run")
    with small(made_dataset()):
        about = evaluate(copy, which="ema")
    last = records(copy)[-1]
    assert about["network"] == "moving average (epoch 3, step 15)" and about["which"] == "ema"
    assert about["recorded"] == {name: last[f"ema_{name}"] for name in ("test_accuracy", "test_loss")}
    assert about["top_1_accuracy"] == last["ema_test_accuracy"]
    assert about["mean_class_accuracy"] == pytest.approx(last["ema_test_mean_class_accuracy"], rel=1e-6)
    assert about["loss"] == pytest.approx(last["ema_test_loss"], rel=1e-5) != last["test_loss"]
    report = (copy / "report.html").read_text()
    assert "EMA test accuracy" in report and f"<td>{last['ema_test_accuracy']:.2%}</td>" in report
    assert "was selected on these test images" not in report


@pytest.mark.slow
def test_test_time_augmentation_is_reported_apart(evaluated, copy):
    plain, about = read(evaluated), evaluate(copy, mirror_tta=True)
    assert plain["mirror_tta"] is None
    assert about == plain | {"mirror_tta": about["mirror_tta"], "command": "", "sha256": about["sha256"]}
    trained = load(copy)
    images, labels = trained.images.normalize(jnp.asarray(DATASET.test_images)), DATASET.test_labels
    ours = sum(np.asarray(jax.nn.softmax(trained.model(seen))) for seen in (images, jnp.flip(images, 2))) / 2
    right = ours.argmax(1) == labels
    found = about["mirror_tta"]
    assert found["top_1_accuracy"] == right.mean()
    assert found["mean_class_accuracy"] == pytest.approx(np.mean([right[labels == n].mean() for n in (0, 1)]))
    assert found["loss"] == pytest.approx(-np.log(ours[range(23), labels]).mean(), rel=1e-5) != plain["loss"]
    assert found["top_5_accuracy"] is None
    words = re.search(r"^  with mirror images +(.*)$", text(about), re.MULTILINE)[1]
    assert words.startswith(f"top-1 accuracy {right.mean():.2%}, mean per-class accuracy ")
    assert f"loss {found['loss']:.4f} nats, expected calibration error " in words
    assert f"{plain['loss']:.4f} nats</td><td>{found['loss']:.4f} nats</td>" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("flip", "fields", "words"),
    [
        (False, {}, "--mirror-tta: mirroring does not keep the classes of digits; leave it out"),
        (True, {"mirror": False}, "--mirror-tta: the network was trained with --no-mirror; leave it out"),
    ],
)
def test_mirroring_that_does_not_keep_the_classes_is_refused(copy, flip, fields, words):
    change_config(copy, **fields)
    before = (copy / "report.html").read_bytes()
    with small(dataclasses.replace(DATASET, flip=flip)), pytest.raises(InputError, match=words):
        evaluate(copy, mirror_tta=True)
    assert (copy / "report.html").read_bytes() == before


# Networks that were not trained here.


def test_pretrained_weights_give_the_numbers_of_their_run(evaluated, copy, tmp_path):
    trained = load(copy)
    trained.model.save_pretrained(tmp_path / "weights", trained.images)
    about = evaluate(tmp_path / "weights", dataset="digits", command="seanet evaluate weights --dataset digits")
    expected = read(evaluated)
    assert measured(about) == measured(expected) and about["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert (about["model"], about["which"], about["step"], about["recorded"]) == ("tiny", None, None, None)
    assert text(about).startswith("tiny on digits, pretrained weights, 23 test images\n")
    assert "pretrained weights" in (tmp_path / "weights" / "report.html").read_text()
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        *("config.json", "model.safetensors", "evaluation", "report.html")
    }
    assert load(tmp_path / "weights").step is None  # still a folder of weights


@pytest.mark.slow
def test_a_converted_run_is_evaluated_before_and_after_it_is_trained(evaluated, copy, tiny):
    config = tiny("converted", epochs=2)
    trained = load(copy)
    # The run's epochs are of 5 steps, while digits has enough images for 179.
    write_run(config.out, config, trained.model, trained.images, epoch=1, converted_from="best_model.pth")
    with small(DATASET):
        about = evaluate(config.out)
        assert measured(about) == measured(read(evaluated))
        assert about["network"] == "converted from best_model.pth, not trained here (step 179)"
        assert text(about).startswith(f"tiny on digits, {about['network']}, 23 test images\n")
        report = (config.out / "report.html").read_text()
        assert about["network"] in report and "Metrics per epoch" not in report

        saved = json.loads((config.out / "config.json").read_text())
        assert saved["converted_from"] == "best_model.pth"
        (config.out / "config.json").write_text(json.dumps({k: v for k, v in saved.items() if k != "converted_from"}))
        # An earlier version wrote it.
        assert evaluate(config.out)["network"] == "converted, not trained here (step 179)"
        (config.out / "config.json").write_text(json.dumps(saved))

        record = made_record(2, step=184)
        RunFolder(config.out).open(
            config, trained.model.config, trained.images, DATASET.sha256(), None, step=179, history=[record]
        )
        # The run was resumed, and its best network is still the converted one.
        assert evaluate(config.out)["network"] == "converted from best_model.pth, not trained here (step 179)"
        resumed = json.loads((config.out / "config.json").read_text())
        (config.out / "config.json").write_text(json.dumps(resumed | {"resumed": [{"step": 100, "changed": []}]}))
        about = evaluate(config.out)
        assert about["network"] == "best checkpoint (step 179), converted from best_model.pth and trained further"


# What is refused.


def test_weights_for_other_images_or_classes_than_the_datasets_are_refused(copy, tmp_path):
    trained = load(copy)
    for change, message in (
        (
            {"class_names": ("bright", "dark")},
            "is for images of 8x8x3 in 2 classes, and digits has images of other cla",
        ),
        (
            {"height": 9},
            "is for images of 9x8x3 in 2 classes, and digits has images of 8x8x3 in 2 classes; name the da",
        ),
    ):
        trained.model.save_pretrained(tmp_path / "weights", dataclasses.replace(trained.images, **change))
        with pytest.raises(InputError, match=message):
            evaluate(tmp_path / "weights", dataset="digits")
    with pytest.raises(InputError, match="dataset is 'cifar'; it must be one of cifar10, "):
        evaluate(tmp_path / "weights", dataset="cifar")
    with pytest.raises(InputError, match=r"--dataset: .* is a run on digits, not cifar10; leave --dataset out"):
        evaluate(copy, dataset="cifar10")
    assert not (tmp_path / "weights" / "evaluation").exists()


def test_other_images_of_the_same_name_are_refused(copy):
    shutil.rmtree(copy / "evaluation")
    with small(dataclasses.replace(DATASET, test_images=255 - DATASET.test_images)):  # noqa: SIM117
        with pytest.raises(InputError, match="was trained on other images of the name digits, or they have cha"):
            evaluate(copy)
    assert not (copy / "evaluation").exists()


def test_pretrained_weights_and_damaged_records_are_refused(copy, tmp_path):
    trained = load(copy)
    trained.model.save_pretrained(tmp_path / "weights", trained.images)
    with pytest.raises(InputError, match=r"holds pretrained weights, .* name it with --dataset, one of cifar10, "):
        evaluate(tmp_path / "weights")
    (copy / "metrics.jsonl").write_text('{"epoch": 1\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged \(Expecting .*\); --resume writes it anew"):
        RunFolder(copy).read_records()
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        evaluate(copy)
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing; --resume writes it anew"):
        RunFolder(copy).read_records()


def test_a_run_that_was_stopped_in_its_first_epoch_is_refused(copy):
    shutil.rmtree(copy / "evaluation")
    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="has not finished an epoch, so there is nothing to evaluate; continue it"):
        evaluate(copy, which="latest")
    assert not (copy / "evaluation").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(copy):
    shutil.rmtree(copy / "evaluation")
    (copy / "evaluation").touch()
    with pytest.raises(RunError, match=r"the evaluation could not be written into .*run \(File exists\)"):
        evaluate(copy)


@pytest.mark.slow
def test_an_evaluation_has_a_bar_on_a_terminal_alone(copy, monkeypatch, capsys):
    evaluate(copy)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("seanet_jax.data.progress.shows_bar", lambda progress: True)
    evaluate(copy, mirror_tta=True)
    assert (
        "evaluating: 100%" in (shown := capsys.readouterr().err) and "46/46" in shown
    )  # 23 images and as many mirrored
