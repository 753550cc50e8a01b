"""``fit(config)``: a run from its config to its summary."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from seanet_jax import parallel, processes
from seanet_jax.checkpoint import Checkpoints
from seanet_jax.config import TrainConfig
from seanet_jax.data import Dataset, load
from seanet_jax.errors import InputError
from seanet_jax.interrupt import StopRequest
from seanet_jax.loop import Loop
from seanet_jax.report import Events, draw_curves, format_duration, say
from seanet_jax.run_folder import Record, RunFolder, process_settings, versions
from seanet_jax.step import TrainState
from seanet_jax.trainer import Trainer


def fit(config: TrainConfig, *, compiler_options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Trains a network as the config says and leaves a run folder behind (its files: ``seanet_jax.run_folder``).

    Nothing is written before every input is known to be usable. It uses all of JAX's devices. Of several processes
    (``seanet_jax.processes``) all call it alike; the first writes and prints, and what one finds wrong, all raise.

    Args:
        config: of the run.
        compiler_options: of XLA, for the training and the evaluation step; recorded in ``summary.json``.

    Returns:
        The contents of ``summary.json``.

    Raises:
        InputError: the config, the data or the run folder cannot be used, or the processes differ.
        TrainingDivergedError: the loss became NaN or infinite; the last checkpoint stays.
        RunError: a file could not be written, or another process is gone; the checkpoints stay.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written.
    """
    with processes.noticing_loss():
        return _fit(config, dict(compiler_options or {}))


def _fit(config: TrainConfig, options: dict[str, str]) -> dict[str, Any]:
    # Folders of data may differ from machine to machine; what is in them is compared below.
    asked = {name: value for name, value in config.to_json().items() if name != "data_dir"}
    processes.demand_alike(**asked, **options, **versions())
    mesh = parallel.make_mesh(require_gpu=config.require_gpu)
    parallel.check_divisible(mesh, config.batch_size)
    folder = RunFolder(config.run_folder)
    with processes.agreed():
        folder.check(config)
    say(f"device: {parallel.describe_devices()}")
    for name, value in process_settings(options).items():
        say(f"{name}={value}")
    dataset = _load_dataset(config)
    data_sha256 = _check_images(dataset)
    trainer = Trainer(config, dataset, mesh, options)
    with processes.agreed():
        folder.check_data(config, data_sha256, trainer.model_config.batch_groups)
    lowered = trainer.lower_train_step()
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        with processes.agreed():
            if processes.is_first():
                stack.enter_context(folder.locked(config))
        folder.check_shared()
        checkpoints = stack.enter_context(Checkpoints(folder.path))
        saved = _restore(trainer, folder, checkpoints) if config.resume else None
        state, history = saved or (None, [])
        if state is not None and history and history[-1]["step"] == int(state.step) == trainer.last_step:
            return _finished(trainer, folder, history)
        say(
            f"{config.model} on {config.dataset}: {trainer.parameters:,} parameters, {trainer.last_step} steps, "
            f"{trainer.steps_per_epoch} an epoch, in {folder.path}"
        )
        if config.resume:
            say(f"resuming {folder.path} at step {0 if state is None else int(state.step)}")
        # A stop inside an epoch is not part of the history: the continued run will have that epoch whole.
        history = [record for record in history if record["step"] % trainer.steps_per_epoch == 0]
        started = time.perf_counter()
        train_step = lowered.compile()
        state = trainer.initial_state() if state is None else state
        say(f"compiled in {time.perf_counter() - started:.1f} s")
        with processes.agreed():
            if processes.is_first():
                folder.open(config, trainer.model_config, dataset.image_spec, data_sha256, int(state.step), history)
        with contextlib.closing(Events(folder.tensorboard, int(state.step))) as events:
            history = Loop(trainer, train_step, stop, folder, checkpoints, events, history).run(state)
        checkpoints.close()
        return _conclude(trainer, folder, history)


def _load_dataset(config: TrainConfig) -> Dataset:
    found: list[Dataset] = []
    # The first process prepares the data before the others read them.
    for turn in (True, False):
        with processes.agreed():
            if processes.is_first() == turn:
                found.append(load_dataset(config))
    return found[0]


def _check_images(dataset: Dataset) -> str:
    """The SHA-256 of all images, after each process has compared a part of its own with the first process's."""
    count = jax.process_count()
    if count > 1:
        of_parts = [dataset.sha256(part, count) for part in range(count)] if processes.is_first() else None
        this = jax.process_index()
        with processes.agreed():
            if dataset.sha256(this, count) != processes.of_first(of_parts)[this]:
                raise InputError(
                    f"--data-dir: the images of {dataset.name} are others than in process 0; give all the same, and "
                    "if they are, delete what is cached of them in seanet_jax's folder of XDG_CACHE_HOME or ~/.cache"
                )
    return str(processes.of_first(dataset.sha256() if processes.is_first() else None))


def load_dataset(config: TrainConfig) -> Dataset:
    """The images of a run: limited, and with those held out that it holds out.

    Raises:
        InputError: they cannot be read, or are fewer than a batch.
    """
    # The first process reads and checks all images. Each of the others reads those for its devices, and as many for
    # the comparison below.
    dataset = load(config.dataset, data_dir=config.data_dir, mapped=not processes.is_first())
    dataset = dataset.limit(config.limit_train, config.limit_test)
    if config.validation_fraction:
        dataset = dataset.split_validation(config.validation_fraction)
    images = len(dataset.train_images)
    if images < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size}; it must be at most {images}, the training images there are"
        )
    return dataset


def _restore(trainer: Trainer, folder: RunFolder, checkpoints: Checkpoints) -> tuple[TrainState, list[Record]] | None:
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


def _finished(trainer: Trainer, folder: RunFolder, records: list[Record]) -> dict[str, Any]:
    """The summary of a run that has no step left; written if the run was killed just before that."""
    summary, step = folder.read_summary(), records[-1]["step"]
    if summary is None or summary["last"] != records[-1]:
        return _conclude(trainer, folder, records)
    say(f"{folder.path} is at step {step} already: nothing to do")
    return summary


def _conclude(trainer: Trainer, folder: RunFolder, records: list[Record]) -> dict[str, Any]:
    """Writes and says what a run came to."""
    config, last = trainer.config, records[-1]
    whole = [record for record in records if record["step"] % trainer.steps_per_epoch == 0]
    best = max(whole or records, key=lambda record: record[f"{trainer.chosen_on}_accuracy"])
    summary = {
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
        "device": parallel.describe_devices(),
        "versions": versions(),
    }
    if processes.is_first():
        title = f"{config.model} on {config.dataset}, {trainer.parameters:,} parameters, seed {config.seed}"
        with folder.writing(folder.curves):
            kind = trainer.model_config.scores
            draw_curves(records, folder.curves, kind, title=title, dataset=config.dataset, epochs=config.epochs)
        folder.write_summary(summary)
    for name, record in (("last", last), (f"best on {summary['best_chosen_on']} images", best)):
        say(f"test accuracy {record['test_accuracy']:.2%} at epoch {record['epoch']:.4g} ({name})")
    say(f"{format_duration(summary['training_seconds'])} of training; everything is in {folder.path}")
    return summary
