from types import SimpleNamespace

import jax
import numpy as np
import pytest
from training_fixtures import made_dataset

from seanet_jax.training import sharding
from seanet_jax.training.run import fit
from seanet_jax.training.trainer import Evaluation, Trainer, _default_steps_per_call


@pytest.mark.slow
def test_every_epoch_has_an_order_of_its_own_also_after_a_stop(tiny, monkeypatch):
    seen = []

    def order(trainer, epoch):
        seen.append((epoch, tuple(np.asarray(real(trainer, epoch)))))
        return real(trainer, epoch)

    real = Trainer.order
    monkeypatch.setattr(Trainer, "order", order)
    fit(tiny(max_steps=7))
    fit(tiny(resume=True))
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert len({order for _, order in seen}) == 3
    assert len(set(seen)) == 3  # epoch 1, begun before the stop, keeps its order after it


@pytest.mark.parametrize(("fraction", "splits"), [(0.0, ["test"]), (0.25, ["val", "test"])])
def test_validation_images_are_evaluated_where_there_are_any(tiny, fraction, splits):
    dataset = made_dataset()
    dataset = dataset.split_validation(fraction) if fraction else dataset
    trainer = Trainer(tiny(), dataset, sharding.make_mesh(), {})
    assert list(trainer.evaluations) == splits


def test_a_run_ends_at_its_last_step_or_earlier_if_it_is_told_to(tiny):
    for fields, last in (({}, 15), ({"max_steps": 7}, 7), ({"max_steps": 99}, 15)):
        trainer = Trainer(tiny(**fields), made_dataset(), sharding.make_mesh(), {})
        assert (trainer.steps_per_epoch, trainer.total_steps, trainer.last_step) == (5, 15, last)


def test_the_first_state_has_the_shapes_and_shardings_that_a_checkpoint_is_restored_to(tiny):
    trainer = Trainer(tiny(), made_dataset(), sharding.make_mesh(), {})
    state, abstract = trainer.initial_state(), trainer.abstract_state()
    described = [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(abstract)]
    assert described == [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves(state)]
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    assert trainer.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))


def test_an_evaluation_ends_without_a_result_if_the_run_is_asked_to_stop():
    dataset, steps = made_dataset(), []

    def step(metrics, params, batch_stats, batch):
        steps.append(len(batch.images))
        return metrics

    evaluation = Evaluation(step, dataset.test_images, dataset.test_labels, 10, sharding.make_mesh(), 2)
    assert evaluation.num_images == 23
    stop = SimpleNamespace(requested=lambda: len(steps) == 2)
    assert evaluation({}, {}, stop) is None
    assert steps == [10, 10]  # of three batches


def test_an_evaluation_is_two_batches_ahead_of_the_device(monkeypatch):
    events = []
    dataset = made_dataset(test=50)
    evaluation = Evaluation(None, dataset.test_images, dataset.test_labels, 10, sharding.make_mesh(), 2)
    metrics = jax.tree.map(lambda leaf: leaf + 1, evaluation._zero())

    def step(before, params, batch_stats, batch):
        events.append("step")
        return metrics

    evaluation._step = step
    real = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda made: (events.append("wait"), real(made))[1])
    evaluation({}, {}, SimpleNamespace(requested=lambda: False))
    assert events == ["step"] * 2 + ["step", "wait"] * 3


@pytest.mark.parametrize(
    ("backend", "steps", "expected"), [("cpu", 780, 1), ("gpu", 780, 15), ("gpu", 781, 11), ("gpu", 787, 16)]
)
def test_a_gpu_takes_several_steps_in_a_call_by_default(backend, steps, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert _default_steps_per_call(steps) == expected


@pytest.mark.parametrize(
    ("fields", "several", "programs"),
    [
        ({}, 1, {1}),
        ({"steps_per_call": 5}, 5, {5}),
        ({"steps_per_call": 99}, 5, {5}),
        ({"steps_per_call": 3}, 3, {3, 1}),
        ({"steps_per_call": 5, "max_steps": 7}, 5, {5, 1}),
        ({"steps_per_call": 5, "checkpoint_steps": 2}, 2, {2, 1}),
        ({"steps_per_call": 5, "checkpoint_steps": 10}, 5, {5}),
    ],
)
def test_as_few_programs_are_compiled_as_the_run_needs(fields, several, programs, tiny):
    trainer = Trainer(tiny(**fields), made_dataset(), sharding.make_mesh(), {})
    assert (trainer.steps_per_call, trainer.calls(0), trainer.calls(several)) == (several, programs, programs)
    if several > 1:
        assert trainer.calls(several + 1) == {several, 1}
