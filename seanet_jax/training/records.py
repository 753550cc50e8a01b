"""The records of a run's epochs, and which of them is the best."""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def best_record(records: Sequence[Record]) -> Record | None:
    """Returns the record of the epoch with the highest accuracy on validation images or, without these, on test images.

    The first one of equal accuracy is the best. An epoch that is not whole, where a run ends inside one, counts only if
    there is no other: a continued run forgets its record.

    Args:
        records: Records of one run, in order. Records without an epoch, of stops inside one, are ignored.

    Returns:
        The record, or None if there is no record of an epoch.
    """
    epochs = [record for record in records if "epoch" in record]
    whole = [record for record in epochs if float(record["epoch"]).is_integer()]
    return max(whole or epochs, key=selection_accuracy, default=None)


def selection_accuracy(record: Record) -> float:
    """Returns the accuracy, a fraction, by which the best epoch is chosen.

    Args:
        record: The record of an epoch.
    """
    return float(record["val_accuracy" if "val_accuracy" in record else "test_accuracy"])
