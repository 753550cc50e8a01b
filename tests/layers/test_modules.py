import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from module_fixtures import abstract, normal, run

from seanet_jax import Aggregate, InputError, ResidualBlock, SqueezeExcite
from seanet_jax.layers.functional import AGGREGATE_OPS
from seanet_jax.layers.modules import BatchNorm, Conv, ConvTranspose, Linear


def output(module, *shape, dtype=jnp.float32):
    """Returns the shape and dtype of a module's result without computing it."""
    return nnx.eval_shape(lambda module, x: module(x), module, jax.ShapeDtypeStruct(shape, dtype))


def parameters(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def shapes(module):
    return jax.tree.map(lambda leaf: leaf.shape, parameters(module))


def dtypes(module):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(module)))}


@functools.cache
def many_weights(kind):
    """Builds a module with enough weights to see their distribution."""
    return Conv(64, 96, 3, rngs=nnx.Rngs(0)) if kind == "conv" else Linear(400, 500, rngs=nnx.Rngs(0))


# Shapes


@pytest.mark.parametrize("leading", [(2,), (2, 3)])
def test_linear_shape(leading):
    chex.assert_shape(output(abstract(Linear, 5, 7), *leading, 5), (*leading, 7))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(
    ("stride", "size", "expected"), [(1, (6, 5), (6, 5)), (2, (6, 5), (3, 3)), (2, (1, 1), (1, 1))]
)
def test_conv_shape(kernel_size, stride, size, expected):
    conv = abstract(Conv, 4, 6, kernel_size, stride=stride)
    assert shapes(conv) == {"kernel": (kernel_size, kernel_size, 4, 6)}
    chex.assert_shape(output(conv, 2, *size, 4), (2, *expected, 6))


@pytest.mark.parametrize("shape", [(4, 3, 3, 6), (4, 6), (2, 5, 6)])
def test_batch_norm_keeps_the_shape(shape):
    chex.assert_shape(output(BatchNorm(6), *shape), shape)


@pytest.mark.parametrize("shape", [(4, 3, 3, 6), (5, 5, 6), (2, 4, 3, 3, 6)])
def test_squeeze_excite_keeps_the_shape(shape):
    chex.assert_shape(output(abstract(SqueezeExcite, 6, 3), *shape), shape)


def test_squeeze_excite_of_one_map_is_that_of_a_batch():
    module = SqueezeExcite(8, 2, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(0, 3, 4, 5, 8))
    np.testing.assert_allclose(module(x[1]), module(x)[1], rtol=1e-5)


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(16, 8, 2), (12, 8, 1), (6, 1, 6), (8, 8, 1)])
def test_squeeze_excite_parameter_shapes(channels, reduction, hidden):
    assert shapes(abstract(SqueezeExcite, channels, reduction)) == {
        "reduce": {"kernel": (channels, hidden), "bias": (hidden,)},
        "expand": {"kernel": (hidden, channels), "bias": (channels,)},
    }


@pytest.mark.parametrize("op", AGGREGATE_OPS)
def test_aggregate_shape(op):
    chex.assert_shape(output(Aggregate(3, op), 2, 4, 4, 6), (2, 4, 4, 2))
    assert parameters(Aggregate(3, op)) == {}


BLOCKS = list(itertools.product((1, 2), (None, 2), (None, 4), (False, True), (8, 12)))


@pytest.mark.parametrize(("stride", "reduction", "factor", "preactivation", "in_channels"), BLOCKS)
def test_residual_block_shape_and_shortcut(stride, reduction, factor, preactivation, in_channels):
    aggregate = None if factor is None else Aggregate(factor)
    block = abstract(
        ResidualBlock,
        in_channels,
        8,
        stride=stride,
        reduction=reduction,
        aggregate=aggregate,
        preactivation=preactivation,
    )
    out_channels = 8 // (factor or 1)
    assert block.out_channels == out_channels
    for size, expected in ((6, 6 // stride), (5, -(-5 // stride))):
        result = output(block, 2, size, size, in_channels)
        chex.assert_shape(result, (2, expected, expected, out_channels))
        assert result.dtype == jnp.float32

    projected = stride == 2 or factor is not None or in_channels != 8
    assert (block.shortcut is not None) == projected
    assert (block.shortcut_bn is not None) == (projected and not preactivation)
    assert (block.squeeze_excite is not None) == (reduction is not None)
    expected_names = {"conv1", "bn1", "conv2", "bn2"}
    expected_names |= {"squeeze_excite"} if reduction else set()
    expected_names |= {"shortcut"} if projected else set()
    expected_names |= {"shortcut_bn"} if projected and not preactivation else set()
    assert set(parameters(block)) == expected_names
    if projected:
        assert shapes(block.shortcut) == {"kernel": (1, 1, in_channels, out_channels)}
    assert shapes(block.bn1)["scale"] == (in_channels if preactivation else 8,)


def test_an_aggregating_block_projects_even_where_shapes_allow_the_identity():
    assert abstract(ResidualBlock, 2, 8, aggregate=Aggregate(4)).shortcut is not None
    assert abstract(ResidualBlock, 8, 8, aggregate=Aggregate(1)).shortcut is not None


@pytest.mark.parametrize("preactivation", [False, True])
def test_a_bfloat16_map_stays_bfloat16_and_parameters_stay_float32(preactivation):
    options = {"stride": 2, "reduction": 2, "aggregate": Aggregate(4), "preactivation": preactivation}
    block = abstract(ResidualBlock, 8, 8, **options)
    assert output(block, 2, 4, 4, 8, dtype=jnp.bfloat16).dtype == jnp.bfloat16

    def state_after_a_batch(block, x):
        block(x)
        return nnx.to_pure_dict(nnx.state(block))

    state = nnx.eval_shape(state_after_a_batch, block, jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.bfloat16))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32"}


def test_linear_computes_in_its_dtype_with_float32_parameters():
    linear = abstract(Linear, 4, 3, dtype=jnp.bfloat16)
    assert output(linear, 2, 4).dtype == jnp.bfloat16
    assert dtypes(linear) == {"float32"}


# Errors


@pytest.mark.parametrize("reduction", [0, -1, 9, True, 2.5, "2"])
def test_squeeze_excite_names_an_impossible_reduction(reduction):
    with pytest.raises(InputError, match=f"reduction is {reduction!r}; it must be an integer from 1 to the 8"):
        SqueezeExcite(8, reduction, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("factor", [0, -4, 2.0, True, "4"])
def test_aggregate_names_an_impossible_factor(factor):
    with pytest.raises(InputError, match=f"factor is {factor!r}; it must be a positive integer"):
        Aggregate(factor)


def test_aggregate_names_an_unknown_op():
    with pytest.raises(InputError, match="op is 'median'; it must be one of sum, mean, max"):
        Aggregate(4, "median")


def test_aggregate_rejects_channels_it_cannot_group():
    with pytest.raises(InputError, match=r"factor is 4; .* divides the 6 channels"):
        Aggregate(4)(jnp.ones((1, 6)))


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3)])
def test_training_batch_norm_rejects_a_single_value_per_channel(shape):
    bn = BatchNorm(3)
    with pytest.raises(InputError, match=r"one value per channel .* at least two"):
        bn(jnp.ones(shape))
    bn.eval()
    np.testing.assert_allclose(bn(jnp.ones(shape)), np.ones(shape), rtol=1e-5)


# Batch normalization


def test_training_normalizes_with_the_batch_then_scales_and_shifts():
    x = normal(0, 16, 4) * 3 + 5
    bn = BatchNorm(4)
    bn.scale[...], bn.bias[...] = jnp.asarray(normal(1, 4)), jnp.asarray(normal(2, 4))
    exact = x.astype(np.float64)
    centered = exact - exact.mean(0)
    expected = centered / np.sqrt(exact.var(0) + 1e-5) * normal(1, 4) + normal(2, 4)
    np.testing.assert_allclose(run(bn, x), expected, rtol=1e-4, atol=1e-5)


def test_running_averages_are_unbiased_with_momentum():
    bn = BatchNorm(3)
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = normal(seed, 3, 2, 1, 3) * 2 + 1  # six values per channel, so a biased variance would be a sixth smaller
        run(bn, x)
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2), dtype=np.float64)
        var = 0.9 * var + 0.1 * x.var((0, 1, 2), dtype=np.float64, ddof=1)
        np.testing.assert_allclose(bn.mean[...], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(bn.var[...], var, rtol=1e-5)


def test_momentum_weighs_the_old_value():
    x = normal(0, 6, 2)
    bn = BatchNorm(2, momentum=0.25)
    run(bn, x)
    np.testing.assert_allclose(bn.mean[...], 0.75 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(bn.var[...], 0.25 + 0.75 * x.var(0, ddof=1), rtol=1e-5)


def test_each_group_is_normalized_by_itself_and_averaged_for_evaluation():
    x = normal(0, 12, 3, 3, 2) * np.arange(1, 13).reshape(-1, 1, 1, 1)
    grouped, parts = BatchNorm(2, groups=3), [BatchNorm(2) for _ in range(3)]
    expected = np.concatenate([run(part, images) for part, images in zip(parts, np.split(x, 3), strict=True)])
    np.testing.assert_allclose(run(grouped, x), expected, rtol=1e-5, atol=1e-6)
    for average in ("mean", "var"):
        of_parts = np.mean([getattr(part, average)[...] for part in parts], 0)
        np.testing.assert_allclose(getattr(grouped, average)[...], of_parts, rtol=1e-5)
    assert np.abs(expected - run(BatchNorm(2), x)).max() > 0.1
    grouped.eval()
    assert run(grouped, x[:1]).shape == (1, 3, 3, 2)


def test_a_batch_that_groups_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"x has shape \(4, 2, 2, 3\); its first axis must be divisible by 3 groups"):
        BatchNorm(3, groups=3)(jnp.ones((4, 2, 2, 3)))
    with pytest.raises(InputError, match=r"one value per channel"):
        BatchNorm(3, groups=4)(jnp.ones((4, 1, 1, 3)))
    with pytest.raises(InputError, match="groups is 0; it must be a positive integer"):
        BatchNorm(3, groups=0)


def test_statistics_of_a_bfloat16_batch_are_kept_in_float32():
    x = jnp.asarray(normal(0, 64, 2) + 1, jnp.bfloat16)
    bn = BatchNorm(2)
    run(bn, x)
    chex.assert_type([bn.mean[...], bn.var[...]], jnp.float32)
    np.testing.assert_allclose(bn.mean[...], 0.1 * np.asarray(x, np.float64).mean(0), rtol=1e-5)


def test_running_averages_keep_their_dtype():
    x = np.asarray(normal(0, 16, 4), np.float64)
    with jax.enable_x64(True):
        norm = BatchNorm(4)
        result = run(norm, x)
        assert result.dtype == jnp.float64
        chex.assert_type([norm.mean[...], norm.var[...]], jnp.float32)
        np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-6)
        # What lax.scan carries may not change its dtype.
        graphdef, state = nnx.split(norm)

        def step(state, x):
            norm = nnx.merge(graphdef, state, copy=True)
            return (norm(x), nnx.state(norm))[::-1]

        state, _ = jax.lax.scan(step, state, jnp.asarray(x).reshape(2, 8, 4))
        assert dtypes(nnx.merge(graphdef, state)) == {"float32"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Linear, {"in_features": np.int64(4), "out_features": np.int32(6)}),
        (
            Conv,
            {"in_channels": np.int64(4), "out_channels": np.int8(6), "kernel_size": np.int64(3), "groups": np.int64(2)},
        ),
        (ConvTranspose, {"in_channels": np.int64(4), "out_channels": np.int8(6), "kernel_size": np.array(3)}),
        (SqueezeExcite, {"channels": np.int64(4), "reduction": np.int64(2)}),
        (
            ResidualBlock,
            {"in_channels": np.int64(4), "width": np.int64(8), "stride": np.int64(2), "batch_groups": np.uint8(1)},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sizes_may_be_numpys(kind, options):
    found, expected = abstract(kind, **options), abstract(kind, **{name: int(v) for name, v in options.items()})
    assert nnx.graphdef(found) == nnx.graphdef(expected) and shapes(found) == shapes(expected)
    # NumPy's numbers equal Python's, so that only their types show what is stored.
    for _, module in nnx.iter_modules(found):
        assert not [value for value in vars(module).values() if isinstance(value, np.generic)]
    chex.assert_equal(output(found, 2, 6, 6, 4).shape, output(expected, 2, 6, 6, 4).shape)


def test_rates_may_be_numpys():
    norm = BatchNorm(np.int64(4), momentum=np.float64(0.5), epsilon=jnp.float32(0.25), groups=np.int64(2))
    assert [type(value) for value in (norm.momentum, norm.epsilon, norm.groups)] == [float, float, int]
    assert Aggregate(np.int64(4)).factor == 4
    with pytest.raises(InputError, match=r"BatchNorm: momentum is .*nan.*; it must be a finite number"):
        BatchNorm(4, momentum=np.float32("nan"))


OPTIONAL = [
    (lambda: Conv(4, 4, 3, rngs=nnx.Rngs(0)), "bias", lambda: nnx.Param(jnp.ones(4))),
    (lambda: ResidualBlock(4, 4, rngs=nnx.Rngs(0)), "squeeze_excite", lambda: SqueezeExcite(4, 2, rngs=nnx.Rngs(1))),
    (lambda: ResidualBlock(4, 4, rngs=nnx.Rngs(0)), "aggregate", lambda: Aggregate(1)),
    (lambda: ResidualBlock(4, 4, rngs=nnx.Rngs(0)), "shortcut", lambda: Conv(4, 4, 1, rngs=nnx.Rngs(1))),
    (lambda: ResidualBlock(4, 4, rngs=nnx.Rngs(0)), "shortcut_bn", lambda: BatchNorm(4)),
]


@pytest.mark.parametrize(("make", "name", "part"), OPTIONAL, ids=[name for _, name, _ in OPTIONAL])
def test_a_part_is_assigned_where_there_was_none(make, name, part):
    module = make()
    assert getattr(module, name) is None
    setattr(module, name, part())
    merged = nnx.merge(*nnx.split(module))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(merged)), nnx.to_pure_dict(nnx.state(module)))
    chex.assert_trees_all_close(output(merged, 2, 5, 5, 4).shape, (2, 5, 5, 4))
    setattr(module, name, None)
    chex.assert_trees_all_equal(run(module, jnp.ones((2, 5, 5, 4))), run(make(), jnp.ones((2, 5, 5, 4))))


def test_gradient_passes_through_the_batch_statistics():
    # The sum of a normalized batch is constant, so its gradient vanishes; with fixed statistics it would not.
    x = jnp.asarray(normal(0, 8, 2) + 3)
    gradient = jax.jit(jax.grad(lambda x: BatchNorm(2)(x).sum()))(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_running_averages_carry_no_gradient():
    def running(x):
        bn = BatchNorm(2)
        bn(x)
        return bn.mean[...].sum() + bn.var[...].sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(running))(jnp.asarray(normal(0, 8, 2))), np.zeros((8, 2)))


# Initial values


def test_conv_kernels_are_normal_with_variance_two_over_fan_in():
    kernel = np.asarray(many_weights("conv").kernel[...], np.float64)
    sigma = np.sqrt(2 / (3 * 3 * 64))
    assert abs(kernel.std() / sigma - 1) < 0.02
    assert abs(kernel.mean()) < 0.02 * sigma
    # 1.24 % of a normal distribution lies beyond 2.5 sigma and nothing of one truncated at two of its sigmas (2.27).
    beyond = (np.abs(kernel) > 2.5 * sigma).mean()
    assert 0.009 < beyond < 0.016
    assert abs(((kernel / sigma) ** 4).mean() - 3) < 0.15


def test_linear_weights_are_uniform_within_one_over_root_fan_in():
    linear = many_weights("linear")
    bound = 1 / np.sqrt(400)
    for weights, tolerance in ((linear.kernel[...], 0.02), (linear.bias[...], 0.15)):
        weights = np.asarray(weights, np.float64)
        assert np.abs(weights).max() <= bound
        assert np.abs(weights).max() > 0.98 * bound
        assert weights.min() < 0 < weights.max()
        assert abs(weights.var() * 3 * 400 - 1) < tolerance


def test_batch_norm_starts_as_the_identity():
    bn = BatchNorm(3)
    for name, value in (("scale", 1), ("bias", 0), ("mean", 0), ("var", 1)):
        np.testing.assert_array_equal(getattr(bn, name)[...], np.full(3, value))


def test_all_initial_values_are_float32():
    assert dtypes(abstract(ResidualBlock, 4, 8, stride=2, reduction=2)) == {"float32"}


# Order of operations inside a block, in NumPy


def conv_numpy(x, kernel, stride=1):
    half = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    size = kernel.shape[0]
    windows = [[padded[:, i : i + size, j : j + size] for j in columns] for i in rows]
    return np.einsum("hwnabc,abcf->nhwf", np.array(windows), kernel)


def relu(x):
    return np.maximum(x, 0)


class NumpyBlock:
    """A block's operations in NumPy and float64, with the block's parameters."""

    def __init__(self, block):
        self.state = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(block)))

    def conv(self, name, x, stride=1):
        return conv_numpy(x, self.state[name]["kernel"], stride)

    def norm(self, name, x):
        p = self.state[name]
        return (x - p["mean"]) / np.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]

    def excite(self, x):
        p = self.state["squeeze_excite"]
        hidden = relu(x.mean((1, 2)) @ p["reduce"]["kernel"] + p["reduce"]["bias"])
        logits = hidden @ p["expand"]["kernel"] + p["expand"]["bias"]
        return x / (1 + np.exp(-logits))[:, None, None]


def block_with_values(*arguments, **options):
    """Builds a block in evaluation mode, with values for which none of its operations is the identity."""
    rng = np.random.default_rng(0)
    block = abstract(ResidualBlock, *arguments, **options)
    block.eval()

    def values(path, variable):
        low = 0.5 if path[-1] in ("scale", "var") else -0.5
        return jnp.asarray(rng.uniform(low, low + 1, variable.shape), jnp.float32)

    graphdef, state = nnx.split(block)
    flat = {path: values(path, leaf) for path, leaf in nnx.to_flat_state(state)}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def run_both(block, composition, in_channels):
    x = normal(5, 2, 4, 4, in_channels)
    np.testing.assert_allclose(
        run(block, x), composition(NumpyBlock(block), x.astype(np.float64)), rtol=1e-4, atol=1e-5
    )


def sum_of_two(y):
    return y[..., 0::2] + y[..., 1::2]


@pytest.mark.parametrize("stride", [1, 2])
def test_block_excites_then_aggregates_then_adds(stride):
    block = block_with_values(4, 8, stride=stride, reduction=4, aggregate=Aggregate(2))

    def composition(b, x):
        y = relu(b.norm("bn1", b.conv("conv1", x, stride)))
        y = sum_of_two(b.excite(b.norm("bn2", b.conv("conv2", y))))
        return relu(y + b.norm("shortcut_bn", b.conv("shortcut", x, stride)))

    run_both(block, composition, 4)


def test_block_with_identity_shortcut():
    def composition(b, x):
        y = relu(b.norm("bn1", b.conv("conv1", x)))
        return relu(b.excite(b.norm("bn2", b.conv("conv2", y))) + x)

    run_both(block_with_values(4, 4, reduction=2), composition, 4)


@pytest.mark.parametrize("stride", [1, 2])
def test_preactivated_block_normalizes_first_and_projects_the_activated_input(stride):
    block = block_with_values(4, 8, stride=stride, reduction=4, aggregate=Aggregate(2), preactivation=True)

    def composition(b, x):
        activated = relu(b.norm("bn1", x))
        y = b.conv("conv2", relu(b.norm("bn2", b.conv("conv1", activated, stride))))
        return sum_of_two(b.excite(y)) + b.conv("shortcut", activated, stride)

    run_both(block, composition, 4)


def test_preactivated_block_adds_the_raw_input_where_the_shortcut_is_the_identity():
    def composition(b, x):
        y = b.conv("conv1", relu(b.norm("bn1", x)))
        return b.conv("conv2", relu(b.norm("bn2", y))) + x

    run_both(block_with_values(4, 4, preactivation=True), composition, 4)


def test_residual_block_rejects_a_width_it_cannot_aggregate():
    with pytest.raises(InputError, match="width is 6; it must be divisible by the factor 4"):
        ResidualBlock(4, 6, aggregate=Aggregate(4), rngs=nnx.Rngs(0))


# Convolutions in groups, with a bias or another initialization, and transposed ones


def test_a_convolution_has_the_given_bias_and_groups():
    ones = jax.nn.initializers.ones
    conv = Conv(4, 6, 3, stride=2, groups=2, bias_init=ones, kernel_init=ones, rngs=nnx.Rngs(0))
    assert conv.kernel.shape == (3, 3, 2, 6) and conv.bias.shape == (6,)
    y = conv(jnp.ones((1, 4, 4, 4)))
    chex.assert_shape(y, (1, 2, 2, 6))
    # The kernel covers nine pixels of two channels, of which four lie inside the image at a corner. The bias is added.
    np.testing.assert_array_equal(y[0, 1, 1], np.full(6, 19))
    np.testing.assert_array_equal(y[0, 0, 0], np.full(6, 9))
    assert Conv(4, 6, 3, rngs=nnx.Rngs(0)).bias is None
    assert conv(jnp.ones((1, 4, 4, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_transposed_convolution_enlarges():
    ones = jax.nn.initializers.ones
    conv = ConvTranspose(2, 3, 3, stride=2, bias_init=ones, kernel_init=ones, rngs=nnx.Rngs(0))
    y = conv(jnp.ones((1, 4, 5, 2)))
    chex.assert_shape(y, (1, 8, 10, 3))
    # A pixel of the result depends on one, two or four pixels of the input, of two channels each.
    assert set(np.unique(y)) == {3, 5, 9}


def test_groups_have_to_divide_the_channels():
    with pytest.raises(
        InputError, match="groups is 3; it must divide the 4 channels of the input and the 6 of the output"
    ):
        Conv(4, 6, 3, groups=3, rngs=nnx.Rngs(0))
