import numpy as np
import pytest
from training_fixtures import made_dataset

from seanet_jax.errors import InputError
from seanet_jax.training.images import check_images, load_dataset
from seanet_jax.training.run import fit


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tiny):
    config = tiny(batch_size=41)
    with pytest.raises(InputError, match="batch_size is 41; it must be at most 40"):
        fit(config)
    assert not config.out.exists()


def test_a_run_uses_the_first_images_and_holds_out_the_last_of_them(tiny):
    dataset = load_dataset(tiny(limit_train=20, limit_test=5, validation_fraction=0.25))
    made = made_dataset()
    np.testing.assert_array_equal(dataset.train_images, made.train_images[:15])
    np.testing.assert_array_equal(dataset.val_images, made.train_images[15:20])
    np.testing.assert_array_equal(dataset.test_labels, made.test_labels[:5])


def test_the_images_are_named_by_their_sha256():
    assert check_images(made_dataset()) == made_dataset().sha256()
    assert check_images(made_dataset(test=22)) != made_dataset().sha256()
