"""The published errors are named by presets, and are those of the published runs where we have their records."""

import pytest

from seanet_jax.models import PRESETS
from seanet_jax.studies.talk_errors import TALK_ERRORS
from seanet_jax.training.curves import published_curves


def test_every_error_is_a_percentage_of_a_preset():
    for errors in TALK_ERRORS.values():
        assert errors.keys() <= PRESETS.keys()
        assert all(0 < error < 100 for error in errors.values())


def test_both_data_sets_have_the_same_networks():
    assert TALK_ERRORS["cifar10"].keys() == TALK_ERRORS["cifar100"].keys()


@pytest.mark.parametrize("dataset", TALK_ERRORS)
def test_the_error_of_seanet_is_the_smallest_of_its_published_run(dataset):
    smallest = min(100 - 100 * record["test_accuracy"] for record in published_curves(dataset))
    assert TALK_ERRORS[dataset]["seanet20"] == pytest.approx(smallest, abs=0.006)
