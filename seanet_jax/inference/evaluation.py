"""Evaluates a run's network on its test images, and writes metrics, figures and a report into the run's folder."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from seanet_jax import style
from seanet_jax.data import Dataset
from seanet_jax.environment import versions
from seanet_jax.errors import InputError, RunError
from seanet_jax.files import printable, write_whole
from seanet_jax.inference import metrics
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet
from seanet_jax.inference.figures import confusion_figure, reliability_figure
from seanet_jax.inference.html_report import html_report
from seanet_jax.inference.trained import load
from seanet_jax.json_files import json_text
from seanet_jax.models import weights
from seanet_jax.models.scores import Scores
from seanet_jax.paths import UserPath, user_path
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.curves import Quantity, curves_figure
from seanet_jax.training.images import load_dataset
from seanet_jax.training.run_folder import Record, RunFolder

_BINS = 15
_PAIRS = 20
_MISTAKES = 24
_CLASSES_PRINTED = _PAIRS_PRINTED = 5


def evaluate(
    folder: UserPath, *, which: str = "best", data_dir: UserPath | None = None, command: str = ""
) -> dict[str, Any]:
    """Evaluates a run's network on its test images, and writes ``evaluation/`` and ``report.html`` into the folder.

    Args:
        folder: The run's folder. The run may still be training.
        which: Checkpoint to evaluate, "best" or "latest".
        data_dir: Folder that holds the dataset; see ``TrainConfig``.
        command: Command line to reproduce the evaluation, shown in the report.

    Returns:
        The contents of ``evaluation.json``. Accuracies are fractions; ``loss_unit`` names the unit of the losses.

    Raises:
        InputError: If the folder is not a run's, holds no such checkpoint or no finished epoch, or if its images are
            missing or differ from those it was trained on.
        RunError: If a file could not be written.
    """
    folder = user_path(folder)
    if weights.is_folder(folder):
        raise InputError(
            f"{folder} holds pretrained weights, which do not name a dataset to test them on; name a run's folder"
        )
    run = RunFolder(folder)
    fields = run.read().config
    config = TrainConfig(**(fields | {"data_dir": data_dir, "out": None, "resume": False}))
    records = run.read_records()
    if not records:
        raise InputError(
            f"{folder} has not finished an epoch, so there is nothing to evaluate; continue it first with --resume"
        )
    trained = load(folder, which)
    dataset = load_dataset(config)
    # A converted network was trained elsewhere, so its run has no checksum of the training images.
    if run.read().data_sha256 not in (None, dataset.sha256()):
        raise InputError(
            f"{folder} was trained on other images of the name {config.dataset}; "
            "name the folder that holds them with --data-dir"
        )
    names = trained.images.class_names
    classifier = Classifier(trained, min(config.eval_batch_size, len(dataset.test_images)))
    found = _measure(classifier, dataset, names)
    about = {
        "dataset": config.dataset,
        "model": config.model,
        "which": which,
        "step": trained.step,
        **_recorded(records, trained.step),
        **found,
        "device": sharding.describe_devices(),
        "versions": versions(),
        "command": command,
    }
    _write(run, about, records, config, dataset, classifier.kind)
    return about


def _recorded(records: Sequence[Record], step: int | None) -> dict[str, Any]:
    """Returns the metrics recorded in training for a step; None if it is not the end of an epoch."""
    record = next((record for record in records if record["step"] == step), None)
    if record is None:
        return {"epoch": None, "recorded": None}
    return {"epoch": record["epoch"], "recorded": {name: record[name] for name in ("test_accuracy", "test_loss")}}


def _measure(classifier: Classifier, dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Returns the metrics of a classifier on the test images, in the form of ``evaluation.json``."""
    scores, labels = classifier(dataset.test_images), dataset.test_labels
    probabilities = classifier.probabilities(scores)
    losses = np.asarray(classifier.kind.loss(jnp.asarray(scores), jnp.asarray(labels)), np.float64)
    confusion = metrics.confusion_matrix(scores, labels)
    found = metrics.reliability(probabilities, labels, _BINS)
    wrong = metrics.most_confident_mistakes(probabilities, labels, _MISTAKES)
    predictions = scores.argmax(1)
    per_class = zip(names, confusion.sum(1).tolist(), metrics.class_accuracies(confusion).tolist(), strict=True)
    bins = zip(found.images.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    return {
        "images": len(labels),
        "top_1_accuracy": metrics.top_k_accuracy(scores, labels, 1),
        # Among five classes or fewer, every label is in the top five.
        "top_5_accuracy": metrics.top_k_accuracy(scores, labels, 5) if len(names) > 5 else None,
        "loss": float(losses.mean()),
        "loss_unit": classifier.kind.loss_unit,
        "expected_calibration_error": metrics.expected_calibration_error(found),
        "calibration": [
            {"above": m / _BINS, "images": count, "confidence": _number(mean), "accuracy": _number(accuracy)}
            for m, (count, mean, accuracy) in enumerate(bins)
        ],
        "classes": [
            {"name": name, "images": count, "accuracy": _number(accuracy)} for name, count, accuracy in per_class
        ],
        "most_confused": [
            {"class": names[pair.label], "answer": names[pair.prediction], "images": pair.images}
            for pair in metrics.most_confused(confusion, _PAIRS)
        ],
        "mistakes": [
            {
                "image": index,
                "class": names[labels[index]],
                "answer": names[predictions[index]],
                "confidence": float(probabilities[index].max()),
            }
            for index in wrong.tolist()
        ],
        "confusion": confusion.tolist(),
    }


def _number(value: float) -> float | None:
    """Replaces NaN by None, because JSON has no NaN."""
    return None if math.isnan(value) else value


def _write(
    run: RunFolder,
    about: dict[str, Any],
    records: list[Record],
    config: TrainConfig,
    dataset: Dataset,
    kind: Scores,
) -> None:
    """Draws the figures and writes all files. Nothing is written until everything is drawn."""
    columns = ("images", "confidence", "accuracy")
    found = metrics.Reliability(
        *(np.array([row[name] for row in about["calibration"]], np.float64) for name in columns)
    )
    names = [row["name"] for row in about["classes"]]
    figures = {
        "confusion": confusion_figure(np.array(about["confusion"]), names),
        "reliability": reliability_figure(found, about["expected_calibration_error"]),
    }
    drawn = {name: style.svg(figure) for name, figure in figures.items()}
    files: dict[str, str | bytes] = {f"evaluation/{name}.svg": content for name, content in drawn.items()}
    files |= {f"evaluation/{name}.png": style.png(figure) for name, figure in figures.items()}
    if about["mistakes"]:
        files["evaluation/mistakes.png"] = contact_sheet([_cell(mistake, dataset) for mistake in about["mistakes"]])
    files["evaluation/evaluation.json"] = json_text(about)
    saved = config.to_json() | run.read().config
    quantities: tuple[Quantity, ...] = ("loss", "accuracy")
    for quantity in quantities:
        # One figure per quantity, because two panels side by side are too small to read on a phone.
        figure = curves_figure(records, kind, dataset=config.dataset, epochs=config.epochs, quantities=(quantity,))
        drawn[quantity] = style.svg(figure)
    pictures = [_png(_picture(mistake, dataset)) for mistake in about["mistakes"]]
    files["report.html"] = html_report(about, records, saved, run.read_summary(), drawn, pictures)
    with _writing(run.path):
        (run.path / "evaluation").mkdir(exist_ok=True)
        # An earlier evaluation may have left one, and a network without mistakes writes none.
        (run.path / "evaluation" / "mistakes.png").unlink(missing_ok=True)
        for name, content in files.items():
            write_whole(run.path / name, content)


def _cell(mistake: dict[str, Any], dataset: Dataset) -> Cell:
    lines = [
        Line(printable(mistake["answer"]), f"{mistake['confidence']:.1%}"),
        Line(f"true: {printable(mistake['class'])}"),
    ]
    return Cell(_picture(mistake, dataset), lines)


def _picture(mistake: dict[str, Any], dataset: Dataset) -> Image.Image:
    pixels = dataset.test_images[mistake["image"]]
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the evaluation could not be written into {folder} ({error.strerror}); the run itself is as it was"
        ) from error


def text(about: dict[str, Any]) -> str:
    """Formats the main numbers of an evaluation as a short table.

    Args:
        about: Contents of ``evaluation.json``, as ``evaluate`` returns them.
    """
    epoch = "" if about["epoch"] is None else f"epoch {about['epoch']:.4g}, "
    rows = [("top-1 accuracy", f"{about['top_1_accuracy']:.2%}")]
    if about["top_5_accuracy"] is not None:
        rows.append(("top-5 accuracy", f"{about['top_5_accuracy']:.2%}"))
    rows += [
        ("loss", f"{about['loss']:.4f} {about['loss_unit']}"),
        ("expected calibration error", f"{about['expected_calibration_error']:.2%} ({_BINS} bins)"),
    ]
    if recorded := about["recorded"]:
        words = f"{recorded['test_accuracy']:.2%}, {recorded['test_loss']:.4f} {about['loss_unit']}"
        rows.append(("recorded in training", words))
    ranked = sorted((row for row in about["classes"] if row["images"]), key=lambda row: -row["accuracy"])
    shown = min(_CLASSES_PRINTED, len(ranked) // 2)
    for name, some in (("best classes", ranked[:shown]), ("worst classes", ranked[::-1][:shown])):
        rows.append((name, ", ".join(f"{printable(row['name'])} {row['accuracy']:.0%}" for row in some)))
    pairs = [
        f"{printable(pair['class'])} as {printable(pair['answer'])} ({pair['images']})"
        for pair in about["most_confused"][:_PAIRS_PRINTED]
    ]
    rows.append(("most confused", ", ".join(pairs) or "none"))
    head = f"{about['model']} on {about['dataset']}, {about['which']} checkpoint ({epoch}step {about['step']})"
    return "\n".join([f"{head}, {about['images']:,} test images", *(f"  {name:<28}{words}" for name, words in rows)])
