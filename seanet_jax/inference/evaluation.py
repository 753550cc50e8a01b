"""Evaluates a network on test images, and writes metrics, figures and a report into the network's folder."""

import contextlib
import dataclasses
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from seanet_jax import jax_settings, style
from seanet_jax.data import DATASETS, Dataset, find_source
from seanet_jax.data.arrays import NAME as ARRAYS
from seanet_jax.data.progress import bar_on_terminal
from seanet_jax.durable import make_folders, write_together
from seanet_jax.environment import versions
from seanet_jax.errors import InputError, RunError
from seanet_jax.inference import metrics
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet
from seanet_jax.inference.figures import confusion_figure, reliability_figure
from seanet_jax.inference.html_report import html_report
from seanet_jax.inference.table_rows import best_and_worst, describe_sizes, summary_rows
from seanet_jax.inference.trained import Trained, load
from seanet_jax.json_files import json_text
from seanet_jax.models import PRESETS, NetworkConfig, weights
from seanet_jax.models.bundled import bundled_name, find_folder, trained_on
from seanet_jax.models.scores import Scores
from seanet_jax.paths import UserPath, user_path
from seanet_jax.printable import printable, shortened
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.curves import Quantity, curves_figure
from seanet_jax.training.images import load_dataset
from seanet_jax.training.records import Record
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.saved_run import SavedConfig

_BINS = 15
_PAIRS = 20
_MISTAKES = 24
_CLASSES_PRINTED = _PAIRS_PRINTED = 5
# Files that not every evaluation writes.
_OPTIONAL = (
    "evaluation/mistakes.png",
    "evaluation/superclass_confusion.png",
    "evaluation/superclass_confusion.svg",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is evaluated.

    Attributes:
        trained: The network.
        dataset: The images, with those for training.
        about: First entries of ``evaluation.json``: names, and where the network comes from.
        config: Configuration that names the data set. Of a run, it is the run's.
        records: Records of the run's epochs; none if the network was not trained here.
        settings: Configuration that the report shows.
        summary: Contents of the run's ``summary.json``; None if there is none.
    """

    trained: Trained
    dataset: Dataset
    about: dict[str, Any]
    config: TrainConfig
    records: list[Record]
    settings: dict[str, Any]
    summary: dict[str, Any] | None


@jax_settings.fixed()
def evaluate(
    folder: UserPath,
    *,
    which: str = "best",
    dataset: str | Dataset | None = None,
    data_dir: UserPath | None = None,
    test_fraction: float | None = None,
    skip_broken: bool = False,
    mirror_tta: bool = False,
    out: UserPath | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Evaluates a network on test images, and writes ``evaluation/`` and ``report.html``.

    Args:
        folder: The folder of a run or of pretrained weights, or the name of a network that comes with the package. The
            run may still be training.
        which: Network of a run to evaluate: that of the "best" epoch, of the "latest" checkpoint, or "ema", the moving
            average of the latest checkpoint. It has no effect on pretrained weights.
        dataset: Name of the dataset, for pretrained weights. A run is evaluated on its own, and so is a network that
            comes with the package by default. For a run on arrays, it is
            the ``Dataset`` that was given to ``fit``.
        data_dir: Folder that holds the dataset; see ``TrainConfig``. None takes the folder that a run was trained from,
            if it is here.
        test_fraction: For pretrained weights, the fraction of a folder's images that are test images; see
            ``TrainConfig``. If the network was trained with another fraction, it has seen some of the test images.
        skip_broken: For pretrained weights, whether files that are no images are left out; see ``TrainConfig``.
        mirror_tta: Whether to measure test-time augmentation too: the average of the predictions for each image and its
            mirror image. Its metrics are the entry ``mirror_tta`` of the result, beside those of the images alone.
        out: Folder to write into. None is the network's own folder, or ``runs/NAME`` for a network that comes with the
            package.
        command: Command line to reproduce the evaluation, shown in the report.

    Returns:
        The contents of ``evaluation.json``. Accuracies are fractions; ``loss_unit`` names the unit of the losses.

    Raises:
        InputError: If the folder holds neither, or no such checkpoint; if a run has trained for less than an epoch; if
            the images are missing, or are not those of the network; if ``test_fraction`` or ``skip_broken`` is given
            for a run, which has its own, or for a data set that takes none; or if ``mirror_tta`` is given and mirroring
            does not keep the classes.
        RunError: If a file could not be written.
    """
    target, folder = target_folder(folder, out), find_folder(folder)
    if name := bundled_name(folder):
        dataset = dataset or trained_on(name)
    if weights.is_folder(folder):
        subject = _weights(folder, dataset, data_dir, test_fraction=test_fraction, skip_broken=skip_broken)
    elif test_fraction is not None or skip_broken:
        given = "--skip-broken" if test_fraction is None else "--test-fraction"
        raise InputError(f"{given}: {folder} is a run, which says itself how its images are read; leave {given} out")
    else:
        subject = _run(folder, which, dataset, data_dir)
    if mirror_tta:
        _check_mirroring(subject)
    batch_size = min(subject.config.eval_batch_size, len(subject.dataset.test_images))
    classifier = Classifier(subject.trained, batch_size)
    about = {
        **subject.about,
        **_measure(classifier, subject.dataset, subject.trained.images.class_names, mirror_tta=mirror_tta),
        "device": sharding.describe_devices(),
        "versions": versions(),
        "command": command,
    }
    _write(target, about, subject, classifier.kind)
    return about


def target_folder(folder: UserPath, out: UserPath | None) -> Path:
    """Returns the folder into which an evaluation is written.

    Args:
        folder: The folder of the network, or the name of one that comes with the package.
        out: The folder that the user names; None for the network's own, or ``runs/NAME``.

    Raises:
        InputError: If no network of this name comes with the package.
    """
    if out is not None:
        return user_path(out)
    folder = find_folder(folder)
    name = bundled_name(folder)
    return folder if name is None else Path("runs") / name


def _check_mirroring(subject: _Subject) -> None:
    """Raises an InputError if a mirrored image may belong to another class."""
    if not subject.dataset.flip:
        why = f"mirroring does not keep the classes of {subject.config.dataset}"
    elif not subject.config.mirror:
        why = "the network was trained with --no-mirror"
    else:
        return
    raise InputError(f"--mirror-tta: {why}; leave it out")


def _run(folder: Path, which: str, dataset: str | Dataset | None, data_dir: UserPath | None) -> _Subject:
    """Loads the network, the images and the records of a run."""
    run = RunFolder(folder)
    saved = run.read()
    config = run.read_config(data_dir)
    given = dataset if isinstance(dataset, Dataset) else None
    if given is None and dataset not in (None, config.dataset):
        raise InputError(f"--dataset: {folder} is a run on {config.dataset}, not {dataset}; leave --dataset out")
    records = run.read_records()
    if not records and not saved.is_trained_elsewhere:
        raise InputError(
            f"{folder} has not finished an epoch, so there is nothing to evaluate; continue it first with --resume"
        )
    trained = load(folder, which)
    images = load_dataset(config, given)
    if not saved.is_trained_elsewhere and saved.data_sha256 != images.sha256():
        raise InputError(
            f"{folder} was trained on other images of the name {config.dataset}, or they have changed since; "
            "name the folder that holds them with --data-dir, or give the same arrays"
        )
    recorded = _recorded(records, trained.step, which)
    about = {
        "dataset": config.dataset,
        "model": config.model,
        "network": _describe(saved, which, recorded["epoch"], trained.step),
        "which": which,
        "step": trained.step,
        **recorded,
    }
    return _Subject(
        trained=trained,
        dataset=images,
        about=about,
        config=config,
        records=records,
        settings=config.to_json() | saved.config,
        summary=run.read_summary(),
    )


def _describe(saved: SavedConfig, which: str, epoch: float | None, step: int | None) -> str:
    """Describes the evaluated network of a run: its checkpoint, and where it comes from if it was converted."""
    source = f"converted from {printable(saved.converted_from)}" if saved.converted_from else "converted"
    # The best network of a run can still be the one that was converted, if the epochs trained here were worse.
    is_as_converted = bool(saved.converted_from and saved.resumed) and step == saved.resumed[0]["step"]
    if saved.is_trained_elsewhere or is_as_converted:
        return f"{source}, not trained here (step {step:,})"
    name = "moving average" if which == "ema" else f"{which} checkpoint"
    checkpoint = f"{name} ({'' if epoch is None else f'epoch {epoch:.4g}, '}step {step:,})"
    return f"{checkpoint}, {source} and trained further" if saved.converted_from else checkpoint


def _weights(folder: Path, dataset: str | Dataset | None, data_dir: UserPath | None, **options: Any) -> _Subject:
    """Loads the network of a folder of pretrained weights, and the images of a dataset that fits it.

    The options are fields of ``TrainConfig`` that say how images are read.
    """
    given, name = (dataset, ARRAYS) if isinstance(dataset, Dataset) else (None, dataset)
    if name is None:
        raise InputError(
            f"{folder} holds pretrained weights, which do not name a dataset to test them on; "
            f"name it with --dataset, one of {', '.join(DATASETS)}"
        )
    trained = load(folder)
    place = None if data_dir is None else user_path(data_dir)
    # Nothing is trained, so any number of training images is enough.
    config = TrainConfig(dataset=name, data_dir=place, batch_size=1, **options)
    if "image_size" in find_source(name).options:
        config = dataclasses.replace(config, image_size=trained.images.height)
    images = load_dataset(config, given)
    # How pixels are normalized is the network's choice, and may differ from the dataset's.
    ours, theirs = (
        (spec.height, spec.width, spec.channels, spec.class_names) for spec in (trained.images, images.image_spec)
    )
    if ours != theirs:
        sizes = ["{}x{}x{} in {} classes".format(*spec[:3], len(spec[3])) for spec in (ours, theirs)]
        raise InputError(
            f"{folder} is for images of {sizes[0]}, and {name} has images of "
            f"{sizes[1] if sizes[0] != sizes[1] else 'other classes'}; name the dataset it was trained on"
        )
    network = trained.model
    names = {"dataset": name, "model": _preset(network.config) or network.model_type}
    origin = {"network": "pretrained weights", "which": None, "step": None, "epoch": None, "recorded": None}
    return _Subject(
        trained=trained,
        dataset=images,
        about=names | origin,
        config=config,
        records=[],
        settings=names | weights.config_fields(network.config),
        summary=None,
    )


def _preset(config: NetworkConfig) -> str | None:
    """Returns the name of the preset of a network; None if it is none's."""
    task: dict[str, Any] = {"num_classes": config.num_classes, "in_channels": config.in_channels}
    found = (name for name, preset in PRESETS.items() if dataclasses.replace(preset, **task) == config)
    return next(found, None)


def _recorded(records: Sequence[Record], step: int | None, which: str) -> dict[str, Any]:
    """Returns the metrics recorded in training for a step; None if it is not the end of an epoch."""
    record = next((record for record in records if record["step"] == step), None)
    if record is None:
        return {"epoch": None, "recorded": None}
    prefix = "ema_" if which == "ema" else ""
    metrics_of_step = {name: record.get(f"{prefix}{name}") for name in ("test_accuracy", "test_loss")}
    return {"epoch": record["epoch"], "recorded": None if None in metrics_of_step.values() else metrics_of_step}


def _measure(classifier: Classifier, dataset: Dataset, names: Sequence[str], *, mirror_tta: bool) -> dict[str, Any]:
    """Returns the metrics of a classifier on the test images, in the form of ``evaluation.json``."""
    images, labels, superclasses = dataset.test_images, dataset.test_labels, dataset.superclasses
    with bar_on_terminal("evaluating", len(images) * (2 if mirror_tta else 1)) as bar:
        scores = classifier(images, bar.update)
        averaged = classifier.average(scores, classifier(images[:, :, ::-1], bar.update)) if mirror_tta else None
    probabilities = classifier.probabilities(scores)
    confusion = metrics.confusion_matrix(scores, labels)
    found = metrics.reliability(probabilities, labels, _BINS)
    wrong = metrics.most_confident_mistakes(probabilities, labels, _MISTAKES)
    predictions = scores.argmax(1)
    bins = zip(found.images.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    return {
        "images": len(labels),
        **_summarize(classifier, scores, labels, superclasses),
        "loss_unit": classifier.kind.loss_unit,
        "mirror_tta": None if averaged is None else _summarize(classifier, averaged, labels, superclasses),
        "calibration": [
            {"above": m / _BINS, "images": count, "confidence": _number(mean), "accuracy": _number(accuracy)}
            for m, (count, mean, accuracy) in enumerate(bins)
        ],
        "classes": [
            row | {"superclass": superclass}
            for row, superclass in zip(_rows(names, confusion), superclasses or [None] * len(names), strict=True)
        ],
        "superclasses": None if superclasses is None else _rows(*metrics.superclass_confusion(confusion, superclasses)),
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


def _rows(names: Sequence[str], confusion: np.ndarray) -> list[dict[str, Any]]:
    """Returns the name, the number of images and the accuracy of each row of a confusion matrix."""
    found = zip(names, confusion.sum(1).tolist(), metrics.class_accuracies(confusion).tolist(), strict=True)
    return [{"name": name, "images": count, "accuracy": _number(accuracy)} for name, count, accuracy in found]


def _summarize(
    classifier: Classifier, scores: np.ndarray, labels: np.ndarray, superclasses: Sequence[str] | None
) -> dict[str, float | None]:
    """Returns the metrics that are one number each."""
    confusion = metrics.confusion_matrix(scores, labels)
    losses = np.asarray(classifier.kind.loss(jnp.asarray(scores), jnp.asarray(labels)), np.float64)
    bins = metrics.reliability(classifier.probabilities(scores), labels, _BINS)
    return {
        "top_1_accuracy": metrics.top_k_accuracy(scores, labels, 1),
        # Among five classes or fewer, every label is in the top five.
        "top_5_accuracy": metrics.top_k_accuracy(scores, labels, 5) if scores.shape[1] > 5 else None,
        "mean_class_accuracy": metrics.mean_class_accuracy(confusion),
        "superclass_accuracy": None if superclasses is None else metrics.superclass_accuracy(confusion, superclasses),
        "loss": float(losses.mean()),
        "expected_calibration_error": metrics.expected_calibration_error(bins),
    }


def _number(value: float) -> float | None:
    """Replaces NaN by None, because JSON has no NaN."""
    return None if math.isnan(value) else value


def _write(folder: Path, about: dict[str, Any], subject: _Subject, kind: Scores) -> None:
    """Draws the figures and writes all files. Nothing is written until everything is drawn."""
    columns = ("images", "confidence", "accuracy")
    found = metrics.Reliability(
        *(np.array([row[name] for row in about["calibration"]], np.float64) for name in columns)
    )
    confusion, names = np.array(about["confusion"]), [row["name"] for row in about["classes"]]
    superclasses = subject.dataset.superclasses
    figures = {
        "confusion": confusion_figure(confusion, names, superclasses),
        "reliability": reliability_figure(found, about["expected_calibration_error"]),
    }
    if superclasses is not None:
        merged, counts = metrics.superclass_confusion(confusion, superclasses)
        figures["superclass_confusion"] = confusion_figure(counts, merged, noun="superclass")
    drawn = {name: style.svg(figure) for name, figure in figures.items()}
    files = {f"evaluation/{name}.svg": content for name, content in drawn.items()}
    files |= {f"evaluation/{name}.png": style.png(figure) for name, figure in figures.items()}
    if about["mistakes"]:
        files["evaluation/mistakes.png"] = contact_sheet([_cell(one, subject.dataset) for one in about["mistakes"]])
    config, records = subject.config, subject.records
    quantities: tuple[Quantity, ...] = ("loss", "accuracy")
    for quantity in quantities if records else ():
        # One figure per quantity, because two panels side by side are too small to read on a phone.
        figure = curves_figure(records, kind, dataset=config.dataset, epochs=config.epochs, quantities=(quantity,))
        drawn[quantity] = style.svg(figure)
    pictures = [_png(_picture(mistake, subject.dataset)) for mistake in about["mistakes"]]
    files["report.html"] = html_report(about, records, subject.settings, subject.summary, drawn, pictures).encode()
    # The last file describes the others. If a process was killed while they got their names, the values differ.
    about["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["evaluation/evaluation.json"] = json_text(about).encode()
    with _writing(folder):
        make_folders(folder / "evaluation")
        # An earlier evaluation may have left what this one lacks: a network without mistakes has no sheet.
        write_together(folder, {**dict.fromkeys(_OPTIONAL), **files})


def _cell(mistake: dict[str, Any], dataset: Dataset) -> Cell:
    lines = [
        Line(shortened(mistake["answer"]), f"{mistake['confidence']:.1%}"),
        Line(f"true: {shortened(mistake['class'])}"),
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
            f"the evaluation could not be written into {folder} ({error.strerror}); the network itself is as it was"
        ) from error


def text(about: dict[str, Any]) -> str:
    """Formats the main numbers of an evaluation as a short table.

    Args:
        about: Contents of ``evaluation.json``, as ``evaluate`` returns them.
    """
    notes = {
        "mean per-class accuracy": f" ({describe_sizes(about['classes'])})",
        "expected calibration error": f" ({_BINS} bins)",
        "superclass accuracy": f" ({len(about['superclasses'] or ())} superclasses)",
    }
    rows = [(name, value + notes.get(name, "")) for name, value in summary_rows(about, about["loss_unit"])]
    if about["mirror_tta"] is not None:
        averaged = summary_rows(about["mirror_tta"], about["loss_unit"])
        rows.append(("with mirror images", ", ".join(f"{name} {value}" for name, value in averaged)))
    if recorded := about["recorded"]:
        words = f"{recorded['test_accuracy']:.2%}, {recorded['test_loss']:.4f} {about['loss_unit']}"
        rows.append(("recorded in training", words))
    best, worst = best_and_worst(about["classes"], _CLASSES_PRINTED)
    for name, some in (("best classes", best), ("worst classes", worst)):
        if some:
            rows.append((name, ", ".join(f"{shortened(row['name'], 40)} {row['accuracy']:.0%}" for row in some)))
    pairs = [
        f"{shortened(pair['class'], 40)} as {shortened(pair['answer'], 40)} ({pair['images']})"
        for pair in about["most_confused"][:_PAIRS_PRINTED]
    ]
    rows.append(("most confused", ", ".join(pairs) or "none"))
    images = f"{about['images']:,} test image{'s' if about['images'] != 1 else ''}"
    head = f"{shortened(about['model'])} on {shortened(about['dataset'])}, {about['network']}, {images}"
    return "\n".join([head, *(f"  {name:<28}{words}" for name, words in rows)])
