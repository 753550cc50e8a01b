"""Sharded arrays. Here a mesh has one device, whose types JAX checks as those of many.

``tests/reported_faults/test_meshes_and_transforms.py`` compares values and gradients on two devices with those on one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from seanet_jax.data.augment import Augmentation, augment
from seanet_jax.layers import functional, transport
from seanet_jax.layers.sharding import has_explicit_axes, keeps_batch_sharding, partition_automatically, vary_alike

DATA = PartitionSpec("data")


def mesh_of(axis_type):
    return jax.make_mesh((1,), ("data",), axis_types=(axis_type,))


def test_arrays_that_do_not_vary_are_returned_as_they_are():
    x, y = jnp.ones(2), jnp.ones(3)
    found = vary_alike(x, y)
    assert found[0] is x and found[1] is y


def test_arrays_vary_over_the_axes_of_any_of_them():
    def body(x, y, z):
        assert [jax.typeof(a).manual_axis_type.varying for a in (x, y, z)] == [{"a"}, {"b"}, set()]
        cast = vary_alike(x, y, z)
        assert all(jax.typeof(a).manual_axis_type.varying == {"a", "b"} for a in cast)
        return sum(a.sum() for a in cast)[None, None]

    mesh = jax.make_mesh((1, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    specs = (PartitionSpec("a"), PartitionSpec("b"), PartitionSpec())
    mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("a", "b"))
    assert mapped(jnp.ones(2), jnp.ones(3), jnp.ones(4)) == 9


def test_only_an_explicit_mesh_has_explicit_axes():
    x = np.ones((2, 3), np.float32)
    assert not has_explicit_axes(x, jnp.asarray(x))
    with jax.set_mesh(mesh_of(AxisType.Auto)):
        assert not has_explicit_axes(jax.device_put(x, DATA))
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        assert has_explicit_axes(jax.device_put(x, DATA))


def test_inside_the_axes_are_automatic_and_the_result_is_sharded_as_asked():
    def merged(x):
        assert not has_explicit_axes(x)
        return x.reshape(-1)

    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        x = jax.device_put(np.arange(6.0).reshape(2, 3), PartitionSpec(None, "data"))
        with pytest.raises(Exception, match="out_sharding"):
            x.reshape(-1)
        found = partition_automatically(merged, x, result=DATA)
        assert jax.typeof(found).sharding.spec == DATA
        np.testing.assert_array_equal(found, np.arange(6))


def test_results_of_a_batch_are_sharded_as_the_batch_is():
    @keeps_batch_sharding
    def merged(key, x, y, *, factor):
        assert not has_explicit_axes(x, y)
        return factor * x.reshape(len(x), -1), y + jax.random.uniform(key, (len(y),))

    x, y, key = np.arange(12.0).reshape(2, 3, 2), np.arange(2.0), jax.random.key(0)
    expected = merged(key, x, y, factor=2)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        found = merged(key, jax.device_put(x, DATA), y, factor=2)
        assert [jax.typeof(array).sharding.spec[0] for array in found] == ["data", "data"]
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_gradient_of_a_convolution_has_the_types_of_its_operands(size):
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((size, size, 16, 16)) / (16 * size**2)

    @jax.jit
    def gradients(x, kernel):
        def loss(x, kernel):
            return jnp.square(functional.conv2d(x, kernel, method="winograd4" if size == 3 else "patches")).sum()

        return jax.grad(loss, (0, 1))(x, kernel)

    expected = gradients(x, kernel)

    specs = (DATA, PartitionSpec())
    mapped = jax.shard_map(gradients, mesh=mesh_of(AxisType.Auto), in_specs=specs, out_specs=specs)
    for actual, right in zip(mapped(x, kernel), expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-4)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        dx, dkernel = gradients(jax.device_put(x, DATA), kernel)
        assert jax.typeof(dx).sharding.spec[0] == "data" and jax.typeof(dkernel).sharding.spec[0] is None
        np.testing.assert_allclose(dx, expected[0], rtol=1e-4)


@pytest.mark.slow
def test_augmentation_and_transport_under_an_explicit_mesh():
    images = np.arange(4 * 6 * 6 * 3).reshape(4, 6, 6, 3).astype(np.uint8)
    x, y = np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32)
    expected = augment(jax.random.key(0), images, flip=True), transport.transport_divergence(x, y)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        found = augment(jax.random.key(0), jax.device_put(images, DATA), flip=True)
        assert jax.typeof(found).sharding.spec[0] == "data"
        np.testing.assert_array_equal(found, expected[0])
        divergence = transport.transport_divergence(jax.device_put(x, DATA), jax.device_put(y, DATA))
        np.testing.assert_allclose(divergence, expected[1], rtol=1e-5)


@pytest.mark.slow
def test_the_chain_of_augmentations_under_an_explicit_mesh():
    @jax.jit
    def chain(key, images, labels):
        every = Augmentation(padding="reflect", trivial_augment=True, cutout=3, erasing=0.5, cutmix=1.0, mixup=1.0)
        pixels = every.pixels(key, images, (1, 2, 3))
        return every.mixed(key, pixels, labels, lambda images: images.astype(jnp.float32))

    images, labels = np.arange(4 * 6 * 6 * 3).reshape(4, 6, 6, 3).astype(np.uint8), np.eye(4, dtype=np.float32)
    expected = chain(jax.random.key(0), images, labels)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        found = chain(jax.random.key(0), jax.device_put(images, DATA), jax.device_put(labels, DATA))
        assert [jax.typeof(array).sharding.spec[0] for array in found] == ["data", "data"]
        jax.tree.map(np.testing.assert_array_equal, found, expected)
