"""What must hold so that a GPU neither waits nor does work twice; none of it needs a GPU to be seen."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from training_fixtures import TINY, made_dataset

from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.loop import Loop
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.run import fit
from seanet_jax.training.step import EvalMetrics, Images, abstract_state, make_eval_step, make_train_step
from seanet_jax.training.trainer import Trainer

TWO_CLASSES = dataclasses.replace(TINY, num_classes=2)
BATCH = 8
# More images than all of a step's temporary arrays could hold: a copy of them would show.
LARGE = made_dataset(train=4000, test=1000)


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def lower(config, mode):
    """The real training or evaluation step of a network, and the shapes of its state."""
    mesh, descent = sharding.make_mesh(), optimizer(TrainConfig(), 5)
    model, state = abstract_state(config, descent)
    if mode == "train":
        step = make_train_step(model, descent, LARGE, mesh, Recipe(batch_size=BATCH))
        data = shapes(Images(LARGE.train_images, LARGE.train_labels))
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.jit(step).lower(state, data, data.labels, key), state
    step = make_eval_step(model, LARGE, mesh)
    batch = shapes(Images(LARGE.test_images[:BATCH], LARGE.test_labels[:BATCH]))
    metrics = shapes(EvalMetrics.zero(config.num_classes))
    return jax.jit(step).lower(metrics, state.params, state.batch_stats, batch), state


def operations(lowered):
    """Every operation of the program that XLA is given. Those of a function come once for each of its calls."""
    functions = {one.attributes["sym_name"].value: one for one in lowered.compiler_ir("stablehlo").body.operations}

    def walk(operation):
        for region in operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    yield inner.operation
                    yield from walk(inner.operation)
                    if inner.operation.name == "func.call":
                        yield from walk(functions[inner.attributes["callee"].value])

    return list(walk(functions["main"]))


def around_steps(monkeypatch, context):
    """Has ``fit`` take the steps of every epoch inside ``context(loop, state)``."""
    real = Loop._take_steps

    def take_steps(loop, state, *arguments, **keywords):
        with context(loop, state):
            return real(loop, state, *arguments, **keywords)

    monkeypatch.setattr(Loop, "_take_steps", take_steps)


def after_every_step(monkeypatch, look):
    """Calls ``look(state, images)`` with what each step of ``fit`` was given."""
    real = jax.stages.Compiled.__call__

    def call(compiled, state, images, *others):
        result = real(compiled, state, images, *others)
        look(state, images)
        return result

    monkeypatch.setattr(jax.stages.Compiled, "__call__", call)


# Half precision


NETWORKS = {
    "stage": {},
    "block": {"aggregate_placement": "block"},
    "preactivated": {"preactivation": True, "stage_sizes": (2, 2)},
    "plain": {"squeeze_excite": False, "aggregate_placement": "none"},
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bfloat16_reaches_all_convolutions_and_matrix_products_but_the_classifiers(network, mode):
    lowered, state = lower(dataclasses.replace(TWO_CLASSES, dtype="bfloat16", **NETWORKS[network]), mode)
    ranks = [leaf.ndim for leaf in jax.tree.leaves(state.params)]
    # Forward, input gradient and weight gradient; nobody needs the gradient of the images.
    passes, of_images = (3, 1) if mode == "train" else (1, 0)
    expected = {
        "stablehlo.convolution": passes * ranks.count(4) - of_images,
        "stablehlo.dot_general": passes * ranks.count(2),
    }
    for name, number in expected.items():
        products = [operation for operation in operations(lowered) if operation.name == name]
        assert len(products) == number > 0
        dtypes = [tuple(str(value.type.element_type) for value in product.operands) for product in products]
        # Rounded to bfloat16, the largest scores of an image could tie.
        of_classifier = passes if name == "stablehlo.dot_general" else 0
        assert dtypes.count(("f32", "f32")) == of_classifier
        assert dtypes.count(("bf16", "bf16")) == number - of_classifier


def test_bfloat16_leaves_parameters_optimizer_and_statistics_in_float32():
    lowered, state = lower(dataclasses.replace(TWO_CLASSES, dtype="bfloat16"), "train")
    new_state, metrics = lowered.out_info
    for kept in (state, shapes(new_state), shapes(metrics)):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(kept)} == {"float32", "int32"}
    assert shapes(new_state) == state


# Transfers


def forbid_transfers(monkeypatch):
    # What a CPU cannot show is the other direction: there device arrays are the host's own memory.
    around_steps(monkeypatch, lambda *_: jax.transfer_guard_host_to_device("disallow_explicit"))


@pytest.mark.parametrize("several", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_steps_of_an_epoch_send_nothing_to_the_device(several, tiny, monkeypatch):
    forbid_transfers(monkeypatch)
    assert fit(tiny(log_every=1, steps_per_call=several))["finished"]


@pytest.mark.slow
def test_images_sent_to_the_device_in_every_step_would_be_seen(tiny, monkeypatch):
    forbid_transfers(monkeypatch)

    def keep_images_on_the_host(loop, state):
        loop._trainer.images = jax.device_get(loop._trainer.images)
        return contextlib.nullcontext()

    around_steps(monkeypatch, keep_images_on_the_host)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        fit(tiny())


# Memory


@pytest.mark.slow
def test_a_step_takes_over_the_memory_of_the_old_state_and_leaves_the_images(tiny, monkeypatch):
    taken_over = []

    def look(state, images):
        taken_over.append({leaf.is_deleted() for leaf in jax.tree.leaves(state)})
        assert not any(leaf.is_deleted() for leaf in images)

    after_every_step(monkeypatch, look)
    fit(tiny())
    # The state after an epoch is in a checkpoint's hands, which on a CPU, and only there, holds the device's memory.
    del taken_over[5::5]
    assert taken_over == [{True}] * 13


@pytest.mark.slow
def test_every_step_reads_the_same_uint8_images(tiny, monkeypatch):
    seen = []

    def look(state, images):
        seen.append(images.images.unsafe_buffer_pointer())
        everywhere = [array for array in jax.live_arrays() if array.shape == images.images.shape]
        assert {str(array.dtype) for array in everywhere} == {"uint8"}

    after_every_step(monkeypatch, look)
    fit(tiny())
    assert len(seen) == 15
    assert len(set(seen)) == 1


@pytest.mark.parametrize("several", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_program_updates_all_of_the_state_in_place_and_does_not_copy_the_data_set(several, tiny):
    trainer = Trainer(tiny(steps_per_call=several), LARGE, sharding.make_mesh(), {})
    state = trainer.initial_state()
    lowered = trainer.lower_train_step(several)
    images, *others = jax.tree.leaves(lowered.args_info[0][1:])
    assert (images.shape, images.dtype) == (LARGE.train_images.shape, jnp.uint8)
    assert max(math.prod(other.shape) for other in others) == len(LARGE.train_labels)
    memory = lowered.compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size <= memory.alias_size_in_bytes < size + LARGE.train_images.nbytes
    assert memory.temp_size_in_bytes < LARGE.train_images.nbytes


def test_several_steps_in_a_call_are_one_loop_with_the_step_in_it_once(tiny):
    trainer = Trainer(tiny(steps_per_call=3), made_dataset(), sharding.make_mesh(), {})
    counts = {}
    for several in (1, 3):
        names = [operation.name for operation in operations(trainer.lower_train_step(several))]
        counts[several] = {name: names.count(f"stablehlo.{name}") for name in ("convolution", "dot_general", "while")}
    assert counts[3] == counts[1] | {"while": counts[1]["while"] + 1}
    assert counts[1]["dot_general"] > 0


def test_only_a_batch_becomes_floating_point():
    lowered, _ = lower(TWO_CLASSES, "train")
    count = len(LARGE.train_images)
    whole = [
        value.type
        for operation in operations(lowered)
        for value in operation.results
        if count in getattr(value.type, "shape", ()) and "f" in str(value.type.element_type)
    ]
    assert whole == []


# Compilation


@pytest.fixture
def compiled():
    """Names of the functions compiled while a test runs, in their order."""
    names = []

    def listen(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_everything_is_compiled_once_and_by_the_end_of_the_first_epoch(tiny, monkeypatch, compiled):
    @contextlib.contextmanager
    def mark(loop, state):
        compiled.append("steps")
        yield
        compiled.append("evaluation")

    around_steps(monkeypatch, mark)
    config = tiny(validation_fraction=0.25, batch_size=6)
    for run in (config, dataclasses.replace(config, epochs=6, resume=True)):
        compiled.clear()
        fit(run)
        first = compiled.index("steps")
        second = compiled.index("steps", first + 1)
        assert compiled.count("jit(train_step)") == compiled[:first].count("jit(train_step)") == 1
        assert compiled[first + 1] == "evaluation"
        assert compiled.count("jit(eval_step)") == 1  # for validation and test
        assert compiled[second:] == ["steps", "evaluation"] * 2
