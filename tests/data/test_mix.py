import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from jax_contexts import under_other_settings

from seanet_jax.data import mix
from seanet_jax.data.mix import cutmix, mixup
from seanet_jax.errors import InputError

CLASSES = 7
FUNCTIONS = {"cutmix": jax.jit(cutmix), "mixup": jax.jit(mixup)}
draw_beta = jax.jit(mix._draw_beta, static_argnums=1)
seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(1, 8, 8, 1), (2, 32, 32, 3), (7, 13, 40, 3), (5, 96, 9, 1)])
alphas = st.sampled_from([0.1, 0.2, 1.0, 8.0])


def batch(name, *shape):
    """Returns images that have no value in common, and soft labels."""
    random = np.random.default_rng(0)
    values = np.arange(shape[0]) + 3
    images = np.array(np.broadcast_to(values[:, None, None, None], shape), "uint8" if name == "cutmix" else "float32")
    labels = random.dirichlet(np.ones(CLASSES), shape[0]).astype(np.float32)
    return images, labels


def slow_mixed_labels(labels, shares):
    """Returns the mixed labels in float64. The shares are those of the partners."""
    expected = np.zeros(labels.shape)
    for image, share in enumerate(np.asarray(shares, np.float64)):
        for c in range(labels.shape[1]):
            expected[image, c] = (1 - share) * labels[image, c] + share * labels[image - 1, c]
    return expected


def slow_box(size, lam, center):
    """Returns the box as the authors' code (``rand_bbox``) computes it."""
    bounds = []
    for length, middle in zip(size, center, strict=True):
        cut = int(length * np.sqrt(np.float32(1) - lam))
        bounds += [np.clip(middle - cut // 2, 0, length), np.clip(middle + cut // 2, 0, length)]
    return bounds


@given(seeds, shapes, alphas)
def test_cutmix_pastes_a_box_of_the_image_before_and_mixes_labels_by_its_area(seed, shape, alpha):
    images, labels = batch("cutmix", *shape)
    mixed, mixed_labels = map(np.asarray, FUNCTIONS["cutmix"](jax.random.key(seed), images, labels, alpha=alpha))
    shares = []
    for image in range(shape[0]):
        pasted = (mixed[image] != images[image]).any(-1)
        np.testing.assert_array_equal(pasted, pasted.any(1)[:, None] & pasted.any(0)[None])
        for line in (pasted.any(1), pasted.any(0)):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
        assert (mixed[image][pasted] == images[image - 1][pasted]).all()
        shares.append(pasted.mean())
    if shape[0] > 1:
        np.testing.assert_allclose(mixed_labels, slow_mixed_labels(labels, shares), atol=2e-7)


@pytest.mark.parametrize("size", [(32, 32), (9, 50)])
def test_the_boxes_of_cutmix_are_those_of_the_authors(size):
    key, count, alpha = jax.random.key(3), 300, 1.0
    boxes = mix._draw_boxes(key, count, *size, alpha)
    share_key, center_key = jax.random.split(key)
    lams = np.asarray(mix._draw_beta(share_key, count, alpha))
    centers = zip(
        *(jax.random.randint(k, count, 0, n) for k, n in zip(jax.random.split(center_key), size, strict=True)),
        strict=True,
    )
    expected = [slow_box(size, lam, map(int, center)) for lam, center in zip(lams, centers, strict=True)]
    np.testing.assert_array_equal(np.stack(boxes, axis=1), expected)


@given(seeds, shapes, alphas)
def test_mixup_averages_an_image_with_the_one_before_and_the_labels_alike(seed, shape, alpha):
    images, labels = batch("mixup", *shape)
    mixed, mixed_labels = map(np.asarray, FUNCTIONS["mixup"](jax.random.key(seed), images, labels, alpha=alpha))
    shares = np.asarray(draw_beta(jax.random.key(seed), shape[0], alpha), np.float64)
    assert ((shares >= 0) & (shares <= 1)).all()
    for image, share in enumerate(shares):
        expected = (1 - share) * images[image].astype(float) + share * images[image - 1]
        np.testing.assert_allclose(mixed[image], expected, rtol=1e-6)
    np.testing.assert_allclose(mixed_labels, slow_mixed_labels(labels, shares), atol=2e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seeds, shapes, alphas)
def test_mixed_labels_are_probabilities_and_the_key_determines_the_result(name, seed, shape, alpha):
    images, labels = batch(name, *shape)
    mixed, mixed_labels = found = FUNCTIONS[name](jax.random.key(seed), images, labels, alpha=alpha)
    assert (mixed.shape, mixed.dtype) == (shape, images.dtype)
    assert (mixed_labels.shape, mixed_labels.dtype) == (labels.shape, jnp.float32)
    assert (mixed_labels >= 0).all()
    np.testing.assert_allclose(mixed_labels.sum(1), 1, atol=1e-6)
    again = FUNCTIONS[name](jax.random.key(seed), images, labels, alpha=alpha)
    jax.tree.map(np.testing.assert_array_equal, found, again)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_image_has_no_partner_but_itself(name):
    images, labels = batch(name, 1, 8, 8, 3)
    mixed, mixed_labels = FUNCTIONS[name](jax.random.key(0), images, labels, alpha=1.0)
    np.testing.assert_allclose(mixed, images, rtol=1e-6)
    np.testing.assert_allclose(mixed_labels, labels, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5, 1.0, np.float64(3), 100.0])
def test_shares_have_the_beta_distribution(alpha):
    shares = np.asarray(draw_beta(jax.random.key(0), 5000, alpha), np.float64)
    assert ((shares >= 0) & (shares <= 1)).all()
    # Kolmogorov's statistic, except where float32 has no numbers between a share and 1; its bound fails once in 10,000.
    points = np.linspace(1e-5, 1 - 1e-5, 1001)
    found = np.searchsorted(np.sort(shares), points, side="right") / 5000
    assert np.abs(found - scipy.stats.beta(alpha, alpha).cdf(points)).max() < 2.23 / np.sqrt(5000)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / 5000)
    assert abs(shares.var() / variance - 1) < 0.1


def test_every_image_has_its_own_share_and_box():
    for name, function in FUNCTIONS.items():
        images, labels = batch(name, 16, 32, 32, 1)
        images[...] = np.arange(16)[:, None, None, None] % 2
        labels = np.eye(2, dtype=np.float32)[np.arange(16) % 2]
        _, mixed = function(jax.random.key(0), images, labels, alpha=1.0)
        assert len({round(float(share), 6) for share in mixed.max(1)}) > 8, name


@pytest.mark.parametrize("name", FUNCTIONS)
@under_other_settings
def test_settings_of_jax_change_no_mixture(name, context):
    images, labels = batch(name, 16, 8, 8, 3)
    expected = FUNCTIONS[name](jax.random.key(5), images, labels, alpha=1.0)
    with context:
        found = FUNCTIONS[name](jax.random.key(5), images, labels, alpha=1.0)
    assert [a.dtype for a in found] == [a.dtype for a in expected]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("images", "labels"), [((4, 4, 3), (4, 2)), ((2, 4, 4, 3), (2,)), ((2, 4, 4, 3), (3, 2))])
def test_other_shapes_are_refused(name, images, labels):
    with pytest.raises(InputError, match=rf"{name}: the images have shape .* they must be \[N, H, W, C\] and"):
        FUNCTIONS[name](jax.random.key(0), np.zeros(images, np.float32), np.zeros(labels, np.float32), alpha=1.0)
