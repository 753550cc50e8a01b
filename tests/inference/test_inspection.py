"""What is shown of a network is what it computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import TINY, settled

from seanet_jax import ImageSpec, InputError, aggregate
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.inspection import inspect
from seanet_jax.inference.trained import Trained
from seanet_jax.models import EncapNet, EncapNetConfig, Network

SPEC = ImageSpec(8, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), tuple("abcdefghij"))
IMAGE = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
X = SPEC.normalize(jnp.asarray(IMAGE[None]))


@pytest.mark.slow
def test_the_parts_are_those_of_the_network():
    model = settled(TINY)
    found = inspect(Trained(model, SPEC), IMAGE, top=3)
    features = {name: values[0] for name, values in jax.jit(model.features)(X).items()}
    assert [one.path for one in found.aggregates] == ["stages.0.aggregate", "stages.1.aggregate"]
    for number, one in enumerate(found.aggregates, start=1):
        np.testing.assert_allclose(one.before, features[f"stage{number}.blocks"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.after, aggregate(jnp.asarray(one.before), 2), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(one.groups, np.arange(8 * number).reshape(-1, 2))
        assert (one.kind, one.normalized, one.weights) == ("sum", False, None)
    # Squeeze-excitation of the first block, in float64 from its input.
    block = model.stages[0].blocks[0]
    assert list(found.excitations) == ["stages.0.blocks.0.squeeze_excite", "stages.1.blocks.0.squeeze_excite"]
    y = block.bn2(block.conv2(jax.nn.relu(block.bn1(block.conv1(features["stem"][None])))))
    averages = np.asarray(y, np.float64).mean((0, 1, 2))
    reduce, expand = block.squeeze_excite.reduce, block.squeeze_excite.expand
    hidden = np.maximum(averages @ np.asarray(reduce.kernel[...]) + np.asarray(reduce.bias[...]), 0)
    weights = 1 / (1 + np.exp(-(hidden @ np.asarray(expand.kernel[...]) + np.asarray(expand.bias[...]))))
    np.testing.assert_allclose(found.excitations["stages.0.blocks.0.squeeze_excite"], weights, rtol=1e-4)
    # The classes and, by CAM (Zhou et al., CVPR 2016), where they are.
    classifier = Classifier(Trained(model, SPEC), 1)
    (expected,) = classifier.probabilities(classifier(IMAGE[None]))
    numbers = np.argsort(-expected)[:3]
    assert [name for name, _ in found.classes] == ["abcdefghij"[number] for number in numbers]
    np.testing.assert_allclose([share for _, share in found.classes], expected[numbers], rtol=1e-4, atol=1e-12)
    cam = features["stage2"] @ model.classifier.kernel[...][:, numbers] / 16
    np.testing.assert_allclose(found.grad_cam, np.maximum(cam, 0).transpose(2, 0, 1), rtol=1e-4, atol=1e-5)


def test_aggregates_inside_blocks_are_found_with_their_own_groups_and_weights():
    fields = {"aggregate_placement": "block", "aggregate_norm": True, "squeeze_excite": False, "preactivation": True}
    model = settled(dataclasses.replace(TINY, aggregate_op="dense", **fields))
    found = inspect(Trained(model, SPEC), IMAGE, top=20)
    assert [one.path for one in found.aggregates] == [f"stages.{n}.blocks.0.aggregate" for n in range(2)]
    assert len(found.classes) == 10 and not found.excitations
    for stage, one in zip(model.stages, found.aggregates, strict=True):
        np.testing.assert_allclose(
            one.after, stage.blocks[0].aggregate(jnp.asarray(one.before[None]))[0], rtol=1e-4, atol=1e-5
        )
        assert (one.kind, one.normalized) == ("dense", True)
        np.testing.assert_array_equal(one.weights, np.asarray(stage.blocks[0].aggregate.conv.kernel[0, 0]).T)
        assert one.groups.shape == one.weights.shape


class Silent(Network):
    """A network of another package that says neither how its scores follow from its maps nor has any."""

    config_class, model_type = type(TINY), "silent"

    def __init__(self, config=None, *, rngs):
        self.config, self.num_features = TINY, 3
        self.classifier = self.new_classifier(rngs)

    def new_classifier(self, rngs):
        return nnx.Linear(3, 10, rngs=rngs)

    def features(self, x):
        return {"pooled": x.mean((1, 2))}

    def __call__(self, x):
        return self.classifier(x.mean((1, 2)))


def test_a_network_without_these_parts_is_classified():
    model = Silent(rngs=nnx.Rngs(0))
    found = inspect(Trained(model, SPEC), IMAGE, top=1)
    ((name, probability),) = found.classes
    expected = np.asarray(jax.nn.softmax(model(X))[0])
    assert name == "abcdefghij"[expected.argmax()] and probability == pytest.approx(expected.max(), rel=1e-5)
    assert found.grad_cam is None and not found.aggregates and not found.excitations
    model.classifier.bias[...] = jnp.full(10, np.nan)
    with pytest.raises(InputError, match="logits are NaN or infinite"):
        inspect(Trained(model, SPEC), IMAGE, top=1)


@pytest.mark.slow
def test_capsules_have_grad_cam():
    config = EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4, image_size=16)
    model = EncapNet(config, rngs=nnx.Rngs(0))
    model.eval()
    image = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
    found = inspect(Trained(model, dataclasses.replace(SPEC, height=16, width=16)), image, top=2)
    assert found.grad_cam.shape == (2, 2, 2) and np.isfinite(found.grad_cam).all()
    assert not found.aggregates and not found.excitations
