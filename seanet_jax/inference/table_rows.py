"""Rows of the tables that show an evaluation, printed by ``seanet evaluate`` and in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def ranked(classes: Sequence[Row], *, best_first: bool = False) -> list[Row]:
    """Returns the classes that have test images, ranked by their accuracy.

    Of classes with equal accuracies, those with more images come first, because their accuracies are more certain.

    Args:
        classes: Name, number of images and accuracy of each class.
        best_first: If True, the class with the highest accuracy comes first; if False, the one with the lowest.
    """
    seen = [row for row in classes if row["images"]]
    return sorted(seen, key=lambda row: (-row["accuracy"] if best_first else row["accuracy"], -row["images"]))


def best_and_worst(classes: Sequence[Row], most: int) -> tuple[list[Row], list[Row]]:
    """Returns the classes with the highest and with the lowest accuracies. No class is among both.

    Args:
        classes: Name, number of images and accuracy of each class.
        most: Largest number of classes in either list. If there are fewer than twice as many, each list has half.

    Returns:
        The best classes, best first, and the worst, worst first. Both are empty if all accuracies are equal. A class of
        which no image is classified correctly is not among the best.
    """
    worst, best = ranked(classes), ranked(classes, best_first=True)
    if worst[0]["accuracy"] == best[0]["accuracy"]:
        return [], []
    shown = min(most, len(worst) // 2)
    best = [row for row in best[:shown] if row["accuracy"] > 0]
    others = [row for row in worst if not any(row is one for one in best)]
    return best, others[:shown]


def describe_sizes(classes: Sequence[Row]) -> str:
    """Describes how the test images are spread over the classes, which decides what a mean over classes tells.

    Args:
        classes: Name, number of images and accuracy of each class.
    """
    sizes = sorted(row["images"] for row in classes if row["images"])
    if sizes[0] == sizes[-1]:
        words = f"equals top-1: {_count(sizes[0], 'image')} in each class"
    else:
        words = f"classes of {sizes[0]:,} to {sizes[-1]:,} images"
    empty = len(classes) - len(sizes)
    return f"{words}; {_count(empty, 'class')} without test images left out" if empty else words


def summary_rows(metrics: Mapping[str, float | None], loss_unit: str) -> list[tuple[str, str]]:
    """Returns the names and values of the metrics that are one number each.

    Args:
        metrics: The metrics by their names in ``evaluation.json``. Those that are None are left out.
        loss_unit: Unit of the loss.
    """
    forms = (
        ("top-1 accuracy", "top_1_accuracy", "{:.2%}"),
        ("top-5 accuracy", "top_5_accuracy", "{:.2%}"),
        ("mean per-class accuracy", "mean_class_accuracy", "{:.2%}"),
        ("superclass accuracy", "superclass_accuracy", "{:.2%}"),
        ("loss", "loss", "{:.4f} " + loss_unit),
        ("expected calibration error", "expected_calibration_error", "{:.2%}"),
    )
    return [(name, form.format(metrics[key])) for name, key, form in forms if metrics[key] is not None]


def _count(number: int, noun: str) -> str:
    plural = {"image": "images", "class": "classes"}[noun]
    return f"{number:,} {noun if number == 1 else plural}"
