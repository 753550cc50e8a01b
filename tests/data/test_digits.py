import numpy as np

from seanet_jax.data import image_spec, load, train_count


def test_the_digits_have_the_shapes_and_classes_they_are_described_by():
    data = load("digits")
    assert data.train_images.shape == (1438, 32, 32, 3)
    assert data.test_images.shape == (359, 32, 32, 3)
    assert data.image_spec.class_names == tuple("0123456789")
    assert not data.flip
    assert (data.image_spec, len(data.train_images)) == (image_spec("digits"), train_count("digits"))
    assert data.train_images.max() == 255 and data.train_images.min() == 0
    np.testing.assert_array_equal(data.train_images[..., 0], data.train_images[..., 2])


def test_every_class_gives_a_fifth_to_test():
    data = load("digits")
    share = np.bincount(data.test_labels) / (np.bincount(data.test_labels) + np.bincount(data.train_labels))
    assert np.all(np.abs(share - 0.2) < 0.005)


def test_every_digit_is_kept_and_each_third_of_five_is_a_test_digit():
    from sklearn import datasets

    source, data = datasets.load_digits(), load("digits")
    rank = np.array([np.count_nonzero(source.target[:i] == label) for i, label in enumerate(source.target)])
    for split, chosen in (("train", rank % 5 != 2), ("test", rank % 5 == 2)):
        np.testing.assert_array_equal(getattr(data, f"{split}_labels"), source.target[chosen])
        # The average of each enlarged pixel is the original pixel, a little blurred, in gray levels 0..16.
        small = getattr(data, f"{split}_images")[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) * (16 / 255)
        assert np.abs(small - source.images[chosen]).mean((1, 2)).max() < 2
        assert np.abs(small - np.roll(source.images[chosen], 1, axis=0)).mean((1, 2)).mean() > 2


def test_mean_and_std_are_those_of_the_training_images():
    data = load("digits")
    np.testing.assert_allclose(data.image_spec.mean, data.train_images.mean((0, 1, 2)) / 255, atol=5e-5)
    np.testing.assert_allclose(data.image_spec.std, data.train_images.std((0, 1, 2)) / 255, atol=5e-5)
