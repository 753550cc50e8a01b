"""The HTML report of a run and its evaluation: one self-contained page without scripts or network requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from seanet_jax.inference.html_page import data_uri, embedded_svg, render
from seanet_jax.inference.table_rows import best_and_worst, describe_sizes, ranked, summary_rows
from seanet_jax.provenance import without_home
from seanet_jax.training.progress import format_duration
from seanet_jax.training.records import Record
from seanet_jax.training.stopwatch import describe_time

# With more classes than this, a confusion matrix is as wide as the page, and may be scrolled on a phone.
_MOST_IN_A_COLUMN = 10
# With more classes than this, the page shows only the best and the worst, and folds the full table away.
_MOST_CLASSES = 20
_SHOWN = 10


def html_report(
    about: Mapping[str, Any],
    records: Sequence[Record],
    config: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    figures: Mapping[str, bytes],
    pictures: Sequence[bytes],
) -> str:
    """Returns the HTML of the report. Class names and settings are escaped, so they cannot add markup.

    Args:
        about: Contents of ``evaluation.json``.
        records: The run's records, one per epoch. Without any, the page has no section on training.
        config: Configuration of the run, or of the network if it was not trained in a run.
        summary: Contents of the run's ``summary.json``, or None if the run has not written it yet.
        figures: SVG files by name: confusion, reliability, superclass_confusion if the classes have superclasses, and,
            if there are records, loss and accuracy.
        pictures: PNG files, one for each mistake in ``about``, in the same order.

    Returns:
        One HTML document with all figures and pictures embedded.
    """
    bins = about["calibration"]
    # Not every epoch is evaluated.
    columns = [column for column in _COLUMNS if any(column[1] in record for record in records)]
    return render(
        "report.html.jinja",
        about=about,
        facts=_facts(about, config, summary, is_trained_here=bool(records)),
        tiles=_tiles(about),
        notes=_notes(about, config, summary, is_trained_here=bool(records)),
        curves=[embedded_svg(figures[name], f"{what} by epoch") for name, what in _CURVES.items() if records],
        columns=[name for name, _, _ in columns],
        records=[
            {
                "cells": [form.format(record[key]) if key in record else "—" for _, key, form in columns],
                "mark": record["step"] == about["step"],
            }
            for record in records
        ],
        confusion=embedded_svg(
            figures["confusion"], "Confusion matrix: share of each class's images by predicted class"
        ),
        is_wide=len(about["classes"]) > _MOST_IN_A_COLUMN,
        superclass_confusion=embedded_svg(
            figures["superclass_confusion"],
            "Confusion matrix of superclasses: share of each superclass's images by predicted superclass",
        )
        if about["superclasses"]
        else None,
        images_of={row["name"]: row["images"] for row in about["classes"]},
        averaged=_compare(about),
        most_classes=_MOST_CLASSES,
        class_sizes=describe_sizes(about["classes"]),
        class_tables=_class_tables(about["classes"]),
        superclasses=_lowest_first(about["superclasses"] or ()),
        reliability=embedded_svg(
            figures["reliability"], "Reliability diagram: accuracy and number of images by confidence"
        ),
        mean_confidence=sum(row["images"] * (row["confidence"] or 0) for row in bins) / about["images"],
        mistakes=[
            {**mistake, "uri": data_uri(picture, "image/png")}
            for mistake, picture in zip(about["mistakes"], pictures, strict=True)
        ],
        config={name: without_home(value) if isinstance(value, str) else value for name, value in config.items()},
        provenance=_provenance(summary),
        versions=_versions(about, summary),
    )


_CURVES = {"loss": "Loss", "accuracy": "Error"}

# Column heading, key in a record, format of the value.
_COLUMNS = (
    ("Epoch", "epoch", "{:.4g}"),
    ("Learning rate", "learning_rate", "{:g}"),
    ("Training loss", "train_loss", "{:.4f}"),
    ("Training accuracy", "train_accuracy", "{:.2%}"),
    ("Validation loss", "val_loss", "{:.4f}"),
    ("Validation accuracy", "val_accuracy", "{:.2%}"),
    ("Test loss", "test_loss", "{:.4f}"),
    ("Test accuracy", "test_accuracy", "{:.2%}"),
    ("EMA validation accuracy", "ema_val_accuracy", "{:.2%}"),
    ("EMA test accuracy", "ema_test_accuracy", "{:.2%}"),
    ("Images/s", "images_per_second", "{:,.1f}"),
    ("Time (s)", "seconds", "{:,.1f}"),
)


def _facts(
    about: Mapping[str, Any], config: Mapping[str, Any], summary: Mapping[str, Any] | None, *, is_trained_here: bool
) -> list[str]:
    facts = [without_home(about["network"])]
    if is_trained_here:
        facts.append(f"seed {config['seed']}")
    if summary is not None:
        facts.append(f"{summary['parameters']:,} parameters")
        facts.append(f"{format_duration(summary['training_seconds'])} of training on {summary['device']}")
    return facts


def _tiles(about: Mapping[str, Any]) -> list[dict[str, str]]:
    recorded = about["recorded"] or {"test_accuracy": None, "test_loss": None}

    def note(value: float | None, form: str) -> str:
        return "" if value is None else f"during training: {form.format(value)}"

    def accuracy(key: str) -> str:
        return "" if about[key] is None else f"{about[key]:.2%}"

    tiles = [
        ("Top-1 accuracy", accuracy("top_1_accuracy"), note(recorded["test_accuracy"], "{:.2%}")),
        ("Top-5 accuracy", accuracy("top_5_accuracy"), ""),
        ("Superclass accuracy", accuracy("superclass_accuracy"), f"{len(about['superclasses'] or ())} superclasses"),
        ("Mean per-class accuracy", accuracy("mean_class_accuracy"), describe_sizes(about["classes"])),
        (f"Loss ({about['loss_unit']})", f"{about['loss']:.4f}", note(recorded["test_loss"], "{:.4f}")),
        (
            "Expected calibration error",
            f"{about['expected_calibration_error']:.2%}",
            f"{len(about['calibration'])} bins",
        ),
        ("Test images", f"{about['images']:,}", f"{len(about['classes'])} classes"),
    ]
    tiles = [tile for tile in tiles if tile[1]]
    return [dict(zip(("name", "value", "note"), tile, strict=True)) for tile in tiles]


def _notes(
    about: Mapping[str, Any], config: Mapping[str, Any], summary: Mapping[str, Any] | None, *, is_trained_here: bool
) -> list[str]:
    """Returns the caveats that the reader of the numbers has to know."""
    notes = []
    limits = ((config.get("limit_train"), "training"), (config.get("limit_test"), "test"))
    if any(count is not None for count, _ in limits):
        parts = " and ".join(f"{count:,} {name} images" for count, name in limits if count is not None)
        notes.append(f"The run was limited to the first {parts}.")
    if not is_trained_here:
        notes.append(
            "The network was not trained in this folder. If it was selected on these test images, its accuracy is "
            "optimistic."
        )
        return notes
    if about["which"] == "best" and not config["validation_fraction"]:
        notes.append(
            "The best epoch was selected on these test images, so its accuracy is optimistic; "
            "the accuracy of the latest checkpoint is not."
        )
    if summary is not None and summary.get("stopped_by") == "after_epoch":
        notes.append("The run stopped early, because the program that trained it asked for that.")
    elif summary is not None and summary.get("stopped_early"):
        notes.append(
            f"The run stopped early, after {config['patience']} evaluations that were not better than the best."
        )
    if summary is None or not summary["finished"]:
        notes.append("The run is not finished.")
    return notes


def _compare(about: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the rows of the table of test-time augmentation; none if it was not measured."""
    if about["mirror_tta"] is None:
        return []
    metrics = (summary_rows(found, about["loss_unit"]) for found in (about, about["mirror_tta"]))
    return [
        {"name": name, "plain": plain, "averaged": averaged}
        for (name, plain), (_, averaged) in zip(*metrics, strict=True)
    ]


def _class_tables(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if len(classes) <= _MOST_CLASSES:
        return [{"name": "Lowest accuracy first", "rows": _lowest_first(classes)}]
    best, worst = best_and_worst(classes, _SHOWN)
    return [
        {"name": f"{len(rows)} classes of {name} accuracy", "rows": rows}
        for name, rows in (("lowest", worst), ("highest", best))
        if rows
    ]


def _lowest_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows by accuracy, with those without images at the end."""
    return [*ranked(rows), *(row for row in rows if not row["images"])]


def _versions(about: Mapping[str, Any], summary: Mapping[str, Any] | None) -> list[dict[str, str]]:
    trained = {} if summary is None else summary["versions"] | {"device": summary["device"]}
    evaluated = about["versions"] | {"device": about["device"]}
    return [{"name": name, "trained": trained.get(name, "—"), "evaluated": value} for name, value in evaluated.items()]


def _provenance(summary: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Returns the rows that say where a run comes from; none if the run is not finished, or of version 0.1.0."""
    rows = {}
    if summary is not None and "provenance" in summary:
        found = summary["provenance"]
        changed = "" if found["clean"] else ", with uncommitted changes"
        rows = {
            "Started": found["started"] or "not recorded",
            "Ended": found["ended"],
            "Command": found["command"] or "none: a program called fit",
            "Git commit": f"{found['commit']}{changed}" if found["commit"] else "none: not a Git checkout",
            "Host": found["host"],
            "Processor": found["processor"],
        }
    if summary is not None and "time" in summary:
        rows["Time"] = describe_time(summary["time"])
    return [{"name": name, "value": value} for name, value in rows.items()]
