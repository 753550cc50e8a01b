"""Any input either works, or leads to an error of this package that says what is wrong with it.

pytest tests/test_fuzz.py --hypothesis-profile=long
"""

import contextlib
import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import seanet_jax
from seanet_jax.data import Dataset, load
from seanet_jax.data.augment import augment
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import load_model
from seanet_jax.layers import capsules, functional, transport
from seanet_jax.layers.aggregates import make_aggregate
from seanet_jax.layers.convolution import CONV_METHODS
from seanet_jax.layers.modules import Aggregate, BatchNorm, Conv, ConvTranspose, Linear, ResidualBlock, SqueezeExcite
from seanet_jax.models import EncapNetConfig, SEANetConfig, build, model_config
from seanet_jax.models.scores import cross_entropy, margin_loss
from seanet_jax.training.config import TrainConfig

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def works_or_says_why():
    """Passes if the code works, or if it raises an InputError of one line."""
    try:
        yield
    except InputError as error:
        assert str(error)
        assert "\n" not in str(error)


sizes = st.integers(0, 9)
dtypes = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_])
arrays = st.builds(
    lambda shape, dtype, value: jnp.full(shape, value, dtype),
    st.lists(sizes, max_size=5).map(tuple),
    dtypes,
    st.sampled_from([0, 1, float("nan")]),
).filter(lambda array: array.size < 10_000)
maps = st.builds(jnp.ones, st.tuples(sizes, sizes, sizes, sizes))
oddities = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4), st.lists(st.integers(), max_size=2)
)


@given(arrays, oddities, st.one_of(st.sampled_from(functional.AGGREGATE_OPS), oddities))
def test_aggregate(x, factor, op):
    with works_or_says_why():
        out = functional.aggregate(x, factor, op)
        assert out.shape == (*x.shape[:-1], x.shape[-1] // factor)


@given(st.lists(arrays, min_size=5, max_size=5))
def test_squeeze_excite(operands):
    with works_or_says_why():
        assert functional.squeeze_excite(*operands).shape == operands[0].shape


@given(st.lists(sizes, min_size=1, max_size=4), dtypes, st.integers(1, 3), st.integers(-1, 1))
def test_squeeze_excite_of_nearly_fitting_kernels(shape, dtype, hidden, slip):
    channels = shape[-1]
    operands = [
        jnp.ones((channels, hidden)),
        jnp.ones(hidden + slip),
        jnp.ones((hidden, channels)),
        jnp.ones(max(channels - slip, 0)),
    ]
    with works_or_says_why():
        x = jnp.ones(shape, dtype)
        assert functional.squeeze_excite(x, *operands).shape == x.shape


@given(arrays, arrays, oddities, oddities, st.one_of(st.sampled_from(CONV_METHODS), oddities))
def test_conv2d(x, kernel, stride, groups, method):
    with works_or_says_why():
        functional.conv2d(x, kernel, stride=stride, method=method)
    with works_or_says_why():
        functional.conv2d(x, kernel, groups=groups)
    with works_or_says_why():
        functional.conv_transpose2d(x, kernel, stride=stride)


@given(
    st.tuples(sizes, sizes, sizes, st.integers(0, 3)),
    dtypes,
    st.sampled_from([1, 2, 3, 5, 7]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(CONV_METHODS),
)
def test_conv2d_of_fitting_kernels(shape, dtype, size, filters, stride, method):
    x = jnp.ones(shape, dtype)
    kernel = jnp.ones((size, size, shape[-1], filters))
    with works_or_says_why():
        out = functional.conv2d(x, kernel, stride=stride, method=method)
        assert out.shape == (shape[0], -(-shape[1] // stride), -(-shape[2] // stride), filters)
        assert out.dtype == dtype


@given(arrays, st.lists(arrays, min_size=4, max_size=4))
def test_batch_norm(x, statistics):
    with works_or_says_why():
        assert functional.batch_norm(x, *statistics).shape == x.shape
    with works_or_says_why():
        mean, variance = functional.batch_statistics(x)
        assert mean.shape == variance.shape == x.shape[-1:]


@given(arrays, arrays)
def test_losses(scores, labels):
    for loss in (cross_entropy, margin_loss):
        with works_or_says_why():
            assert loss(scores, labels).shape == scores.shape[:1]


@given(arrays, arrays, oddities)
def test_capsules(x, other, groups):
    with works_or_says_why():
        assert capsules.squash(x, groups).shape == x.shape
    with works_or_says_why():
        assert capsules.scale_capsules(x, other).shape == x.shape
    with works_or_says_why():
        assert capsules.flatten_capsules(x, groups).ndim == 3
    with works_or_says_why():
        assert capsules.class_capsules(x, other).shape[::2] == (x.shape[0], x.shape[2])


# NumPy warns of a number that float32 cannot hold.
@given(arrays, arrays, oddities.filter(lambda value: not isinstance(value, float) or not abs(value) > 1e30))
def test_transport(x, y, regularization):
    with works_or_says_why():
        assert transport.transport_cost(x, y, rounds=1).shape == ()
    with works_or_says_why():
        assert transport.sinkhorn(x, rounds=2, regularization=regularization).shape == x.shape


@given(arrays, st.booleans(), st.lists(st.floats(0.1, 1), max_size=3), st.lists(st.floats(0.1, 1), max_size=3))
def test_augmentation_and_normalization(images, flip, mean, std):
    with works_or_says_why():
        assert augment(jax.random.key(0), images, flip=flip).shape == images.shape
    with works_or_says_why():
        assert ImageSpec(8, 8, tuple(mean), tuple(std), ("a",)).normalize(images).shape == images.shape


MODULES = {
    "Aggregate": lambda size, other, flag, rngs: Aggregate(size, other),
    "An aggregate of its own size": lambda size, other, flag, rngs: make_aggregate(
        "learned" if flag else "random", size, other, seed=other, rngs=rngs
    ),
    "SqueezeExcite": lambda size, other, flag, rngs: SqueezeExcite(size, other, rngs=rngs),
    "Linear": lambda size, other, flag, rngs: Linear(size, other, rngs=rngs),
    "Conv": lambda size, other, flag, rngs: Conv(size, 2, other, stride=flag + 1, rngs=rngs),
    "Conv in groups": lambda size, other, flag, rngs: Conv(size, 4, 3, groups=other, stride=flag + 1, rngs=rngs),
    "ConvTranspose": lambda size, other, flag, rngs: ConvTranspose(size, 2, other, stride=flag + 1, rngs=rngs),
    "BatchNorm": lambda size, other, flag, rngs: BatchNorm(size),
    "ResidualBlock": lambda size, other, flag, rngs: ResidualBlock(
        size, other, reduction=2, aggregate=Aggregate(2) if flag else None, preactivation=flag, rngs=rngs
    ),
}
some_sizes = st.one_of(st.integers(-1, 9), oddities)


@pytest.mark.parametrize("name", MODULES)
@given(st.one_of(arrays, maps), some_sizes, some_sizes, st.booleans())
def test_modules(name, x, size, other, flag):
    with works_or_says_why():
        # Nothing is computed: an unexpected error would come from inferring shapes.
        nnx.eval_shape(lambda x: MODULES[name](size, other, flag, nnx.Rngs(0))(x), x)


NETWORK = model_config("resnet20", num_classes=2)


@given(arrays)
def test_a_network(x):
    model = nnx.eval_shape(lambda: seanet_jax.SEANet(NETWORK, rngs=nnx.Rngs(0)))
    model.eval()
    with works_or_says_why():
        logits = jax.eval_shape(lambda x: model(x), x)
        assert logits.shape == (x.shape[0], 2)


@pytest.mark.parametrize("config", [SEANetConfig, EncapNetConfig, TrainConfig])
@given(st.data())
def test_configs(config, data):
    field = data.draw(st.sampled_from([field.name for field in dataclasses.fields(config)]))
    value = data.draw(oddities)
    with works_or_says_why():
        made = config(**{field: value})
        if config is not TrainConfig and sum(made.widths) < 2000:
            nnx.eval_shape(lambda: build(made, rngs=nnx.Rngs(0)))


@given(oddities, st.text(st.characters(exclude_categories=["C"]), max_size=4))
def test_names(name, folder):
    for find in (load, model_config, lambda name: seanet_jax.create_model(name, rngs=nnx.Rngs(0))):
        with works_or_says_why():
            find(name)
    with works_or_says_why():
        load_model(folder)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(SEANetConfig)]), oddities))
def test_overrides_of_a_preset(overrides):
    with works_or_says_why():
        model_config("resnet20", **overrides)


images = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple),
    st.sampled_from([np.uint8, np.float32, np.int64]),
)
labels = st.builds(
    lambda values, dtype: np.array(values, dtype),
    st.lists(st.integers(-1, 3), max_size=4),
    st.sampled_from([np.int32, np.int64, np.float32]),
)


@given(images, labels, images, labels, st.lists(st.floats(), max_size=3).map(tuple), st.integers(-1, 5), st.floats())
def test_data_sets(train_images, train_labels, test_images, test_labels, mean, limit, fraction):
    with works_or_says_why():
        # The size is that of the training images, if they have one.
        spec = ImageSpec(*(*train_images.shape[1:3], 8, 8)[:2], mean, mean, ("a", "b"))
        dataset = Dataset("made", train_images, train_labels, test_images, test_labels, spec, flip=False)
        dataset.limit(limit, limit).split_validation(fraction)


def test_nan_images_are_refused_or_stay_nan():
    """A data set refuses floating-point images; in the network, the logits of an image with NaN are NaN."""
    model = seanet_jax.SEANet(dataclasses.replace(NETWORK, stage_sizes=(1,), widths=(8,)), rngs=nnx.Rngs(0))
    model.eval()
    x = jnp.zeros((2, 8, 8, 3)).at[0].set(jnp.nan)
    logits = model(x)
    assert jnp.isnan(logits[0]).all() and jnp.isfinite(logits[1]).all()
    with pytest.raises(InputError, match="uint8"):
        Dataset(
            "made",
            np.full((2, 8, 8, 3), np.nan, np.float32),
            np.zeros(2, np.int32),
            np.zeros((1, 8, 8, 3), np.uint8),
            np.zeros(1, np.int32),
            ImageSpec(8, 8, (0.0,) * 3, (1.0,) * 3, ("a",)),
            flip=False,
        )
