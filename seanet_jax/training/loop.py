"""The loop over steps and epochs: what changes while a run trains."""

import collections
import math
import time
from typing import NoReturn

import jax

from seanet_jax.errors import RunError
from seanet_jax.training import processes
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.interrupt import StoppedError, StopRequest
from seanet_jax.training.progress import Progress
from seanet_jax.training.run_folder import Record, RunFolder
from seanet_jax.training.step import Metrics, TrainState
from seanet_jax.training.tensorboard import Events
from seanet_jax.training.trainer import Trainer, loss_and_accuracy

# Steps the host may be ahead of the device: enough that the device never waits for Python.
_STEPS_AHEAD = 2

# A loss gone wrong is noticed this soon; a device that takes hundreds of steps a second is not asked after each.
_SECONDS_BETWEEN_REPORTS = 0.5


class TrainingDivergedError(RunError):
    """The training loss, or a parameter, is no longer a finite number."""


class Loop:
    """One call of ``fit``: what changes while it trains, beside the state.

    Of several processes all go through it in step, so that each takes part in every collective; the first alone writes.

    Args:
        trainer: what does not change.
        train_step: compiled.
        stop: asked before each step.
        folder: for the records.
        checkpoints: of all processes together.
        events: for TensorBoard.
        history: records of the epochs before.
    """

    def __init__(
        self,
        trainer: Trainer,
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
            if self._stop.requested():
                pause = step
            if step < pause:
                state, metrics = self._train_step(state, self._trainer.images, order, self._trainer.augment_key)
                step += 1
                running.append((step, metrics))
            if running and (len(running) > _STEPS_AHEAD or step == pause):
                finished.append(jax.block_until_ready(running.popleft()))
                number = finished[-1][0]
                due = time.perf_counter() - looked >= _SECONDS_BETWEEN_REPORTS
                if due or number == pause or self._progress.is_due(number):
                    self._report(finished)
                    finished.clear()
                    looked = time.perf_counter()
        return state, step

    def _report(self, steps: list[tuple[int, Metrics]]) -> None:
        """Reports the last of some steps; the others matter only if something went wrong since the last look."""
        step, metrics = steps[-1]
        loss, accuracy = loss_and_accuracy(metrics)
        if math.isfinite(loss) or self._trainer.config.on_nan == "continue":
            self._progress.step(step, loss, accuracy)
            return
        # A sum that is not finite stays so for the rest of the epoch.
        step, loss = next((n, lo) for n, m in steps if not math.isfinite(lo := loss_and_accuracy(m)[0]))
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
            f"stopped by {self._stop.signal.name} at step {step}, of which a checkpoint is saved",
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
        # A network trained elsewhere comes with nothing of its last epoch's batches.
        measured = {"train": loss_and_accuracy(state.metrics)} if int(state.metrics.num_images) else {}
        for name, evaluation in trainer.evaluations.items():
            if (found := evaluation(state, self._stop)) is None:
                self._stop_if_asked(state, step)
            else:
                measured[name] = found
        for name, (loss, accuracy) in measured.items():
            record |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        record |= timing

        accuracy_name = f"{trainer.selection_split}_accuracy"
        is_best = all(record[accuracy_name] > earlier[accuracy_name] for earlier in self._records)
        # The end of a run inside an epoch must not take the place of a whole one: a continued run forgets it.
        is_best = is_best and (whole or not self._records)
        # Records never run ahead of the checkpoints by more than an epoch, whose length is time enough to write one.
        self._checkpoints.wait()
        self._records.append(record)
        if processes.is_first():
            self._folder.append(record)
            with self._folder.writing(self._folder.tensorboard):
                self._events.write(record)
        self._progress.end_epoch(record)
        if is_best:
            self._checkpoints.save_best(step, state, self._records)
        if step == trainer.last_step or (whole and record["epoch"] % trainer.config.checkpoint_every == 0):
            self._save_latest(state, step)
        self._stop_if_asked(state, step)
