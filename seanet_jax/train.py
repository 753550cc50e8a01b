"""``fit(config)``: the training loop."""

import collections
import contextlib
import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding

from seanet_jax import parallel
from seanet_jax.checkpoint import Checkpoints
from seanet_jax.config import TrainConfig
from seanet_jax.data import Dataset, load
from seanet_jax.errors import InputError, RunError
from seanet_jax.interrupt import StoppedError, StopRequest
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


class TrainingDivergedError(RunError):
    """The training loss, or a parameter, is no longer a finite number."""


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
        RunError: a file could not be written; the checkpoints stay.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written.
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
    dataset = _load_dataset(config)
    data_sha256 = dataset.sha256()
    folder.check_data(config, data_sha256)
    trainer = _Trainer(config, dataset, mesh, options)
    lowered = trainer.lower_train_step()
    with StopRequest() as stop, folder.locked(config), Checkpoints(folder.path) as checkpoints:
        saved = _restore(trainer, folder, checkpoints) if config.resume else None
        state, history = saved or (None, [])
        if state is not None and history and history[-1]["step"] == int(state.step) == trainer.last_step:
            return _finished(trainer, folder, history)
        print(
            f"{config.model} on {config.dataset}: {trainer.parameters:,} parameters, {trainer.last_step} steps, "
            f"{trainer.steps_per_epoch} an epoch, in {folder.path}",
            flush=True,
        )
        if config.resume:
            print(f"resuming {folder.path} at step {0 if state is None else int(state.step)}", flush=True)
        # A stop inside an epoch is not part of the history: the continued run will have that epoch whole.
        history = [record for record in history if record["step"] % trainer.steps_per_epoch == 0]
        started = time.perf_counter()
        train_step = lowered.compile()
        state = trainer.initial_state() if state is None else state
        print(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
        folder.open(config, trainer.model_config, data_sha256, int(state.step), history)
        with contextlib.closing(Events(folder.tensorboard, int(state.step))) as events:
            history = _Loop(trainer, train_step, stop, folder, checkpoints, events, history).run(state)
        checkpoints.close()
        return _conclude(trainer, folder, history)


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
    sgd = optimizer(TrainConfig(**config), steps_per_epoch=1)
    template = jax.eval_shape(lambda: create_state(model, sgd))
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

    def __call__(self, state: TrainState, stop: StopRequest) -> tuple[float, float] | None:
        """Mean loss in nats and accuracy as a fraction; None if a request to stop came before the end."""
        metrics = jax.device_put(Metrics.zero(), self._placement)
        for start in self._starts:
            if stop.signal is not None:
                return None
            metrics = jax.block_until_ready(self._step(metrics, state.params, state.batch_stats, self._data, start))
        return _loss_and_accuracy(metrics)


def _loss_and_accuracy(metrics: Metrics) -> tuple[float, float]:
    """Mean loss in nats and accuracy as a fraction; waits for the device."""
    loss_sum, correct, images = jax.device_get(metrics)
    return float(loss_sum) / int(images), int(correct) / int(images)


def _all_finite(state: TrainState) -> jax.Array:
    """Whether nothing that a later step builds on is NaN or infinite."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


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
        self.all_finite = jax.jit(_all_finite)
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

    def abstract_state(self) -> TrainState:
        return self._placed(self._create_state.eval_shape(self._init_key))

    def lower_train_step(self) -> jax.stages.Lowered:
        order = self._placed(self._order.eval_shape(self._order_key, 0, num_images=len(self.images.labels)))
        return self._train_step.lower(self.abstract_state(), self.images, order, self.augment_key)

    def _placed(self, abstract: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._placement), abstract
        )


class _Loop:
    """One call of ``fit``: what changes while it trains, beside the state."""

    def __init__(
        self,
        trainer: _Trainer,
        train_step: jax.stages.Compiled,
        stop: StopRequest,
        folder: RunFolder,
        checkpoints: Checkpoints,
        events: Events,
        history: list[Record],
    ):
        self._trainer = trainer
        self._train_step = train_step
        self._stop = stop
        self._folder = folder
        self._checkpoints = checkpoints
        self._events = events
        self._records = list(history)
        self._saved: tuple[int, int] | None = None  # step and number of records of the newest checkpoint

    def run(self, state: TrainState) -> list[Record]:
        """Trains to the end; all of the run's records."""
        trainer, config = self._trainer, self._trainer.config
        step = int(state.step)
        self._progress = Progress(
            step=step,
            last_step=trainer.last_step,
            steps_per_epoch=trainer.steps_per_epoch,
            batch_size=config.batch_size,
            log_every=config.log_every,
        )
        self._saved = (step, len(self._records)) if step else None
        recorded = self._records[-1]["step"] if self._records else 0
        if step != recorded and (step % trainer.steps_per_epoch == 0 or step == trainer.last_step):
            # It was stopped between the epoch's last step and its end.
            self._progress.begin_epoch(step)
            self._end_epoch(state, step)
        while step < trainer.last_step:
            epoch = step // trainer.steps_per_epoch
            end = min((epoch + 1) * trainer.steps_per_epoch, trainer.last_step)
            order = trainer.order(epoch)
            self._progress.begin_epoch(end)
            while step < end:
                state, step = self._take_steps(state, order, step, self._next_pause(step, end))
                self._check_finite(state, step)
                if step < end:
                    self._save_latest(state, step)
                    self._stop_if_asked(state, step)
            self._end_epoch(state, step)
        return self._records

    def _next_pause(self, step: int, end: int) -> int:
        """Where the next checkpoint is due, or the epoch ends."""
        every = self._trainer.config.checkpoint_steps
        return end if every is None else min(end, (step // every + 1) * every)

    def _take_steps(self, state: TrainState, order: jax.Array, step: int, pause: int) -> tuple[TrainState, int]:
        """Takes steps of one epoch. Metrics are read now and then, of steps behind which others are on their way."""
        running: collections.deque[tuple[int, Metrics]] = collections.deque()
        finished: list[tuple[int, Metrics]] = []
        looked = time.perf_counter()
        while step < pause or running:
            if self._stop.signal is not None:
                pause = step
            if step < pause:
                state, metrics = self._train_step(state, self._trainer.images, order, self._trainer.augment_key)
                step += 1
                running.append((step, metrics))
            if running and (len(running) > _STEPS_AHEAD or step == pause):
                finished.append(jax.block_until_ready(running.popleft()))
                number = finished[-1][0]
                due = time.perf_counter() - looked >= _SECONDS_BETWEEN_LOOKS
                if due or number == pause or self._progress.wants(number):
                    self._look_at(finished)
                    finished.clear()
                    looked = time.perf_counter()
        return state, step

    def _look_at(self, steps: list[tuple[int, Metrics]]) -> None:
        """Reports the last of some steps; the others matter only if something went wrong since the last look."""
        step, metrics = steps[-1]
        loss, accuracy = _loss_and_accuracy(metrics)
        if math.isfinite(loss) or self._trainer.config.on_nan == "continue":
            self._progress.step(step, loss, accuracy)
            return
        # A sum that is not finite stays so for the rest of the epoch.
        step, loss = next((n, lo) for n, m in steps if not math.isfinite(lo := _loss_and_accuracy(m)[0]))
        self._diverged(step, f"the training loss is {loss}")

    def _diverged(self, step: int, what: str) -> NoReturn:
        epoch = (step - 1) // self._trainer.steps_per_epoch + 1
        raise TrainingDivergedError(
            f"{what} in epoch {epoch} at step {step}, learning rate {self._trainer.learning_rate(step - 1):g}; "
            "the last checkpoint stays. A smaller --learning-rate usually helps"
        )

    def _save_latest(self, state: TrainState, step: int) -> None:
        if self._saved != (step, len(self._records)):
            self._checkpoints.save_latest(step, state, self._records)
            self._saved = (step, len(self._records))

    def _check_finite(self, state: TrainState, step: int) -> None:
        """Keeps what cannot be continued from out of the checkpoints."""
        # The loss of a step is that of the parameters before it: those after it may be the first that are not finite.
        if self._trainer.config.on_nan == "stop" and not self._trainer.all_finite(state):
            self._diverged(step, "parameters are NaN or infinite")

    def _stop_if_asked(self, state: TrainState, step: int) -> None:
        if self._stop.signal is None:
            return
        self._save_latest(state, step)
        self._checkpoints.close()
        raise StoppedError(
            self._stop.signal,
            f"stopped by {self._stop.signal.name} at step {step}; the same command with --resume goes on from there",
        )

    def _end_epoch(self, state: TrainState, step: int) -> None:
        """Evaluates, records and saves: after an epoch, and where a run is told to end inside one."""
        trainer = self._trainer
        timing = self._progress.end_steps()
        whole = step % trainer.steps_per_epoch == 0
        record: Record = {
            "epoch": step // trainer.steps_per_epoch if whole else step / trainer.steps_per_epoch,
            "step": step,
            "learning_rate": float(f"{trainer.learning_rate(step - 1):.6g}"),  # float32 would show: 0.0199999995
        }
        measured = {"train": _loss_and_accuracy(state.metrics)}
        for name, evaluation in trainer.evaluations.items():
            if (found := evaluation(state, self._stop)) is None:
                self._stop_if_asked(state, step)
            else:
                measured[name] = found
        for name, (loss, accuracy) in measured.items():
            record |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        record |= timing

        accuracy_name = f"{trainer.chosen_on}_accuracy"
        is_best = all(record[accuracy_name] > earlier[accuracy_name] for earlier in self._records)
        # The end of a run inside an epoch must not take the place of a whole one: a continued run forgets it.
        is_best = is_best and (whole or not self._records)
        # Records never run ahead of the checkpoints by more than an epoch, whose length is time enough to write one.
        self._checkpoints.wait()
        self._records.append(record)
        self._folder.append(record)
        with self._folder.writing(self._folder.tensorboard):
            self._events.write(record)
        self._progress.end_epoch(record)
        if is_best:
            self._checkpoints.save_best(step, state, self._records)
        if step == trainer.last_step or (whole and record["epoch"] % trainer.config.checkpoint_every == 0):
            self._save_latest(state, step)
        self._stop_if_asked(state, step)


def _restore(trainer: _Trainer, folder: RunFolder, checkpoints: Checkpoints) -> tuple[TrainState, list[Record]] | None:
    """State and records to continue from; None if the run was killed before its first checkpoint."""
    if not checkpoints.exist():
        folder.check_records()
        return None
    state, history = checkpoints.restore_latest(trainer.abstract_state())
    if int(state.step) > trainer.last_step:
        raise InputError(
            f"{folder.path} is at step {int(state.step)} already; "
            f"ask for more than {trainer.last_step} steps with --epochs and --max-steps"
        )
    return state, history


def _finished(trainer: _Trainer, folder: RunFolder, records: list[Record]) -> dict[str, Any]:
    """The summary of a run that has no step left; written if the run was killed just before that."""
    summary, step = folder.read_summary(), records[-1]["step"]
    if summary is None or summary["last"] != records[-1]:
        return _conclude(trainer, folder, records)
    print(f"{folder.path} is at step {step} already: nothing to do", flush=True)
    return summary


def _conclude(trainer: _Trainer, folder: RunFolder, records: list[Record]) -> dict[str, Any]:
    """Writes and says what a run came to."""
    config, last = trainer.config, records[-1]
    whole = [record for record in records if record["step"] % trainer.steps_per_epoch == 0]
    best = max(whole or records, key=lambda record: record[f"{trainer.chosen_on}_accuracy"])
    title = f"{config.model} on {config.dataset}, {trainer.parameters:,} parameters, seed {config.seed}"
    with folder.writing(folder.curves):
        draw_curves(records, folder.curves, title=title, dataset=config.dataset, epochs=config.epochs)
    summary = folder.write_summary(
        {
            "dataset": config.dataset,
            "model": config.model,
            "parameters": trainer.parameters,
            "seed": config.seed,
            "finished": trainer.last_step == trainer.total_steps,
            "last": last,
            "best": best,
            "best_chosen_on": {"val": "validation", "test": "test"}[trainer.chosen_on],
            "training_seconds": round(sum(record["seconds"] for record in records), 3),
            "environment": process_settings(trainer.compiler_options),
        }
    )
    for name, record in (("last", last), (f"best on {summary['best_chosen_on']} images", best)):
        print(f"test accuracy {record['test_accuracy']:.2%} at epoch {record['epoch']:.4g} ({name})", flush=True)
    print(f"{format_duration(summary['training_seconds'])} of training; everything is in {folder.path}", flush=True)
    return summary
