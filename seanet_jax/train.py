"""``fit(config)``: the training loop."""

import collections
import contextlib
import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding

from seanet_jax import parallel
from seanet_jax.checkpoint import Checkpoints
from seanet_jax.config import TrainConfig
from seanet_jax.data import Dataset, load
from seanet_jax.errors import InputError
from seanet_jax.models import SEANet, SEANetConfig
from seanet_jax.recipes import learning_rate_schedule, optimizer
from seanet_jax.report import Events, Progress, draw_curves, format_duration
from seanet_jax.run_folder import Record, RunFolder, process_settings
from seanet_jax.step import (
    EvalStep,
    Images,
    Metrics,
    TrainState,
    create_state,
    epoch_order,
    make_eval_step,
    make_train_step,
)

# Steps the host may be ahead of the device: enough that the device never waits for Python.
_STEPS_AHEAD = 2

# A loss gone wrong is noticed this soon; a device that takes hundreds of steps a second is not asked after each.
_SECONDS_BETWEEN_LOOKS = 0.5


class TrainingDivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


def fit(config: TrainConfig, *, compiler_options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Trains a network as the config says and leaves a run folder behind (its files: ``seanet_jax.run_folder``).

    Nothing is written before every input is known to be usable.

    Args:
        config: of the run.
        compiler_options: of XLA, for the training and the evaluation step; recorded in ``summary.json``.

    Returns:
        The contents of ``summary.json``.

    Raises:
        InputError: the config, the data or the run folder cannot be used.
        TrainingDivergedError: the loss became NaN or infinite; the last checkpoint stays.
    """
    mesh = parallel.make_mesh(require_gpu=config.require_gpu)
    parallel.check_divisible(mesh, "batch_size", config.batch_size)
    parallel.check_divisible(mesh, "eval_batch_size", config.eval_batch_size)
    folder = RunFolder(config.run_folder)
    folder.check(config)
    options = dict(compiler_options or {})
    print(f"device: {parallel.describe_devices()}", flush=True)
    for name, value in process_settings(options).items():
        print(f"{name}={value}", flush=True)
    trainer = _Trainer(config, _load_dataset(config), mesh, options)
    with Checkpoints(folder.path) as checkpoints:
        saved = checkpoints.latest_step() if config.resume else None
        if saved is not None and saved >= trainer.last_step:
            print(f"{folder.path} is at step {saved} already: nothing to do", flush=True)
            return folder.read_summary()
        print(
            f"{config.model} on {config.dataset}: {trainer.parameters:,} parameters, {trainer.last_step} steps, "
            f"{trainer.steps_per_epoch} an epoch, in {folder.path}",
            flush=True,
        )
        started = time.perf_counter()
        train_step = trainer.lower_train_step().compile()
        state = trainer.initial_state()
        print(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
        history: list[Record] = []
        if saved is not None:
            state, history = checkpoints.restore_latest(state)
            print(f"resuming {folder.path} at step {int(state.step)}", flush=True)
        elif config.resume:
            print(f"{folder.path} holds no checkpoint yet: starting at step 0", flush=True)
        folder.open(config, trainer.model_config, history)
        with contextlib.closing(Events(folder.tensorboard, int(state.step))) as events:
            return _Loop(trainer, train_step, folder, checkpoints, events, history).run(state)


def load_model(run_folder: str | Path, which: str = "best") -> SEANet:
    """The trained network of a run, in evaluation mode.

    Args:
        run_folder: of a run.
        which: "best" or "latest" checkpoint.

    Raises:
        InputError: the folder is not that of a run, or holds no such checkpoint.
    """
    if which not in ("best", "latest"):
        raise InputError(f"which is {which!r}; it must be best or latest")
    config, model_config = RunFolder(Path(run_folder)).read_config()
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in model_config.items()}
    model = SEANet(SEANetConfig(**fields), rngs=nnx.Rngs(0))
    template = create_state(model, optimizer(TrainConfig(**config), steps_per_epoch=1))
    with Checkpoints(Path(run_folder)) as checkpoints:
        restore = checkpoints.restore_best if which == "best" else checkpoints.restore_latest
        state, _ = restore(template)
    nnx.update(model, state.params, state.batch_stats)
    model.eval()
    return model


def _load_dataset(config: TrainConfig) -> Dataset:
    dataset = load(config.dataset, data_dir=config.data_dir).limit(config.limit_train, config.limit_test)
    if config.validation_fraction:
        dataset = dataset.split_validation(config.validation_fraction)
    images = len(dataset.train_images)
    if images < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size}; it must be at most {images}, the training images there are"
        )
    return dataset


class _Evaluation:
    """Loss and accuracy on one fixed set of images, each counted once.

    Args:
        step: for batches of the size.
        images: of the set.
        labels: likewise.
        size: images per step.
        placement: of the images.
    """

    def __init__(self, step: EvalStep, images: np.ndarray, labels: np.ndarray, size: int, placement: Sharding):
        padding = -len(images) % size
        images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
        labels = np.concatenate([labels, np.full(padding, -1, labels.dtype)])
        self._step = step
        self._data = Images(*jax.device_put((images, labels), placement))
        self._starts = [jax.device_put(np.int32(start), placement) for start in range(0, len(images), size)]
        self._placement = placement

    def __call__(self, state: TrainState) -> tuple[float, float]:
        metrics = jax.device_put(Metrics.zero(), self._placement)
        for start in self._starts:
            metrics = self._step(metrics, state.params, state.batch_stats, self._data, start)
        return _loss_and_accuracy(metrics)


def _loss_and_accuracy(metrics: Metrics) -> tuple[float, float]:
    """Mean loss in nats and accuracy as a fraction; waits for the device."""
    loss_sum, correct, images = jax.device_get(metrics)
    return float(loss_sum) / int(images), int(correct) / int(images)


class _Trainer:
    """What of a run does not change while it trains: network, data on the device, jitted functions, lengths."""

    def __init__(self, config: TrainConfig, dataset: Dataset, mesh: Mesh, compiler_options: dict[str, str]):
        self.config = config
        self.compiler_options = compiler_options
        self.steps_per_epoch = len(dataset.train_images) // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, config.max_steps or self.total_steps)
        # Jitted, because outside of jit the power is compiled anew for every exponent.
        self.learning_rate = jax.jit(learning_rate_schedule(config, self.steps_per_epoch))
        self._placement = placement = parallel.replicated(mesh)
        keys = jax.random.split(jax.random.key(config.seed), 3)
        self._init_key, self._order_key, self.augment_key = jax.device_put(tuple(keys), placement)

        self.model_config = config.model_config(dataset.num_classes, in_channels=dataset.train_images.shape[-1])
        sgd = optimizer(config, self.steps_per_epoch)
        # Jitted, because outside of jit every shape of parameters is compiled on its own.
        self._create_state = jax.jit(
            lambda key: create_state(SEANet(self.model_config, rngs=nnx.Rngs(key)), sgd), out_shardings=placement
        )
        model = nnx.eval_shape(lambda: SEANet(self.model_config, rngs=nnx.Rngs(0)))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        self.images = Images(*jax.device_put((dataset.train_images, dataset.train_labels), placement))
        self._order = jax.jit(epoch_order, static_argnames="num_images", out_shardings=placement)

        jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=placement, compiler_options=compiler_options)
        self._train_step = jit(
            make_train_step(model, sgd, dataset, mesh, batch_size=config.batch_size, use_augmentation=config.augment)
        )
        size = config.eval_batch_size
        eval_step = jit(make_eval_step(model, dataset, mesh, batch_size=size))
        self.evaluations = {}
        if dataset.val_images is not None and dataset.val_labels is not None:
            self.evaluations["val"] = _Evaluation(eval_step, dataset.val_images, dataset.val_labels, size, placement)
        self.evaluations["test"] = _Evaluation(eval_step, dataset.test_images, dataset.test_labels, size, placement)
        # The best epoch is chosen on validation images where there are any.
        self.chosen_on = next(iter(self.evaluations))

    def initial_state(self) -> TrainState:
        return self._create_state(self._init_key)

    def order(self, epoch: int) -> jax.Array:
        return self._order(self._order_key, jnp.int32(epoch), num_images=len(self.images.labels))

    def lower_train_step(self) -> jax.stages.Lowered:
        state = self._create_state.eval_shape(self._init_key)
        order = self._order.eval_shape(self._order_key, 0, num_images=len(self.images.labels))
        placed = functools.partial(jax.ShapeDtypeStruct, sharding=self._placement)
        state, order = jax.tree.map(lambda array: placed(array.shape, array.dtype), (state, order))
        return self._train_step.lower(state, self.images, order, self.augment_key)


class _Loop:
    """One call of ``fit``: what changes while it trains, beside the state."""

    def __init__(
        self,
        trainer: _Trainer,
        train_step: jax.stages.Compiled,
        folder: RunFolder,
        checkpoints: Checkpoints,
        events: Events,
        history: list[Record],
    ):
        self._trainer = trainer
        self._train_step = train_step
        self._folder = folder
        self._checkpoints = checkpoints
        self._events = events
        self._records = list(history)

    def run(self, state: TrainState) -> dict[str, Any]:
        trainer, config = self._trainer, self._trainer.config
        step = int(state.step)
        self._progress = Progress(
            step=step,
            last_step=trainer.last_step,
            steps_per_epoch=trainer.steps_per_epoch,
            batch_size=config.batch_size,
            log_every=config.log_every,
        )
        while step < trainer.last_step:
            epoch = step // trainer.steps_per_epoch
            stop = min((epoch + 1) * trainer.steps_per_epoch, trainer.last_step)
            self._progress.begin_epoch(stop)
            state = self._take_steps(state, trainer.order(epoch), step, stop)
            step = stop
            self._end_epoch(state, step)
        return self._finish()

    def _take_steps(self, state: TrainState, order: jax.Array, step: int, stop: int) -> TrainState:
        """Takes steps of one epoch. Metrics are read now and then, of steps behind which others are on their way."""
        running: collections.deque[tuple[int, Metrics]] = collections.deque()
        finished: list[tuple[int, Metrics]] = []
        looked = time.perf_counter()
        while step < stop or running:
            if step < stop:
                state, metrics = self._train_step(state, self._trainer.images, order, self._trainer.augment_key)
                step += 1
                running.append((step, metrics))
            if len(running) > _STEPS_AHEAD or step == stop:
                finished.append(jax.block_until_ready(running.popleft()))
                number = finished[-1][0]
                due = time.perf_counter() - looked >= _SECONDS_BETWEEN_LOOKS
                if due or number == stop or self._progress.wants(number):
                    self._look_at(finished)
                    finished.clear()
                    looked = time.perf_counter()
        return state

    def _look_at(self, steps: list[tuple[int, Metrics]]) -> None:
        """Reports the last of some steps; the others matter only if something went wrong since the last look."""
        step, metrics = steps[-1]
        loss, accuracy = _loss_and_accuracy(metrics)
        if math.isfinite(loss):
            self._progress.step(step, loss, accuracy)
            return
        # A sum that is not finite stays so for the rest of the epoch.
        step, loss = next((n, lo) for n, m in steps if not math.isfinite(lo := _loss_and_accuracy(m)[0]))
        epoch = (step - 1) // self._trainer.steps_per_epoch + 1
        raise TrainingDivergedError(
            f"the training loss is {loss} in epoch {epoch} at step {step}, "
            f"learning rate {self._trainer.learning_rate(step - 1):g}; the last checkpoint stays. "
            "A smaller --learning-rate usually helps"
        )

    def _end_epoch(self, state: TrainState, step: int) -> None:
        """Evaluates, records and saves: after an epoch, and where a run is told to stop inside one."""
        trainer = self._trainer
        timing = self._progress.end_steps()
        whole = step % trainer.steps_per_epoch == 0
        record: Record = {
            "epoch": step // trainer.steps_per_epoch if whole else step / trainer.steps_per_epoch,
            "step": step,
            "learning_rate": float(f"{trainer.learning_rate(step - 1):.6g}"),  # float32 would show: 0.0199999995
        }
        measured = {"train": _loss_and_accuracy(state.metrics)}
        measured |= {name: evaluation(state) for name, evaluation in trainer.evaluations.items()}
        for name, (loss, accuracy) in measured.items():
            record |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        record |= timing

        accuracy_name = f"{trainer.chosen_on}_accuracy"
        is_best = all(record[accuracy_name] > earlier[accuracy_name] for earlier in self._records)
        self._records.append(record)
        self._folder.append(record)
        self._events.write(record)
        self._progress.end_epoch(record)
        # A stop inside an epoch is not part of the run's history: the continued run will have that epoch whole.
        history = self._records if whole else self._records[:-1]
        if is_best:
            self._checkpoints.save_best(step, state, history)
        if step == trainer.last_step or (whole and record["epoch"] % trainer.config.checkpoint_every == 0):
            self._checkpoints.save_latest(step, state, history)

    def _finish(self) -> dict[str, Any]:
        trainer, config = self._trainer, self._trainer.config
        last = self._records[-1]
        best = max(self._records, key=lambda record: record[f"{trainer.chosen_on}_accuracy"])
        title = f"{config.model} on {config.dataset}, {trainer.parameters:,} parameters, seed {config.seed}"
        draw_curves(self._records, self._folder.curves, title=title, dataset=config.dataset, epochs=config.epochs)
        summary = self._folder.write_summary(
            {
                "dataset": config.dataset,
                "model": config.model,
                "parameters": trainer.parameters,
                "seed": config.seed,
                "finished": trainer.last_step == trainer.total_steps,
                "last": last,
                "best": best,
                "best_chosen_on": {"val": "validation", "test": "test"}[trainer.chosen_on],
                "training_seconds": round(sum(record["seconds"] for record in self._records), 3),
                "environment": process_settings(trainer.compiler_options),
            }
        )
        self._checkpoints.close()
        for name, record in (("last", last), (f"best on {summary['best_chosen_on']} images", best)):
            self._progress.say(f"test accuracy {record['test_accuracy']:.2%} at epoch {record['epoch']:.4g} ({name})")
        self._progress.say(
            f"{format_duration(summary['training_seconds'])} of training; everything is in {self._folder.path}"
        )
        return summary
