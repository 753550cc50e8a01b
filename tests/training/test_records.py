import math

import pytest

from seanet_jax.training.records import best_record, has_stalled, selection_accuracy


def epoch(number, test, **more):
    return {"epoch": number, "step": 4 * number, "test_accuracy": test} | more


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ([], None),
        ([{"step": 3, "seconds": 1.0}], None),
        ([epoch(1, 0.2), epoch(2, 0.5), epoch(3, 0.5), {"step": 13, "seconds": 1.0}], 2),
        # Validation images choose, not test images.
        ([epoch(1, 0.2, val_accuracy=0.9), epoch(2, 0.5, val_accuracy=0.8)], 1),
        # A run that ends inside an epoch.
        ([epoch(1, 0.2), epoch(1.75, 0.9)], 1),
        ([epoch(0.75, 0.9)], 0.75),
        # An epoch that was not evaluated.
        ([{"epoch": 1, "step": 4}, epoch(2, 0.5), {"epoch": 3, "step": 12}], 2),
        ([{"epoch": 1, "step": 4}, epoch(1.75, 0.9)], 1.75),
        ([{"epoch": 1, "step": 4}], None),
    ],
)
def test_the_best_is_the_first_whole_epoch_of_the_highest_accuracy(records, best):
    found = best_record(records)
    assert found is None if best is None else found["epoch"] == best


def test_the_accuracy_that_chooses_is_of_validation_images_where_there_are_any():
    assert math.isclose(selection_accuracy(epoch(1, 0.2)), 0.2)
    assert math.isclose(selection_accuracy(epoch(1, 0.2, val_accuracy=0.9)), 0.9)
    # A run that weights its classes says by which one it chooses.
    assert math.isclose(selection_accuracy(epoch(1, 0.2, val_accuracy=0.9, selection_accuracy=0.4)), 0.4)


@pytest.mark.parametrize(
    ("accuracies", "stalled"),
    [([], False), ([0.5], False), ([0.5, 0.4], False), ([0.5, 0.4, 0.5], True), ([0.5, 0.4, 0.6, 0.6], False)],
)
def test_a_run_stops_early_if_its_best_epoch_is_as_long_ago_as_its_patience(accuracies, stalled):
    records = [epoch(number, 0.9 - accuracy, val_accuracy=accuracy) for number, accuracy in enumerate(accuracies, 1)]
    assert has_stalled(records, 2) == has_stalled([*records, {"step": 99, "seconds": 1.0}], 2) == stalled
    assert not has_stalled(records, None)
    # Epochs that were not evaluated do not count.
    assert has_stalled([*records, *({"epoch": 9, "step": 36},) * 2], 2) == stalled
