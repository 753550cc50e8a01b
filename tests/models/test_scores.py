import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax_contexts import under_other_settings

from seanet_jax.errors import InputError
from seanet_jax.models.scores import LENGTHS, LOGITS, cross_entropy, margin_loss, soft_cross_entropy


def test_cross_entropy_equals_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(scale=3, size=(20, 7)).astype(np.float32), rng.integers(0, 7, 20, np.int32)
    losses = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    exact = logits.astype(np.float64)
    expected = np.log(np.exp(exact).sum(1)) - exact[np.arange(20), labels]
    assert losses.shape == (20,)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_equal_logits_is_the_log_of_the_classes():
    np.testing.assert_allclose(cross_entropy(jnp.zeros((2, 100)), jnp.asarray([0, 99])), np.log(100), rtol=1e-6)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.asarray([[1e4, 0.0], [-1e4, 0.0]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([0, 0])), [0, 1e4], rtol=1e-6)


def slow_margin_loss(lengths, label):
    total = 0.0
    for index, length in enumerate(lengths):
        if index == label:
            total += max(0.0, 0.9 - length) ** 2
        else:
            total += 0.5 * max(0.0, length - 0.1) ** 2
    return total


@given(
    arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32)), st.lists(st.integers(0, 2), min_size=4, max_size=4)
)
def test_margin_loss_is_the_loops(lengths, labels):
    found = margin_loss(jnp.asarray(lengths), jnp.asarray(labels))
    expected = [slow_margin_loss(row, label) for row, label in zip(lengths.astype(np.float64), labels, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_the_margin_loss_of_a_confident_correct_prediction_is_zero():
    np.testing.assert_array_equal(margin_loss(jnp.asarray([[0.05, 0.95, 0.1]]), jnp.asarray([1])), [0])


@pytest.mark.parametrize("loss", [cross_entropy, margin_loss])
def test_a_label_that_is_no_class_has_no_loss(loss):
    assert np.isnan(loss(jnp.ones((1, 3)) / 2, jnp.asarray([3]))).all()
    with pytest.raises(InputError, match=r"labels are float32 \(1,\); they must be integers \(1,\)"):
        loss(jnp.ones((1, 3)), jnp.ones(1))
    with pytest.raises(InputError, match=r"int32 \(1, 3\); they must be floating \[N, classes\]"):
        loss(jnp.ones((1, 3), jnp.int32), jnp.asarray([0]))


def test_the_probabilities_of_logits_sum_to_one_and_lengths_are_probabilities_themselves():
    scores = jnp.asarray([[0.2, 0.9, 0.7]])
    assert LOGITS.distribution and not LENGTHS.distribution
    np.testing.assert_allclose(LOGITS.probabilities(scores), jax.nn.softmax(scores))
    np.testing.assert_array_equal(LENGTHS.probabilities(scores), scores)


@pytest.mark.parametrize("loss", [cross_entropy, margin_loss])
@under_other_settings
def test_settings_of_jax_change_no_loss(loss, context):
    random = np.random.default_rng(0)
    scores, labels = jnp.asarray(random.random((6, 4), np.float32)), jnp.asarray([0, 1, 2, 3, -1, 4], jnp.int32)
    expected = loss(scores, labels)
    with context:
        found = loss(scores, labels)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_soft_label_of_one_class_has_the_loss_of_that_class():
    scores, labels = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.array([3, 0, 1, 2, 2])
    soft = soft_cross_entropy(jnp.asarray(scores), jnp.asarray(np.eye(4, dtype=np.float32)[labels]))
    np.testing.assert_allclose(soft, cross_entropy(jnp.asarray(scores), jnp.asarray(labels)), rtol=1e-6)


def test_a_soft_label_weighs_the_losses_of_its_classes():
    scores, targets = (np.random.default_rng(seed).uniform(size=(5, 4)).astype(np.float32) for seed in (0, 1))
    losses = -np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))
    found = soft_cross_entropy(jnp.asarray(scores), jnp.asarray(targets))
    np.testing.assert_allclose(found, (targets * losses).sum(1), rtol=1e-5)
    assert LOGITS.soft_loss is soft_cross_entropy and LENGTHS.soft_loss is None


@pytest.mark.parametrize("targets", [np.ones((2, 3), np.float32), np.ones((2, 4), np.int32), np.ones(2, np.float32)])
def test_soft_labels_of_other_shapes_are_refused(targets):
    with pytest.raises(InputError, match=r"soft_cross_entropy: targets are .*; they must be floating \(2, 4\)"):
        soft_cross_entropy(jnp.zeros((2, 4)), jnp.asarray(targets))
