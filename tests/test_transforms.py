"""What transforms, meshes and flags of JAX and Flax must not change: every module and network under each of them.

The matrix is ``PARTS`` times ``COLUMNS``, ``FLAGS`` and ``PROCESSES``. A new module or transform is a new row of one of
these. Each cell computes, in training and in evaluation, the results of two batches, the batch statistics after each,
and the gradients of a loss with respect to the parameters and the images. It compares them with what one device
computes without the transform.

What needs two devices is computed by a process that runs this file.
"""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seanet_jax import Aggregate, EncapNet, EncapNetConfig, ResidualBlock, SEANet, SEANetConfig, SqueezeExcite
from seanet_jax.layers.aggregates import LearnedAggregate, RandomAggregate
from seanet_jax.layers.modules import BatchNorm, Conv, ConvTranspose, Linear
from seanet_jax.models.encapnet import Agreement, CapsuleBlock

BATCHES, IMAGES = 2, 4
SEANET = {"stage_sizes": (1,), "widths": (8,), "stem_width": 4, "reduction": 4, "num_classes": 3}
ENCAPNET = EncapNetConfig(widths=(4, 4, 4, 4), stem_width=4, groups=2, image_size=8, num_classes=3)


# The rows.


class Part(NamedTuple):
    """A module or network.

    Attributes:
        make: Returns the module, given ``rngs``.
        shape: Shape of one image.
        modes: "train" and "eval"; "eval" alone if the module does the same in both.
        call: Applies the module to a batch.
        bound: Largest difference that is allowed, relative to the largest value of an array.
        divides: Whether a batch can be shared by two devices, if batch normalization averages over both.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    shape: tuple[int, ...] = (8, 8, 4)
    modes: tuple[str, ...] = ("eval",)
    call: Callable[[Any, jax.Array], jax.Array] = lambda module, x: module(x)
    bound: float = 1e-4
    divides: bool = True


def layer(kind, *arguments, modes=("eval",), **options):
    return Part(lambda rngs: kind(*arguments, **options, rngs=rngs), modes=modes)


def network(kind, config, **options):
    return Part(lambda rngs: kind(config, rngs=rngs), (8, 8, 3), ("train", "eval"), **options)


PARTS = {
    "Linear": layer(Linear, 4, 6),
    "Conv": layer(Conv, 4, 6, 3, bias_init=jax.nn.initializers.normal()),
    "Conv lax": layer(Conv, 4, 6, 3, stride=2, groups=2, method="lax"),
    "Conv patches": layer(Conv, 4, 6, 3, stride=2, method="patches"),
    "Conv patches 5x5": layer(Conv, 4, 6, 5, groups=2, method="patches"),
    "Conv patches 1x1": layer(Conv, 4, 6, 1, stride=2, method="patches"),
    "Conv winograd4": layer(Conv, 4, 6, 3, method="winograd4"),
    "ConvTranspose": layer(ConvTranspose, 4, 6, 3, stride=2),
    "BatchNorm": Part(lambda rngs: BatchNorm(4), modes=("train", "eval")),
    "BatchNorm groups": Part(lambda rngs: BatchNorm(4, groups=2), modes=("train", "eval"), divides=False),
    "SqueezeExcite": layer(SqueezeExcite, 4, 2),
    "Aggregate sum": Part(lambda rngs: Aggregate(2)),
    "Aggregate max": Part(lambda rngs: Aggregate(2, "max")),
    "Aggregate random": Part(lambda rngs: RandomAggregate(4, 2)),
    "Aggregate learned": Part(lambda rngs: LearnedAggregate(4, 2)),
    "ResidualBlock": layer(ResidualBlock, 4, 8, stride=2, reduction=2, modes=("train", "eval")),
    "SEANet": network(SEANet, SEANetConfig(**SEANET)),
    "SEANet preactivated": network(SEANet, SEANetConfig(**SEANET, preactivation=True, aggregate_placement="block")),
    # In evaluation only: in training, rounding to bfloat16 switches ReLUs of so small a network.
    "SEANet bfloat16": network(SEANet, SEANetConfig(**SEANET, dtype="bfloat16"), bound=0.2)._replace(modes=("eval",)),
    "CapsuleBlock": layer(
        CapsuleBlock, 4, 4, 3, stride=2, cores=1, aide=True, config=ENCAPNET, modes=("train", "eval")
    )._replace(bound=1e-3),
    # How far the capsules of a smaller map disagree with those of a larger one, over a batch.
    "Agreement": layer(Agreement, 4, 4, stride=2, config=ENCAPNET, modes=("train", "eval"))._replace(
        call=lambda module, x: module(x[:, ::2, ::2], x), bound=1e-3, divides=False
    ),
    # Gradients of biases before a normalization cancel, so that little more than rounding is left of them.
    "EncapNet": network(EncapNet, ENCAPNET, bound=1e-2),
}


class Case(NamedTuple):
    """A part in one of its modes, as columns take it.

    Attributes:
        part: The part.
        mode: "train" or "eval".
        graphdef: Structure of the module in this mode.
    """

    part: Part
    mode: str
    graphdef: nnx.GraphDef

    def module(self, params, batch_stats):
        """Returns the module with the given values."""
        return nnx.merge(self.graphdef, params, batch_stats, copy=True)

    def apply(self, params, batch_stats, x):
        """Returns the result of one batch, and the batch statistics after it."""
        module = self.module(params, batch_stats)
        return self.part.call(module, x), nnx.state(module, nnx.BatchStat)


@functools.cache
def made(name):
    """Returns the module of a part, whose running averages differ from those of a batch."""
    module = PARTS[name].make(nnx.Rngs(0))
    for variable in jax.tree.leaves(
        nnx.state(module, nnx.BatchStat), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    ):
        variable.set_value(variable.get_value() + jnp.linspace(0.1, 0.4, variable.get_value().size))
    return module


def case(name, mode, module=None):
    module = nnx.clone(made(name) if module is None else module)
    module.set_attributes(use_running_average=mode == "eval", raise_if_not_found=False)
    return Case(PARTS[name], mode, nnx.split(module, nnx.Param, nnx.BatchStat)[0])


# The columns. Each returns a function from the values of a module and both batches to their results, and the statistics
# after each batch.


def stacked(found):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def one_after_another(case):
    """Without a transform. This is what all others are compared with."""
    return lambda params, batch_stats, xs: stacked([case.apply(params, batch_stats, x) for x in xs])


def by_checkpoint(case):
    apply = jax.checkpoint(case.apply)
    return lambda params, batch_stats, xs: stacked([apply(params, batch_stats, x) for x in xs])


def by_map(case):
    return lambda params, batch_stats, xs: jax.lax.map(lambda x: case.apply(params, batch_stats, x), xs)


def by_vmap(case):
    return jax.vmap(case.apply, (None, None, 0))


def by_nnx(transform):
    """Returns a column that applies a transform of Flax to a function of a module and a batch."""

    def column(case):
        call = transform(case.part.call)

        def apply(params, batch_stats, x):
            module = case.module(params, batch_stats)
            return call(module, x), nnx.state(module, nnx.BatchStat)

        return lambda params, batch_stats, xs: stacked([apply(params, batch_stats, x) for x in xs])

    return column


def by_nnx_vmap(case):
    """Each batch has batch statistics of its own, and all have the same parameters."""

    def apply(params, batch_stats, xs):
        module = case.module(params, stacked([batch_stats] * BATCHES))
        axes = nnx.StateAxes({nnx.BatchStat: 0, ...: None})
        results = nnx.vmap(case.part.call, in_axes=(axes, 0))(module, xs)
        return results, nnx.state(module, nnx.BatchStat)

    return apply


def by_nnx_scan(case):
    """The scan carries the module, so that there are no statistics after the first batch alone to compare."""

    def apply(params, batch_stats, xs):
        module = case.module(params, batch_stats)
        scan = nnx.scan(lambda module, x: (module, case.part.call(module, x)), out_axes=(nnx.Carry, 0))
        return scan(module, xs)[1], None

    return apply


def by_view(case):
    """The module is in the other mode, and a view of it in this one."""

    def call(module, x):
        module.set_attributes(use_running_average=case.mode == "train", raise_if_not_found=False)
        view = nnx.view(module, use_running_average=case.mode == "eval", raise_if_not_found=False)
        return case.part.call(view, x)

    return by_nnx(lambda _: call)(case)


def by_copy(copied):
    """Returns a column that copies the module."""

    def column(case):
        module = copied(case.module(*nnx.split(made_of(case), nnx.Param, nnx.BatchStat)[1:]))
        return one_after_another(case._replace(graphdef=nnx.split(module, nnx.Param, nnx.BatchStat)[0]))

    return column


def made_of(case):
    return made(next(name for name, part in PARTS.items() if part is case.part))


COLUMNS = {
    "jit": one_after_another,
    "jax.checkpoint": by_checkpoint,
    "lax.map": by_map,
    "jax.vmap": by_vmap,
    "nnx.jit": by_nnx(nnx.jit),
    "nnx.remat": by_nnx(nnx.remat),
    "nnx.vmap": by_nnx_vmap,
    "nnx.scan": by_nnx_scan,
    "nnx.view": by_view,
    "deepcopy": by_copy(copy.deepcopy),
    "pickle": by_copy(lambda module: pickle.loads(pickle.dumps(module))),
    "split and merge": by_copy(lambda module: nnx.merge(*nnx.split(module))),
}
FLAGS = {
    "jax_numpy_rank_promotion=raise": lambda: jax.numpy_rank_promotion("raise"),
    "jax_numpy_dtype_promotion=strict": lambda: jax.numpy_dtype_promotion("strict"),
    "jax_debug_nans": lambda: jax.debug_nans(True),
    "jax_enable_x64": lambda: jax.enable_x64(True),
    "jax_transfer_guard=disallow": lambda: jax.transfer_guard("disallow"),
    "jax_disable_jit": jax.disable_jit,
}


# What is computed and compared.


@functools.cache
def given(name):
    """Returns parameters, batch statistics, both batches, and the weights of their results in the loss."""
    part = PARTS[name]
    _, params, batch_stats = nnx.split(made(name), nnx.Param, nnx.BatchStat)
    random = np.random.default_rng(0)
    xs = jnp.asarray(random.normal(size=(BATCHES, IMAGES, *part.shape)), jnp.float32)
    results = jax.eval_shape(one_after_another(case(name, "eval")), params, batch_stats, xs)[0]
    return params, batch_stats, xs, jnp.asarray(random.normal(size=results.shape), jnp.float32)


def measured(name, column=one_after_another, module=None):
    """Returns a function of what ``given`` returns, which computes by mode all that a cell compares."""
    applied = {mode: column(case(name, mode, module)) for mode in PARTS[name].modes}

    def measure(params, batch_stats, xs, weights):
        found = {}
        for mode, apply in applied.items():

            def loss(params, xs, apply=apply):
                results, moved = apply(params, batch_stats, xs)
                return (results * weights).sum(), (results, moved)

            gradients, (results, moved) = jax.grad(loss, (0, 1), has_aux=True)(params, xs)
            found[mode] = {
                "results": results,
                "batch_stats": None if moved is None else nnx.to_pure_dict(moved),
                "gradients": (nnx.to_pure_dict(gradients[0]), gradients[1]),
            }
        return found

    return measure


@functools.cache
def expected(name):
    """Returns what one device computes without a transform."""
    return jax.device_get(jax.jit(measured(name))(*given(name)))


def difference(found, others):
    """Returns the largest difference of two trees of arrays, relative to the largest value of an array, and where."""
    worst = 0.0, "nowhere"
    assert jax.tree.structure(found) == jax.tree.structure(others)
    pairs = zip(jax.tree.leaves_with_path(jax.device_get(found)), jax.tree.leaves(others), strict=True)
    for (path, array), other in pairs:
        where = jax.tree_util.keystr(path)
        assert (array.dtype, array.shape) == (other.dtype, other.shape), where
        array, other = np.asarray(array, np.float64), np.asarray(other, np.float64)
        ratio = np.abs(array - other).max(initial=0) / max(np.abs(other).max(initial=0), 1e-2)
        worst = max(worst, (float(np.nan_to_num(ratio, nan=np.inf)), where))
    return worst


def check(name, found):
    others = {mode: dict(arrays) for mode, arrays in expected(name).items()}
    for mode, arrays in found.items():
        if arrays["batch_stats"] is None:
            others[mode]["batch_stats"] = None
    worst, where = difference(found, others)
    assert worst < PARTS[name].bound, (worst, where)


# Two devices, in a process of their own. A function returns what it found for a part, and what that must equal.


def varying(tree):
    """Marks what is the same on all devices as something that could differ, as results of parts of a batch do."""
    return jax.tree.map(
        lambda leaf: (
            leaf if "data" in jax.typeof(leaf).manual_axis_type.varying else jax.lax.pcast(leaf, "data", to="varying")
        ),
        tree,
    )


SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()


def in_shard_map(name):
    """The gradient of a function that has a ``shard_map`` in it. Each device has one batch."""
    mesh = jax.make_mesh((BATCHES,), ("data",), axis_types=(AxisType.Auto,))

    def column(case):
        own = one_after_another(case)
        return jax.shard_map(
            lambda *values: varying(own(*values)), mesh=mesh, in_specs=(WHOLE, WHOLE, SPLIT), out_specs=SPLIT
        )

    return jax.jit(measured(name, column))(*given(name)), expected(name)


def gradient_in_shard_map(name):
    """The gradient inside a ``shard_map``, as in a data-parallel training step."""
    measure, mesh = measured(name), jax.make_mesh((BATCHES,), ("data",), axis_types=(AxisType.Auto,))

    def own(*values):
        found = measure(*values)
        for arrays in found.values():
            arrays["results"], arrays["batch_stats"] = varying((arrays["results"], arrays["batch_stats"]))
        return found

    specs = {"results": SPLIT, "batch_stats": SPLIT, "gradients": (WHOLE, SPLIT)}
    mapped = jax.shard_map(
        own, mesh=mesh, in_specs=(WHOLE, WHOLE, SPLIT, SPLIT), out_specs=dict.fromkeys(PARTS[name].modes, specs)
    )
    return jax.jit(mapped)(*given(name)), expected(name)


def over_the_axis(name):
    """Inside a ``shard_map``, with the statistics of both batches together, as if they were one."""
    params, batch_stats, xs, weights = given(name)
    module = nnx.clone(made(name))
    module.set_attributes(axis_name="data", raise_if_not_found=False)
    mesh = jax.make_mesh((BATCHES,), ("data",), axis_types=(AxisType.Auto,))

    def column(case):
        specs = (WHOLE, WHOLE, PartitionSpec(None, "data"))
        # With the axis's name, the averages are the same on all devices, which shard_map checks.
        return jax.shard_map(one_after_another(case), mesh=mesh, in_specs=specs, out_specs=(specs[2], WHOLE))

    joined = params, batch_stats, *(array.reshape(1, BATCHES * IMAGES, *array.shape[2:]) for array in (xs, weights))
    return jax.jit(measured(name, column, module))(*joined), jax.jit(measured(name))(*joined)


def on_a_mesh(axis_type):
    """Returns a function for batches that are sharded over a mesh, of which each device has half."""

    def computed(name):
        mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
        params, batch_stats, *arrays = given(name)
        specs = [PartitionSpec(None, "data") if array.ndim > 1 else PartitionSpec(None) for array in arrays]
        arrays = [jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(arrays, specs, strict=True)]
        with jax.set_mesh(mesh):
            return jax.jit(measured(name))(params, batch_stats, *arrays), expected(name)

    return computed


PROCESSES = {
    "shard_map": in_shard_map,
    "gradient in shard_map": gradient_in_shard_map,
    "shard_map with axis_name": over_the_axis,
    "automatic mesh": on_a_mesh(AxisType.Auto),
    "explicit mesh": on_a_mesh(AxisType.Explicit),
}


QUICK = ("BatchNorm", "SqueezeExcite")
# These take as long to compile as all others together, and what they are made of has all columns, in rows of its own
# or inside CapsuleBlock or SEANet. tests/support/operations_on_two_devices.py has two of them under an explicit mesh.
SOME_COLUMNS = {"nnx.remat", "jax.vmap", *FLAGS, "gradient in shard_map"}
OF_SOME_COLUMNS = ("ResidualBlock", "SEANet preactivated", "SEANet bfloat16", "EncapNet")


def is_cell(name, column):
    if name in OF_SOME_COLUMNS:
        return column in SOME_COLUMNS
    # These compute on an automatic mesh in tests/training/test_sharding.py.
    if column == "automatic mesh" and name in ("SEANet", "Agreement"):
        return False
    # Over an axis of a mesh, statistics are of the whole batch, unlike what a part of a batch gives here.
    return PARTS[name].divides or column != "shard_map with axis_name"


def cells(columns):
    """Returns a parameter for each cell of some columns. All but a few are slow."""
    return [
        pytest.param(name, column, marks=[] if name in QUICK and column not in PROCESSES else pytest.mark.slow)
        for name in PARTS
        for column in columns
        if is_cell(name, column)
    ]


@pytest.mark.parametrize(("name", "column"), cells(COLUMNS))
def test_a_transform_changes_nothing(name, column):
    check(name, jax.jit(measured(name, COLUMNS[column]))(*given(name)))


@pytest.mark.parametrize(("name", "flag"), cells(FLAGS))
def test_a_flag_changes_nothing(name, flag):
    values, part = given(name), PARTS[name]
    expected(name)
    modules = [case(name, mode).module(*values[:2]) for mode in part.modes]
    x = values[2][0]
    with FLAGS[flag]():
        # Operation by operation, as one tries a module out, and compiled.
        results = [part.call(module, x) for module in modules]
        found = None if flag == "jax_disable_jit" else jax.jit(measured(name))(*values)
    for mode, result in zip(part.modes, results, strict=True):
        worst, _ = difference(result, expected(name)[mode]["results"][0])
        assert worst < part.bound
    if found is not None:
        check(name, found)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in PARTS
        if name not in ("Agreement", "EncapNet")  # agreement is one of several images
    ],
)
def test_the_gradient_of_each_image_is_that_of_the_image_alone(name):
    params, batch_stats, xs, weights = given(name)
    apply = case(name, "eval").apply

    def gradient(x, weights):
        return jax.grad(lambda params: (apply(params, batch_stats, x[None])[0][0] * weights).sum())(params)

    found = jax.jit(jax.vmap(gradient))(xs[0], weights[0])
    alone = stacked([jax.jit(gradient)(x, w) for x, w in zip(xs[0], weights[0], strict=True)])
    worst, where = difference(nnx.to_pure_dict(found), nnx.to_pure_dict(jax.device_get(alone)))
    assert worst < PARTS[name].bound, (worst, where)


@pytest.mark.parametrize(("name", "_"), cells(["optimizer"]))
def test_an_optimizer_of_flax_takes_the_step_of_the_gradient(name, _):
    params, batch_stats, xs, weights = given(name)
    mode = PARTS[name].modes[0]
    module = case(name, mode).module(params, batch_stats)
    optimizer = nnx.Optimizer(module, optax.sgd(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        def loss(module):
            return sum((PARTS[name].call(module, x) * w).sum() for x, w in zip(xs, weights, strict=True))

        optimizer.update(module, nnx.grad(loss)(module))

    step(module, optimizer)
    moved = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    steps = jax.tree.map(lambda before, after: (before - after) / 0.5, nnx.to_pure_dict(params), moved)
    worst, where = difference(steps, expected(name)[mode]["gradients"][0])
    assert worst < PARTS[name].bound, (worst, where)


@pytest.fixture(scope="module")
def process_results():
    """What a process of two devices found, by column and part: None, or what is wrong."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command, variables = [sys.executable, __file__], os.environ | {"XLA_FLAGS": flags}
    return json.loads(subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize(("name", "process"), cells(PROCESSES))
def test_devices_change_nothing(name, process, process_results):
    assert process_results[process][name] is None


def main():
    """Prints, for each column of two devices and each part, null or what is wrong."""
    found = {process: {} for process in PROCESSES}
    for name, part in PARTS.items():
        for process, computed in PROCESSES.items():
            if not is_cell(name, process):
                continue
            try:
                worst, where = difference(*computed(name))
                found[process][name] = None if worst < part.bound else f"{worst} {where}"
            except Exception as error:
                found[process][name] = f"{type(error).__name__}: {error}"
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
