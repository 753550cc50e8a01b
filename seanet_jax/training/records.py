"""The records of a run's epochs, and which of them is the best."""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def best_record(records: Sequence[Record]) -> Record | None:
    """Returns the record of the best epoch, the one with the highest ``selection_accuracy``.

    Epochs that were not evaluated do not count. The first one of equal accuracy is the best. An epoch that is not
    whole, where a run ends inside one, counts only if there is no other: a continued run forgets its record.

    Args:
        records: Records of one run, in order. Records without an epoch, of stops inside one, are ignored.

    Returns:
        The record, or None if no epoch was evaluated.
    """
    epochs = [record for record in records if is_evaluated(record)]
    whole = [record for record in epochs if float(record["epoch"]).is_integer()]
    return max(whole or epochs, key=selection_accuracy, default=None)


def is_evaluated(record: Record) -> bool:
    """Returns whether a record is of an epoch after which the network was evaluated; see ``--eval-every``."""
    return "epoch" in record and "test_accuracy" in record


def selection_accuracy(record: Record) -> float:
    """Returns the accuracy, a fraction, by which the best epoch is chosen.

    It is the accuracy on validation images or, without these, on test images. A run that weights its classes records
    the mean of the classes' accuracies for this purpose.

    Args:
        record: The record of an epoch that was evaluated.
    """
    names = ("selection_accuracy", "val_accuracy", "test_accuracy")
    return float(next(record[name] for name in names if name in record))


def has_stalled(records: Sequence[Record], patience: int | None) -> bool:
    """Returns whether a run stops early: its best epoch is at least ``patience`` evaluations ago.

    Args:
        records: Records of one run, in order.
        patience: Number of epochs that are evaluated; None never stops a run.
    """
    best = best_record(records)
    if patience is None or best is None:
        return False
    return sum(is_evaluated(record) and record["step"] > best["step"] for record in records) >= patience
