"""A run's network on its test images: numbers, figures, the worst mistakes and a page, into the run's folder."""

import contextlib
import io
import json
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
from seanet_jax.models import weights
from seanet_jax.models.scores import Scores
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.curves import Quantity, curves_figure
from seanet_jax.training.images import load_dataset
from seanet_jax.training.run_folder import Record, RunFolder

_BINS = 15
_PAIRS = 20
_MISTAKES = 24
_CLASSES_PRINTED = _PAIRS_PRINTED = 5


def evaluate(folder: Path, *, which: str = "best", data_dir: Path | None = None, command: str = "") -> dict[str, Any]:
    """Measures a run's network on its test images; writes ``evaluation/`` and ``report.html`` into the folder.

    Args:
        folder: of a run, which may still go on.
        which: "best" or "latest" checkpoint.
        data_dir: see ``TrainConfig``.
        command: how this is to be run again.

    Returns:
        The contents of ``evaluation.json``: accuracies are fractions; ``loss_unit`` says what losses are.

    Raises:
        InputError: the folder is not that of a run, holds no such checkpoint or no finished epoch, or its images are
            not there.
        RunError: a file could not be written.
    """
    if weights.is_folder(folder):
        raise InputError(
            f"{folder} holds pretrained weights, which do not say what to test them on; name a run's folder"
        )
    run = RunFolder(folder)
    fields = run.read().config
    config = TrainConfig(**(fields | {"data_dir": data_dir, "out": None, "resume": False}))
    records = run.read_records()
    if not records:
        raise InputError(
            f"{folder} has not finished an epoch, so there is nothing to show of it; go on with it first, by --resume"
        )
    trained = load(folder, which)
    dataset = load_dataset(config)
    # A converted network was trained elsewhere, on images this project has not seen.
    if run.read().data_sha256 not in (None, dataset.sha256()):
        raise InputError(
            f"{folder} was trained on other images of the name {config.dataset}; "
            "give the folder that holds them with --data-dir"
        )
    names = trained.images.class_names
    classifier = Classifier(trained, min(config.eval_batch_size, len(dataset.test_images)))
    found = _measured(classifier, dataset, names)
    about = {
        "dataset": config.dataset,
        "model": config.model,
        "which": which,
        "step": trained.step,
        **_of_records(records, trained.step),
        **found,
        "device": sharding.describe_devices(),
        "versions": versions(),
        "command": command,
    }
    _write(run, about, records, config, dataset, classifier.kind)
    return about


def _of_records(records: Sequence[Record], step: int | None) -> dict[str, Any]:
    """What the run itself recorded of the checkpoint; a checkpoint from inside an epoch has no record."""
    record = next((record for record in records if record["step"] == step), None)
    if record is None:
        return {"epoch": None, "recorded": None}
    return {"epoch": record["epoch"], "recorded": {name: record[name] for name in ("test_accuracy", "test_loss")}}


def _measured(classifier: Classifier, dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    scores, labels = classifier(dataset.test_images), dataset.test_labels
    probabilities = classifier.probabilities(scores)
    losses = np.asarray(classifier.kind.loss(jnp.asarray(scores), jnp.asarray(labels)), np.float64)
    confusion = metrics.confusion_matrix(scores, labels)
    found = metrics.reliability(probabilities, labels, _BINS)
    wrong = metrics.confidently_wrong(probabilities, labels, _MISTAKES)
    answers = scores.argmax(1)
    per_class = zip(names, confusion.sum(1).tolist(), metrics.class_accuracies(confusion).tolist(), strict=True)
    bins = zip(found.images.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    return {
        "images": len(labels),
        "top_1_accuracy": metrics.top_k_accuracy(scores, labels, 1),
        # Of five classes or fewer it says nothing.
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
            {"class": names[pair.label], "answer": names[pair.answer], "images": pair.images}
            for pair in metrics.most_confused(confusion, _PAIRS)
        ],
        "mistakes": [
            {
                "image": index,
                "class": names[labels[index]],
                "answer": names[answers[index]],
                "confidence": float(probabilities[index].max()),
            }
            for index in wrong.tolist()
        ],
        "confusion": confusion.tolist(),
    }


def _number(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else value


def _write(
    run: RunFolder,
    about: dict[str, Any],
    records: list[Record],
    config: TrainConfig,
    dataset: Dataset,
    kind: Scores,
) -> None:
    """Everything is drawn before anything is written."""
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
    files["evaluation/evaluation.json"] = json.dumps(about, indent=2, allow_nan=False) + "\n"
    saved = config.to_json() | run.read().config
    quantities: tuple[Quantity, ...] = ("loss", "accuracy")
    for quantity in quantities:
        # One at a time: side by side they could not be read on a phone.
        figure = curves_figure(records, kind, dataset=config.dataset, epochs=config.epochs, quantities=(quantity,))
        drawn[quantity] = style.svg(figure)
    pictures = [_png(_picture(mistake, dataset)) for mistake in about["mistakes"]]
    files["report.html"] = html_report(about, records, saved, run.read_summary(), drawn, pictures)
    with _writing(run.path):
        (run.path / "evaluation").mkdir(exist_ok=True)
        # An earlier checkpoint's may be there, of a network that made mistakes.
        (run.path / "evaluation" / "mistakes.png").unlink(missing_ok=True)
        for name, content in files.items():
            write_whole(run.path / name, content)


def _cell(mistake: dict[str, Any], dataset: Dataset) -> Cell:
    lines = [
        Line(printable(mistake["answer"]), f"{mistake['confidence']:.1%}"),
        Line(f"is {printable(mistake['class'])}"),
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
    """The numbers as a short table.

    Args:
        about: as ``evaluate`` gives it.
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
        rows.append(("recorded by the run", words))
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
