"""``conv2d``: every method is compared with a float64 convolution in NumPy, and the choice between them is tested."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from optimized_jit import optimized_jit

from seanet_jax import InputError, create_model
from seanet_jax.layers import functional
from seanet_jax.layers.convolution import CONV_METHODS, _fastest_on_cpu, conv2d
from seanet_jax.models import SEANetConfig
from seanet_jax.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("optimized")

# Relative root-mean-square errors in float32, two to three times the largest measured.
BOUNDS = {"lax": 2e-6, "patches": 2e-6, "winograd4": 1e-5, "auto": 1e-5}

# (batch, height, width, channels in, channels out, kernel size, stride): one of every kind in the networks.
SHAPES = [
    (2, 32, 32, 3, 16, 3, 1),  # stem
    (2, 32, 32, 16, 128, 3, 1),
    (1, 32, 32, 128, 128, 3, 1),
    (2, 32, 32, 32, 128, 1, 1),
    (2, 32, 32, 32, 256, 3, 2),
    (2, 16, 16, 256, 256, 3, 1),
    (2, 16, 16, 64, 512, 3, 2),
    (2, 8, 8, 512, 512, 3, 1),
    (2, 32, 32, 32, 32, 3, 1),  # the narrow network
    (4, 16, 16, 64, 64, 3, 1),
    (1, 8, 8, 128, 128, 3, 1),  # batch 1: too few tiles for Winograd
    (2, 8, 12, 16, 24, 3, 1),  # not square
    (2, 6, 10, 16, 16, 3, 1),  # even, but not divisible by 4
    (2, 7, 9, 16, 16, 3, 1),  # odd
    (2, 7, 9, 8, 16, 3, 2),
    (2, 7, 9, 8, 16, 1, 2),
    (1, 4, 4, 1, 1, 3, 1),  # a single tile
    (2, 9, 8, 4, 6, 5, 1),
    (2, 8, 8, 12, 10, 7, 2),  # an aide branch
    (2, 4, 4, 16, 12, 5, 1),  # a kernel larger than the map
]


def methods_for(shape):
    _, height, width, _, _, size, stride = shape
    whole_tiles = size == 3 and stride == 1 and height % 4 == 0 and width % 4 == 0
    return [method for method in CONV_METHODS if method != "winograd4" or whole_tiles]


def example(shape, seed=0):
    """An input as after a ReLU, a kernel as it is initialized, and an output gradient."""
    batch, height, width, channels, features, size, stride = shape
    random = np.random.default_rng(seed)
    x = np.maximum(random.normal(size=(batch, height, width, channels)), 0)
    kernel = random.normal(size=(size, size, channels, features)) * np.sqrt(2 / (size * size * channels))
    dy = random.normal(size=(batch, -(-height // stride), -(-width // stride), features))
    return tuple(a.astype(np.float32) for a in (x, kernel, dy))


@functools.cache
def reference(shape):
    return in_numpy(*example(shape), shape[-1])


def in_numpy(x, kernel, dy, stride):
    """Computes the convolution and its gradients in float64, one kernel element at a time."""
    x, kernel, dy = (a.astype(np.float64) for a in (x, kernel, dy))
    _, height, width, _ = x.shape
    size = kernel.shape[0]
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    y, dpadded, dkernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(size):
        for j in range(size):
            seen = (slice(None), slice(i, i + height, stride), slice(j, j + width, stride))
            pixels, gradients = padded[seen].reshape(-1, kernel.shape[2]), dy.reshape(-1, kernel.shape[3])
            y += (pixels @ kernel[i, j]).reshape(y.shape)
            dpadded[seen] += (gradients @ kernel[i, j].T).reshape(*y.shape[:3], -1)
            dkernel[i, j] = pixels.T @ gradients
    return y, dpadded[:, half : half + height, half : half + width], dkernel


def with_gradients(x, kernel, dy, *, stride, method):
    y, vjp = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride=stride, method=method), x, kernel)
    return y, *vjp(dy)


compiled_with_gradients = optimized_jit(with_gradients, static_argnames=("stride", "method"))


def relative_error(actual, expected):
    return np.sqrt(np.mean((np.asarray(actual, np.float64) - expected) ** 2) / np.mean(np.square(expected)))


# Compiling and computing these takes longest.
LARGE = [
    *((2, 32, 32, 16, 128, 3, 1), (1, 32, 32, 128, 128, 3, 1), (2, 32, 32, 32, 256, 3, 2), (2, 16, 16, 256, 256, 3, 1)),
    *((2, 16, 16, 64, 512, 3, 2), (2, 8, 8, 512, 512, 3, 1), (2, 32, 32, 32, 32, 3, 1), (4, 16, 16, 64, 64, 3, 1)),
]


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=pytest.mark.slow if shape in LARGE else []) for shape in SHAPES],
    ids=str,
)
def test_value_and_both_gradients(shape):
    for method in methods_for(shape):
        if method == "auto":
            continue  # one of the others, which are tested themselves
        results = compiled_with_gradients(*example(shape), stride=shape[-1], method=method)
        for name, actual, expected in zip(("y", "dx", "dkernel"), results, reference(shape), strict=True):
            assert actual.shape == expected.shape and actual.dtype == jnp.float32
            assert relative_error(actual, expected) < BOUNDS[method], (method, name)


# (batch, height, width, channels in, channels out, kernel size, stride), groups: narrow and wide groups.
GROUPED = [
    ((2, 8, 8, 32, 64, 3, 1), 32),
    ((2, 8, 8, 64, 64, 1, 1), 8),
    ((2, 9, 7, 16, 24, 3, 2), 4),
    ((2, 8, 8, 16, 4, 3, 1), 4),
    ((2, 5, 6, 8, 12, 5, 1), 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "groups"), GROUPED, ids=str)
def test_groups_are_convolutions_of_their_own(shape, groups):
    x, kernel, dy = example(shape)
    kernel = kernel[:, :, : shape[3] // groups]
    parts = [np.split(array, groups, -1) for array in (x, kernel, dy)]
    found = zip(*(in_numpy(*part, shape[-1]) for part in zip(*parts, strict=True)), strict=True)
    expected = [np.concatenate(arrays, -1) for arrays in found]
    for method in methods_for(shape):
        y, vjp = jax.vjp(lambda x, k, m=method: conv2d(x, k, stride=shape[-1], groups=groups, method=m), x, kernel)
        for name, actual, right in zip(("y", "dx", "dkernel"), (y, *vjp(dy)), expected, strict=True):
            assert actual.shape == right.shape and actual.dtype == jnp.float32
            assert relative_error(actual, right) < BOUNDS[method], (method, name)


def test_groups_on_a_cpu_are_never_xlas():
    def groups_of_xla(method, dtype, groups):
        kernel = jnp.ones((3, 3, 64 // groups, 64))
        function = jax.jit(lambda x: conv2d(x, kernel, groups=groups, method=method))
        compiled_from = function.lower(jnp.ones((2, 8, 8, 64), dtype)).as_text()
        return set(re.findall(r"feature_group_count = (\d+)", compiled_from))

    for dtype in (jnp.float32, jnp.bfloat16):
        assert groups_of_xla("auto", dtype, 32) <= {"1"}
        assert groups_of_xla("auto", dtype, 8) == set()
        assert groups_of_xla("lax", dtype, 32) == {"32"}


def test_groups_of_a_batch_of_any_size_are_exported():
    (batch,) = export.symbolic_shape("batch")
    kernel = jnp.asarray(example((1, 8, 8, 8, 32, 3, 1))[1][:, :, :1])
    function = jax.jit(lambda x: conv2d(x, kernel, groups=8))
    artifact = export.export(function, platforms=("cpu", "cuda"))(jax.ShapeDtypeStruct((batch, 8, 8, 8), jnp.float32))
    x = example((3, 8, 8, 8, 32, 3, 1))[0]
    np.testing.assert_allclose(artifact.call(x), conv2d(x, kernel, groups=8, method="lax"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "kernel"), [(0, (3, 3, 4, 8)), (3, (3, 3, 4, 8)), (2, (3, 3, 4, 8)), (2, (3, 3, 2, 7))]
)
def test_groups_that_do_not_fit_are_named(groups, kernel):
    words = "groups is 0; it must be" if not groups else rf"\[k, k, C / {groups}, F\] with F divisible by {groups}"
    with pytest.raises(InputError, match=words):
        conv2d(jnp.ones((1, 4, 4, 4)), jnp.ones(kernel), groups=groups)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("method", ["lax", "patches", "auto"])
def test_the_transposed_convolution_is_the_transpose(stride, method):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 4, 6, 5)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, 5, 7)), jnp.float32)
    found = functional.conv_transpose2d(x, kernel, stride=stride, method=method)
    assert found.shape == (2, 4 * stride, 6 * stride, 7) and found.dtype == jnp.float32
    back = jax.linear_transpose(lambda y: conv2d(y, kernel.swapaxes(2, 3), stride=stride, method="lax"), found)
    np.testing.assert_allclose(found, back(x)[0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_transposed_is_named():
    for x, kernel, stride, words in (
        ((4, 4, 5), (3, 3, 5, 7), 1, r"conv_transpose2d: x \(4, 4, 5\)"),
        ((1, 4, 4, 5), (3, 3, 4, 7), 1, "must be"),
        ((1, 4, 4, 5), (3, 3, 5, 7), 0, "stride is 0"),
        ((1, 4, 4, 5), (2, 2, 5, 7), 1, "square and odd"),
    ):
        with pytest.raises(InputError, match=words):
            functional.conv_transpose2d(jnp.ones(x), jnp.ones(kernel), stride=stride)


small = st.integers(1, 3)
any_shape = st.tuples(small, st.integers(1, 9), st.integers(1, 9), small, small, st.sampled_from((1, 3, 5)), small)
whole_tiles = st.tuples(small, st.sampled_from((4, 8)), st.sampled_from((4, 8)), small, small, st.just(3), st.just(1))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    shape=any_shape | whole_tiles,
    seed=st.integers(0, 2**32 - 1),
)
def test_any_small_shape_equals_lax(shape, seed):
    x, kernel, dy = example(shape, seed)
    scale = [np.prod(kernel.shape[:3]), kernel[..., 0, :].size, dy[..., 0].size]
    expected = compiled_with_gradients(x, kernel, dy, stride=shape[-1], method="lax")
    for method in methods_for(shape):
        actual = compiled_with_gradients(x, kernel, dy, stride=shape[-1], method=method)
        for a, e, terms in zip(actual, expected, scale, strict=True):
            # A sum may cancel by chance: the bound is relative to the size its terms give it.
            np.testing.assert_allclose(a, e, atol=30 * BOUNDS[method] * np.sqrt(terms), rtol=0, err_msg=method)


@pytest.mark.parametrize("method", ["patches", "winograd4"])
def test_the_gradients_are_the_adjoints(method):
    x, kernel, dy = example((2, 8, 8, 16, 24, 3, 1))
    y, dx, dkernel = compiled_with_gradients(x, kernel, dy, stride=1, method=method)
    inner = np.vdot(dy.astype(np.float64), y)
    tolerance = BOUNDS[method] * float(np.linalg.norm(dy) * np.linalg.norm(y))
    assert np.vdot(x.astype(np.float64), dx) == pytest.approx(inner, abs=tolerance)
    assert np.vdot(kernel.astype(np.float64), dkernel) == pytest.approx(inner, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("method", CONV_METHODS)
def test_vmap_and_jit(method):
    x, kernel, dy = example((6, 8, 8, 16, 16, 3, 1))
    y, dx, dkernel = compiled_with_gradients(x, kernel, dy, stride=1, method=method)

    @optimized_jit
    @functools.partial(jax.vmap, in_axes=(0, None, 0))
    def each(x, kernel, dy):
        return with_gradients(x, kernel, dy, stride=1, method=method)

    pairs = each(x.reshape(3, 2, *x.shape[1:]), kernel, dy.reshape(3, 2, *dy.shape[1:]))
    assert relative_error(pairs[0].reshape(y.shape), np.asarray(y)) < BOUNDS[method]
    assert relative_error(pairs[1].reshape(x.shape), np.asarray(dx)) < BOUNDS[method]
    assert relative_error(pairs[2].sum(0), np.asarray(dkernel)) < BOUNDS[method]


def test_lax_is_one_plain_convolution_with_all_derivatives():
    x, kernel, _ = example((2, 8, 8, 16, 16, 3, 1))
    primitives = [e.primitive.name for e in jax.make_jaxpr(lambda x, k: conv2d(x, k, method="lax"))(x, kernel).eqns]
    assert primitives == ["conv_general_dilated"]
    hlo = jax.jit(lambda x, k: conv2d(x, k, method="lax")).lower(x, kernel).as_text()
    assert len(re.findall(r"stablehlo\.(?!return)\w+", hlo)) == 1 and "stablehlo.convolution" in hlo

    def loss(kernel):
        return (conv2d(x, kernel, method="lax") ** 2).sum()

    tangent = jax.jvp(jax.grad(loss), (kernel,), (kernel,))[1]
    np.testing.assert_allclose(tangent, jax.grad(loss)(kernel), rtol=1e-4, atol=1e-3)  # the loss is quadratic
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda k: conv2d(x, k, method="patches"), (kernel,), (kernel,))


@pytest.fixture
def on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("a choice made on CPUs")


@pytest.mark.usefixtures("on_cpu")
def test_auto_on_a_cpu():
    def chosen(shape, dtype=np.float32):
        x, kernel, _ = example(shape)
        return _fastest_on_cpu(x.astype(dtype), kernel.astype(dtype), shape[-1])

    assert chosen((1, 32, 32, 16, 32, 3, 1)) == "winograd4"
    assert chosen((16, 8, 8, 64, 64, 3, 1)) == "winograd4"
    assert chosen((1, 8, 8, 64, 64, 3, 1)) == "patches"  # few tiles
    assert chosen((1, 32, 32, 3, 16, 3, 1)) == "patches"  # few channels
    assert chosen((1, 34, 32, 16, 32, 3, 1)) == "patches"  # not whole tiles
    assert chosen((1, 32, 32, 16, 32, 3, 2)) == "patches"
    assert chosen((1, 32, 32, 16, 32, 1, 1)) == "patches"
    assert chosen((1, 32, 32, 16, 32, 3, 1), jnp.bfloat16) == "lax"
    assert chosen((1, 32, 32, 16, 32, 3, 1), np.float64) == "lax"


def test_auto_elsewhere_is_lax(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel, dy = example((1, 32, 32, 16, 32, 3, 1))
    for some in (kernel, kernel[:1, :1]):
        traced = jax.jit(functools.partial(with_gradients, stride=1, method="auto")).trace(x, some, dy)
        module = traced.lower(lowering_platforms=("cuda",)).as_text()
        # The result and both gradients are XLA's own convolutions.
        assert (module.count("stablehlo.convolution"), module.count("stablehlo.dot")) == (3, 0)


def test_auto_for_any_batch_is_each_platforms_own():
    x, kernel, _ = example((3, 8, 8, 16, 16, 3, 1))
    (batch,) = export.symbolic_shape("batch")
    shapes = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), kernel

    def exported(*platforms):
        return export.export(jax.jit(conv2d), platforms=platforms)(*shapes)

    assert "stablehlo.convolution" not in exported("cpu").mlir_module()  # Winograd's
    assert "stablehlo.convolution" in exported("cuda").mlir_module()
    for count in (1, 3):
        found = exported("cpu", "cuda", "tpu").call(x[:count], kernel)
        np.testing.assert_allclose(found, conv2d(x[:count], kernel, method="lax"), atol=1e-4)


def test_auto_is_that_of_the_platform_asked_for():
    x, kernel, _ = example((4, 16, 16, 16, 16, 3, 1))

    def exported(*platforms):
        return export.export(jax.jit(conv2d), platforms=platforms)(x, kernel)

    # One platform is Winograd's, the other XLA's own, whatever this process runs on.
    for platform, convolutions in (("cpu", 0), ("cuda", 1), ("tpu", 1)):
        module = exported(platform).mlir_module()
        assert module.count("stablehlo.convolution") == convolutions, platform
        assert ("stablehlo.dot" in module) == (not convolutions)
    found = exported("cpu", "cuda").call(x, kernel)
    np.testing.assert_allclose(found, conv2d(x, kernel, method="lax"), atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_of_any_size_are_exported(stride, groups):
    batch, height, width = export.symbolic_shape("batch, height, width")
    kernel = jnp.asarray(example((1, 8, 8, 16, 16, 3, 1))[1][:, :, : 16 // groups])

    def both(x):
        three = conv2d(x, kernel, stride=stride, groups=groups)
        return three + conv2d(x, kernel[:1, :1], stride=stride, groups=groups)

    artifact = export.export(jax.jit(both))(jax.ShapeDtypeStruct((batch, height, width, 16), jnp.float32))
    for shape in ((2, 8, 8, 16, 16, 3, 1), (1, 9, 6, 16, 16, 3, 1)):
        x = example(shape)[0]
        np.testing.assert_allclose(artifact.call(x), both(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["auto", "winograd4", "patches"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.vmap])
def test_forward_mode_names_the_method_that_has_it(method, transform):
    if method == "auto" and jax.default_backend() != "cpu":
        pytest.skip("elsewhere, auto has forward mode")
    x, kernel, _ = (jnp.asarray(a)[None] for a in example((1, 8, 8, 16, 16, 3, 1)))

    def function(x):
        return conv2d(x, kernel[0], method=method)

    if transform is not jax.vmap:
        x = x[0]
    with pytest.raises(TypeError, match=r"forward-mode .* method='lax', or conv_method='lax' to a network"):
        jax.jvp(transform(function), (x,), (x,))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "winograd4", "patches"])
def test_second_derivatives_are_those_of_lax(method):
    x, kernel, dy = (jnp.asarray(a) for a in example((1, 4, 4, 2, 2, 3, 1)))

    def loss(kernel, method=method):
        return (jnp.sin(conv2d(x, kernel, method=method)) * dy).sum()

    expected = optimized_jit(jax.hessian(functools.partial(loss, method="lax")))(kernel)
    np.testing.assert_allclose(optimized_jit(jax.hessian(loss))(kernel), expected, rtol=1e-3, atol=1e-3)
    reverse = optimized_jit(jax.jacrev(jax.grad(loss)))(kernel)
    np.testing.assert_allclose(reverse, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_auto_has_all_derivatives_where_it_is_lax(monkeypatch, order):
    x, kernel, _ = (jnp.asarray(a) for a in example((1, 4, 4, 2, 2, 3, 1)))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def loss(kernel, method="auto"):
        return jnp.sin(conv2d(x, kernel, method=method)).sum()

    for method in (jax.jacfwd, jax.jacrev):
        function, right = loss, functools.partial(loss, method="lax")
        for _ in range(order):
            function, right = method(function), method(right)
        np.testing.assert_allclose(function(kernel), right(kernel), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("shape", "convolutions"),
    [
        ((1, 32, 32, 16, 32, 3, 1), 0),  # Winograd
        ((1, 32, 32, 16, 32, 3, 2), 2),  # forward and input gradient
        ((1, 32, 32, 16, 32, 1, 2), 0),  # matrix products
    ],
    ids=str,
)
def test_auto_never_computes_the_weight_gradient_by_convolution(shape, convolutions):
    traced = jax.make_jaxpr(functools.partial(with_gradients, stride=shape[-1], method="auto"))(*example(shape))
    assert str(traced).count("conv_general_dilated[") == convolutions
    slow = jax.make_jaxpr(functools.partial(with_gradients, stride=shape[-1], method="lax"))(*example(shape))
    assert str(slow).count("conv_general_dilated[") == 3


@pytest.mark.parametrize("method", ["auto", "lax", "patches"])
@pytest.mark.parametrize("size", [1, 3])
def test_bfloat16_stays_bfloat16(method, size):
    shape = (2, 8, 8, 16, 16, size, 1)
    x, kernel, dy = example(shape)
    half = (jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel), jnp.asarray(dy, jnp.bfloat16))
    results = with_gradients(*half, stride=1, method=method)
    assert [a.dtype for a in results] == [
        jnp.bfloat16,
        jnp.bfloat16,
        jnp.float32,
    ]  # a gradient has the dtype of what it is the gradient of
    for actual, expected in zip(results, reference(shape), strict=True):
        assert relative_error(actual, expected) < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fft"}, "'fft'; it must be one of auto, lax, patches, winograd4"),
        ({"method": "winograd4", "height": 10}, "divisible by 4; they are 10 and 8"),
        ({"method": "winograd4", "height": 7}, "divisible by 4; they are 7 and 8"),
        ({"method": "winograd4", "stride": 2}, "3x3 kernel and stride 1; they are 3x3 and 2"),
        ({"method": "winograd4", "size": 5}, "3x3 kernel and stride 1; they are 5x5 and 1"),
        ({"method": "winograd4", "dtype": jnp.bfloat16}, "float32; x is bfloat16"),
        ({"size": 2}, "2x2; it must be square and odd"),
        ({"channels": 5}, r"must be \[N, H, W, C\]"),
    ],
)
def test_what_cannot_work_is_an_input_error(arguments, message):
    given = {"method": "auto", "height": 8, "stride": 1, "size": 3, "dtype": jnp.float32, "channels": 4, **arguments}
    x = jnp.zeros((1, given["height"], 8, given["channels"]), given["dtype"])
    kernel = jnp.zeros((given["size"], given["size"], 4, 4))
    with pytest.raises(InputError, match=message):
        conv2d(x, kernel, stride=given["stride"], method=given["method"])


def test_functional_has_it():
    assert functional.conv2d is conv2d


@pytest.mark.slow
def test_the_network_has_the_same_parameters_and_values_whatever_the_method():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
    results = {}
    for method in ("lax", "patches", "auto"):
        model = create_model("senet20", stage_sizes=(1, 1), widths=(16, 32), conv_method=method, rngs=nnx.Rngs(0))
        assert {m.method for _, m in nnx.iter_graph(model) if hasattr(m, "method")} == {method}
        state = nnx.state(model)
        results[method] = (
            jax.tree.map(lambda a: (a.shape, a.dtype), state),
            jax.device_get(state),
            nnx.jit(lambda model: model(x))(model),
        )
    for method in ("patches", "auto"):
        assert results[method][0] == results["lax"][0]
        jax.tree.map(np.testing.assert_array_equal, results[method][1], results["lax"][1])
        np.testing.assert_allclose(results[method][2], results["lax"][2], rtol=1e-4, atol=1e-4)


def test_the_configs_choose_the_method():
    assert SEANetConfig().conv_method == "auto"
    assert TrainConfig(conv_method="lax").model_config(10).conv_method == "lax"
    for config in (SEANetConfig, TrainConfig):
        with pytest.raises(InputError, match="conv_method is 'winograd4'; it must be one of auto, lax, patches"):
            config(conv_method="winograd4")
    saved = TrainConfig(conv_method="lax").to_json()
    assert TrainConfig().differences(saved) == ["conv_method: 'lax' was saved, 'auto' is asked"]
