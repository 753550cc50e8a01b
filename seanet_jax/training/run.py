"""Trains one network: ``fit(config)`` does a whole run, from its configuration to its summary."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from seanet_jax import jax_settings, provenance
from seanet_jax.data import Dataset
from seanet_jax.data.class_counts import describe_class_counts
from seanet_jax.environment import process_settings, rounding, start_devices, versions
from seanet_jax.errors import InputError
from seanet_jax.json_files import json_value
from seanet_jax.printable import short_repr
from seanet_jax.training import processes, sharding
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.curves import draw_curves
from seanet_jax.training.images import check_images, load_in_turn
from seanet_jax.training.interrupt import StopRequest
from seanet_jax.training.loop import AfterEpoch, Loop
from seanet_jax.training.progress import print_once
from seanet_jax.training.records import Record, best_record, has_stalled, is_evaluated
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import TrainState
from seanet_jax.training.stopwatch import Stopwatch, describe_time, time_spent
from seanet_jax.training.tensorboard import Events
from seanet_jax.training.trainer import Trainer


def fit(
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    compiler_options: Mapping[str, str] | None = None,
    command: str = "",
    after_epoch: AfterEpoch | None = None,
) -> dict[str, Any]:
    """Trains a network and writes the folder of the run.

    ``seanet_jax.training.run_folder`` lists the folder's files. Nothing is written before all inputs are checked. All
    devices that JAX finds are used. If several processes train together (``seanet_jax.training.processes``), each of
    them calls ``fit`` with the same arguments. The first one writes and prints. An error in one process is raised in
    all of them.

    JAX's settings that decide what is computed (``seanet_jax.jax_settings``) are fixed inside, whatever the process has
    set. The settings that change how results are rounded are recorded in ``config.json``. If they differ when a run is
    resumed, a line says so.

    Args:
        config: The run's configuration.
        dataset: The images, if ``config.dataset`` is "arrays"; ``seanet_jax.data.from_arrays`` makes them of arrays.
            Every process gives the same ones, and so does a resumed run.
        compiler_options: Options of XLA for the training step and the evaluation step. They are recorded in
            ``summary.json``.
        command: The command line of this process, which ``summary.json`` records.
        after_epoch: A function that is called after each epoch with a copy of its record, before that is written. If it
            returns True, the run ends there as a finished one, whose ``summary.json`` has "after_epoch" as
            ``stopped_by``. Resuming goes on with it. Of several processes, the first one decides.

    Returns:
        The contents of ``summary.json``.

    Raises:
        InputError: If the config, the data, the run folder or the function cannot be used, or the processes' arguments
            differ.
        TrainingDivergedError: If the loss became NaN or infinite. The last checkpoint stays.
        RunError: If a file could not be written, or another process is gone. The checkpoints stay.
        StoppedError: If the process received SIGTERM, SIGINT or SIGHUP. A checkpoint is saved.
    """
    if after_epoch is not None and not callable(after_epoch):
        raise InputError(f"after_epoch is {short_repr(after_epoch)}; it must be a function of a record, or None")
    start_devices()
    overruled = jax_settings.overruled()
    with jax_settings.fixed(), processes.reporting_lost_process():
        for name, (value, used) in overruled.items():
            print_once(f"{name} is {value} in this process; every run trains with {used}")
        return _fit(config, dataset, dict(compiler_options or {}), command, after_epoch)


def _fit(
    config: TrainConfig, given: Dataset | None, options: dict[str, str], command: str, after_epoch: AfterEpoch | None
) -> dict[str, Any]:
    stopwatch = Stopwatch()
    began: str | None = provenance.now()
    provenance.checkout()  # asked now, as the files may change while the run trains
    # The data may be in different folders on different machines. load_in_turn and check_images compare the images.
    asked = {name: value for name, value in config.to_json().items() if name != "data_dir"}
    processes.check_same(**asked, **options, **jax_settings.recorded(), **versions())
    mesh = sharding.make_mesh(require_gpu=config.require_gpu)
    sharding.check_divisible(mesh, config.batch_size)
    folder = RunFolder(config.run_folder)
    with processes.failing_together():
        folder.check(config)
    print_once(f"device: {sharding.describe_devices()}")
    for name, value in process_settings(options).items():
        print_once(f"{name}={value}")
    dataset = load_in_turn(config, given)
    data_sha256 = check_images(dataset)
    trainer = Trainer(config, dataset, mesh, options)
    with processes.failing_together():
        folder.check_data(config, data_sha256, trainer.model_config.batch_groups)
    with stopwatch.part("compiling"):
        lowered = {trainer.steps_per_call: trainer.lower_train_step(trainer.steps_per_call)}
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        with processes.failing_together():
            if processes.is_first():
                stack.enter_context(folder.locked(config))
        folder.check_shared()
        checkpoints = stack.enter_context(Checkpoints(folder.path))
        saved = _restore(trainer, folder, checkpoints) if config.resume else None
        state, history = saved or (None, [])
        last = history[-1] if history else {}
        ended = is_evaluated(last) and (last["step"] == trainer.last_step or has_stalled(history, config.patience))
        if state is not None and ended and last["step"] == int(state.step):
            return _finished(trainer, folder, history, stopwatch, command)
        print_once(
            f"{config.model} on {config.dataset}: {trainer.parameters:,} parameters, {trainer.last_step} steps, "
            f"{trainer.steps_per_epoch} an epoch, in {folder.path}"
        )
        print_once(describe_class_counts(dataset))
        environment = rounding(options)
        if config.resume:
            if changes := folder.environment_changes(environment):
                print_once(f"results may be rounded differently from here on ({'; '.join(changes)})")
            print_once(f"resuming {folder.path} at step {0 if state is None else int(state.step)}")
        # The record of a stop inside an epoch is dropped: the continued run records that epoch as a whole.
        seconds = None
        if history and not _is_epoch(history[-1], trainer):
            seconds = history[-1]["seconds"]
            stopwatch.carry(history[-1])
        history = [record for record in history if _is_epoch(record, trainer)]
        print_once(_compiling())
        started = time.perf_counter()
        with stopwatch.part("compiling"):
            for steps in trainer.calls(0 if state is None else int(state.step)) - lowered.keys():
                lowered[steps] = trainer.lower_train_step(steps)
            train_steps = {steps: program.compile() for steps, program in lowered.items()}
            state = trainer.initial_state() if state is None else state
        print_once(f"compiled in {time.perf_counter() - started:.1f} s")
        with processes.failing_together():
            if processes.is_first():
                began = folder.open(
                    *(config, trainer.model_config, dataset.image_spec, data_sha256, environment),
                    step=int(state.step),
                    history=history,
                    started=began,
                )
        with contextlib.closing(Events(folder.tensorboard, int(state.step))) as events:
            loop = Loop(
                *(trainer, train_steps, stop, folder, checkpoints, events, history, stopwatch, seconds, after_epoch)
            )
            history = loop.run(state)
        with stopwatch.part("saving"):
            checkpoints.close()
        return _conclude(trainer, folder, history, stopwatch, provenance.collect(began, command))


def _compiling() -> str:
    """Says what the start waits for, and whether it is kept for the next start."""
    how_long = "compiling, which takes about 20 to 60 s"
    cache = jax.config.values["jax_compilation_cache_dir"] if jax.config.values["jax_enable_compilation_cache"] else ""
    if not cache:
        return f"{how_long} at every start, as what is compiled is not kept"
    # Its files have the names of the programs. That one was compiled does not mean that it is of this run.
    if "://" in cache or any(Path(cache).glob("jit_train_step*")):
        return f"{how_long}, or a few seconds if it was compiled before"
    return f"{how_long} the first time; it is kept for the next start"


def _is_epoch(record: Record, trainer: Trainer) -> bool:
    """Whether a record is of a whole epoch, not of a stop inside it or between its last step and its evaluation.

    A run that now ends with an epoch that was not evaluated still has to evaluate that.
    """
    is_whole = "epoch" in record and record["step"] % trainer.steps_per_epoch == 0
    return is_whole and (record["step"] != trainer.last_step or is_evaluated(record))


def _restore(trainer: Trainer, folder: RunFolder, checkpoints: Checkpoints) -> tuple[TrainState, list[Record]] | None:
    """Returns the state and the records to continue from, or None if the run was killed before its first checkpoint."""
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


def _finished(
    trainer: Trainer, folder: RunFolder, records: list[Record], stopwatch: Stopwatch, command: str
) -> dict[str, Any]:
    """Returns the summary of a run with no step left. Writes it if the run was killed just before that."""
    summary, step = folder.read_summary(), records[-1]["step"]
    if summary is None or summary["last"] != json_value(records[-1]):
        return _conclude(trainer, folder, records, stopwatch, provenance.collect(folder.read().started, command))
    print_once(f"{folder.path} is at step {step} already: nothing to do")
    return summary


def _conclude(
    trainer: Trainer,
    folder: RunFolder,
    records: list[Record],
    stopwatch: Stopwatch,
    origin: provenance.Provenance,
) -> dict[str, Any]:
    """Writes the curves and the summary of a finished run, and prints its results."""
    config, last = trainer.config, records[-1]
    best = best_record(records)
    assert best is not None
    stopped_early = last["step"] < trainer.last_step
    by_patience = stopped_early and has_stalled(records, config.patience)
    summary = {
        "dataset": config.dataset,
        "model": config.model,
        "parameters": trainer.parameters,
        "seed": config.seed,
        "finished": stopped_early or trainer.last_step == trainer.total_steps,
        "stopped_early": stopped_early,
        "stopped_by": "patience" if by_patience else "after_epoch" if stopped_early else None,
        "last": last,
        "best": best,
        "best_chosen_on": "validation" if "val" in trainer.evaluations else "test",
        "training_seconds": round(sum(record["seconds"] for record in records), 3),
        "time": time_spent(records, stopwatch.so_far()),
        "provenance": origin,
        "environment": process_settings(trainer.compiler_options),
        "device": sharding.describe_devices(),
        "versions": versions(),
    }
    if processes.is_first():
        title = f"{config.model} on {config.dataset}, {trainer.parameters:,} parameters, seed {config.seed}"
        with folder.writing(folder.curves):
            kind = trainer.model_config.scores
            draw_curves(records, folder.curves, kind, title=title, dataset=config.dataset, epochs=config.epochs)
        folder.write_summary(summary)
    if by_patience:
        print_once(f"stopped early: the last {config.patience} evaluations did not raise the validation accuracy")
    elif stopped_early:
        print_once("stopped early: the function after_epoch asked for it")
    for name, record in (("last", last), (f"best on {summary['best_chosen_on']} images", best)):
        print_once(f"test accuracy {record['test_accuracy']:.2%} at epoch {record['epoch']:.4g} ({name})")
    if "ema_test_accuracy" in last:
        print_once(f"test accuracy {last['ema_test_accuracy']:.2%} of the moving average at the last epoch")
    print_once(f"it took {describe_time(summary['time'])}; everything is in {folder.path}")
    return dict(json_value(summary))
