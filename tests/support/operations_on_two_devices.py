"""Computes operations and networks on two CPU devices, and prints how much they differ from one device, as JSON.

Values and gradients are computed inside ``jax.shard_map`` with its checks of varying axes, and on a mesh of explicit
axes. ``tests/reported_faults/test_meshes_and_transforms.py`` starts it with two. The networks are those that
``tests/test_transforms.py`` leaves out under a mesh.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from seanet_jax.data.augment import augment
from seanet_jax.layers import functional, transport
from seanet_jax.models import EncapNetConfig, SEANetConfig, build
from seanet_jax.models.network import split_model

PREACTIVATED = SEANetConfig(
    **{"stage_sizes": (1,), "widths": (16,), "stem_width": 16, "preactivation": True},
    **{"aggregate_placement": "block", "aggregate_op": "random", "aggregate_norm": True},
)
# Without an aide, which tests/test_transforms.py has in CapsuleBlock, and which takes longest to compile.
ENCAPNET = EncapNetConfig(widths=(8, 8, 8, 8), stem_width=8, groups=4, agreement=True, image_size=8, batch_groups=2)
# (shape of x, shape of the kernel, groups, method). Other convolutions are in tests/test_transforms.py.
CONVOLUTIONS = {
    "wide groups": ((4, 8, 8, 16), (3, 3, 4, 16), 4, "patches"),
    "narrow groups": ((4, 8, 8, 16), (3, 3, 1, 16), 16, "auto"),
}
DIVIDED, WHOLE = P("data"), P()


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def cases():
    """Yields the name of each case, its loss as a function of sharded and of unsharded arrays, and these arrays."""
    for name, (of_x, of_kernel, groups, method) in CONVOLUTIONS.items():

        def convolution(x, kernel, groups=groups, method=method):
            return jnp.sin(functional.conv2d(x, kernel, groups=groups, method=method)).sum()

        yield f"conv2d {name}", convolution, [normal(*of_x)], [normal(*of_kernel)]

    model = build(PREACTIVATED, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, params, stats = split_model(model)

    def network(x, params):
        return jax.nn.log_softmax(nnx.merge(graphdef, params, stats)(x))[:, 0].sum()

    yield "preactivated", network, [normal(4, 8, 8, 3)], [params]


def with_gradients(loss, count):
    return jax.jit(jax.value_and_grad(loss, tuple(range(count))))


def in_shard_map(known, expected):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    found = {}
    for name, loss, divided, whole in known:
        count, specs = len(divided) + len(whole), (*[DIVIDED] * len(divided), *[WHOLE] * len(whole))

        def summed(*arrays, loss=loss):
            return jax.lax.psum(loss(*arrays), "data")

        many = jax.shard_map(with_gradients(summed, count), mesh=mesh, in_specs=specs, out_specs=(WHOLE, specs))
        found[name] = difference(jax.jit(many)(*divided, *whole), expected[name])
    x, y = normal(6, 3), normal(6, 3) + 1
    many = jax.shard_map(
        jax.grad(lambda x, y: jax.lax.psum(transport.transport_divergence(x, y), "data")),
        mesh=mesh,
        in_specs=(DIVIDED, WHOLE),
        out_specs=DIVIDED,
    )
    halves = [jax.grad(transport.transport_divergence)(half, y) for half in np.split(x, 2)]
    return found | {"transport_divergence": difference(jax.jit(many)(x, y), np.concatenate(halves))}


def under_an_explicit_mesh(known, expected):
    x, y, images = normal(4, 3), normal(6, 3) + 1, np.arange(6 * 8 * 8 * 3).reshape(6, 8, 8, 3).astype(np.uint8)
    key = jax.random.key(0)
    others = {  # as functions of arrays that are all divided
        "transport_divergence": (with_gradients(transport.transport_divergence, 2), [x, y]),
        "sinkhorn": (transport.sinkhorn, [normal(4, 6)]),
        "aggregate": (functional.aggregate, [normal(4, 2, 2, 8)]),
        "augment": (lambda images: augment(key, images, flip=True), [images]),
        "train": (training, [normal(4, 8, 8, 3)]),
    }
    expected = expected | {name: jax.device_get(function(*arrays)) for name, (function, arrays) in others.items()}
    mesh = jax.make_mesh((2,), ("data",))
    assert mesh.axis_types == (jax.sharding.AxisType.Explicit,)
    jax.set_mesh(mesh)
    found = {}
    for name, loss, divided, whole in known:
        value = with_gradients(loss, len(divided) + len(whole))(*jax.device_put(divided, DIVIDED), *whole)
        assert jax.typeof(value[1][0]).sharding.spec[0] == "data"
        found[name] = difference(value, expected[name])
    for name, (function, arrays) in others.items():
        found[name] = difference(function(*jax.device_put(arrays, DIVIDED)), expected[name])
    return found


def training(x):
    """Returns a network's loss in training mode, with the agreement of its capsules, and its gradient."""
    graphdef, params, stats = split_model(build(ENCAPNET, rngs=nnx.Rngs(0)))

    def loss(params, x):
        scores, agreement = nnx.merge(graphdef, params, stats).training_scores(x)
        return jnp.sin(scores).sum() + agreement

    return jax.jit(jax.value_and_grad(loss))(params, x)


def difference(found, expected):
    """Returns the largest difference, relative to an array's largest value or a hundredth of the largest of all."""
    found, expected = (list(map(np.asarray, jax.tree.leaves(jax.device_get(tree)))) for tree in (found, expected))
    largest = max(np.abs(b).max() for b in expected)
    return max(
        float(np.abs(np.subtract(a, b, dtype=float)).max() / max(np.abs(b).max(), largest / 100))
        for a, b in zip(found, expected, strict=True)
    )


def main():
    known = list(cases())
    expected = {
        name: jax.device_get(with_gradients(loss, len(divided) + len(whole))(*divided, *whole))
        for name, loss, divided, whole in known
    }
    # The mesh of explicit axes stays set.
    found = {"shard_map": in_shard_map(known, expected), "explicit": under_an_explicit_mesh(known, expected)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
