"""The training loop: steps, epochs, evaluations, records and checkpoints."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

import jax

from seanet_jax.errors import RunError
from seanet_jax.training import processes
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.interrupt import StoppedError, StopRequest
from seanet_jax.training.progress import Progress
from seanet_jax.training.records import Record, best_record, has_stalled, is_evaluated
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import Metrics, TrainState
from seanet_jax.training.stopwatch import Stopwatch
from seanet_jax.training.tensorboard import Events
from seanet_jax.training.trainer import Trainer, loss_and_accuracy

# Number of calls that the host may be ahead of the device: enough that the device never waits for Python.
_CALLS_AHEAD = 2

# Longest time until a loss that is not finite is noticed. A device that takes hundreds of steps per second should not
# wait for the host after each of them.
_SECONDS_BETWEEN_REPORTS = 0.5


AfterEpoch = Callable[[Record], bool | None]
"""A function that is called after each epoch with a copy of its record, and ends the run if it returns True."""


class TrainingDivergedError(RunError):
    """The training loss or a parameter became NaN or infinite."""


class Call(NamedTuple):
    """The steps that one call of a compiled program takes.

    Attributes:
        last: Number of its last step.
        size: Number of its steps.
        metrics: Metrics after each of its steps; with a leading axis if there are several.
    """

    last: int
    size: int
    metrics: Metrics

    @property
    def numbers(self) -> range:
        """The numbers of its steps."""
        return range(self.last - self.size + 1, self.last + 1)

    def steps(self) -> Iterator[tuple[int, Metrics]]:
        """Returns the number of each step and the metrics after it. Waits for the device if there are several."""
        if self.size == 1:
            yield self.last, self.metrics
            return
        # Of a part of an array on the device, the index would be sent to the device.
        metrics = jax.device_get(self.metrics)
        for index, number in enumerate(self.numbers):
            yield number, Metrics(*(total[index] for total in metrics))


class Loop:
    """The training loop of one call of ``fit``.

    If several processes train together, each runs this loop. They take the same decisions at the same steps, so that
    all take part in every collective. Only the first process writes records and TensorBoard events.

    Args:
        trainer: The fixed parts of the run.
        train_steps: The compiled training steps, by the number of steps in a call; see ``Trainer.calls``.
        stop: The request to stop, checked before each step.
        folder: The run's folder, for the records.
        checkpoints: The run's checkpoints, which all processes save together.
        events: The run's TensorBoard events.
        history: Records of the epochs before.
        stopwatch: Measures the time since the last record.
        seconds: If the run continues inside an epoch, the seconds that its earlier steps took; None if unknown.
        after_epoch: See ``fit``.
    """

    def __init__(
        self,
        trainer: Trainer,
        train_steps: Mapping[int, jax.stages.Compiled],
        stop: StopRequest,
        folder: RunFolder,
        checkpoints: Checkpoints,
        events: Events,
        history: list[Record],
        stopwatch: Stopwatch,
        seconds: float | None = None,
        after_epoch: AfterEpoch | None = None,
    ):
        self._after_epoch = after_epoch
        self._is_asked_to_end = False
        self._trainer = trainer
        self._train_steps = train_steps
        self._stop = stop
        self._folder = folder
        self._checkpoints = checkpoints
        self._events = events
        self._records = list(history)
        self._stopwatch = stopwatch
        self._seconds_before = seconds
        self._saved: tuple[int, int] | None = None  # step of the newest checkpoint and its number of records

    def run(self, state: TrainState) -> list[Record]:
        """Trains to the end of the run.

        Args:
            state: The training state to start from.

        Returns:
            All records of the run, those of the history included.

        Raises:
            TrainingDivergedError: If the loss or a parameter became NaN or infinite.
            StoppedError: If the run was asked to stop. A checkpoint is saved.
            RunError: If a file could not be written.
        """
        trainer, config = self._trainer, self._trainer.config
        step = int(state.step)
        self._progress = Progress(
            step=step,
            last_step=trainer.last_step,
            steps_per_epoch=trainer.steps_per_epoch,
            batch_size=config.batch_size,
            log_every=config.log_every,
            eval_every=config.eval_every,
        )
        self._saved = (step, len(self._records)) if step else None
        with contextlib.closing(self._progress):
            return self._train(state, step)

    def _train(self, state: TrainState, step: int) -> list[Record]:
        trainer = self._trainer
        recorded = self._records[-1]["step"] if self._records else 0
        if step != recorded and (step % trainer.steps_per_epoch == 0 or step == trainer.last_step):
            # The run was stopped after an epoch's last step and before its evaluation: only that is left of the epoch.
            self._progress.begin_epoch(step, self._seconds_before)
            self._end_epoch(state, step)
            self._seconds_before = None
        while step < trainer.last_step and not self._ends_early():
            epoch = step // trainer.steps_per_epoch
            end = min((epoch + 1) * trainer.steps_per_epoch, trainer.last_step)
            order = trainer.order(epoch)
            self._progress.begin_epoch(end, self._seconds_before)
            self._seconds_before = None
            while step < end:
                state, step = self._take_steps(state, order, step, self._next_pause(step, end))
                self._check_finite(state, step)
                if step < end:
                    self._save(state, step)
                    self._stop_if_asked(state, step)
            self._end_epoch(state, step)
        return self._records

    def _next_pause(self, step: int, end: int) -> int:
        """Returns the next step at which a checkpoint is due or the epoch ends."""
        every = self._trainer.config.checkpoint_steps
        return end if every is None else min(end, (step // every + 1) * every)

    def _take_steps(self, state: TrainState, order: jax.Array, step: int, pause: int) -> tuple[TrainState, int]:
        """Takes steps of one epoch until ``pause``, or until the run is asked to stop.

        The metrics of a step are read only once later steps are on their way to the device, and only now and then.
        Reading them earlier would leave the device idle.
        """
        running: collections.deque[Call] = collections.deque()
        finished: list[Call] = []
        reported = time.perf_counter()
        while step < pause or running:
            if self._stop.requested():
                pause = step
            if step < pause:
                several = self._trainer.steps_per_call
                size = several if step + several <= pause else 1
                program = self._train_steps[size]
                state, metrics = program(state, self._trainer.images, order, self._trainer.augment_key)
                step += size
                running.append(Call(step, size, metrics))
            if running and (len(running) > _CALLS_AHEAD or step == pause):
                call = running.popleft()
                jax.block_until_ready(call.metrics)
                finished.append(call)
                due = time.perf_counter() - reported >= _SECONDS_BETWEEN_REPORTS
                if due or call.last == pause or any(map(self._progress.is_due, call.numbers)):
                    self._report(finished)
                    finished.clear()
                    reported = time.perf_counter()
        return state, step

    def _report(self, calls: Sequence[Call]) -> None:
        """Reports the progress at the last step of some finished calls, and at those before it that are due.

        Raises:
            TrainingDivergedError: If the loss is not finite. Its message names the first step at which it was not.
        """
        *before, (step, metrics) = [pair for call in calls for pair in call.steps()]
        loss, accuracy = loss_and_accuracy(metrics)
        if math.isfinite(loss) or self._trainer.config.on_nan == "continue":
            for number, of_step in before:
                if self._progress.is_due(number):
                    self._progress.step(number, *loss_and_accuracy(of_step))
            self._progress.step(step, loss, accuracy)
            return
        # The loss is a sum over the epoch: once it is not finite it stays so, and the last step shows it for all.
        every = [*before, (step, metrics)]
        step, loss = next((n, lo) for n, m in every if not math.isfinite(lo := loss_and_accuracy(m)[0]))
        self._diverged(step, f"the training loss is {loss}")

    def _diverged(self, step: int, what: str) -> NoReturn:
        epoch = (step - 1) // self._trainer.steps_per_epoch + 1
        raise TrainingDivergedError(
            f"{what} in epoch {epoch} at step {step}, learning rate {self._trainer.learning_rate(step - 1):g}; "
            "the last checkpoint stays. A smaller --learning-rate usually helps"
        )

    def _save(self, state: TrainState, step: int) -> None:
        if self._saved != (step, len(self._records)):
            records = list(self._records)
            if not records or records[-1]["step"] != step:
                records.append({"step": step, "seconds": self._progress.seconds, **self._stopwatch.so_far()})
            with self._stopwatch.part("saving"):
                self._checkpoints.save(step, state, records)
            self._saved = (step, len(self._records))

    def _check_finite(self, state: TrainState, step: int) -> None:
        """Checks the state before it is saved, so that every checkpoint can be continued from."""
        # A finite loss is not enough: it is computed from the parameters before the step, not from those after it.
        if self._trainer.config.on_nan == "stop" and not self._trainer.all_finite(state):
            self._diverged(step, "parameters are NaN or infinite")

    def _stop_if_asked(self, state: TrainState, step: int) -> None:
        if self._stop.signal is None:
            return
        self._save(state, step)
        self._checkpoints.close()
        raise StoppedError(
            self._stop.signal,
            f"stopped by {self._stop.signal.name} at step {step}, of which a checkpoint is saved",
        )

    def _end_epoch(self, state: TrainState, step: int) -> None:
        """Evaluates, records and saves, after an epoch or where the run ends inside one."""
        trainer = self._trainer
        timing = self._progress.end_steps()
        whole = step % trainer.steps_per_epoch == 0
        record: Record = {
            "epoch": step // trainer.steps_per_epoch if whole else step / trainer.steps_per_epoch,
            "step": step,
            "learning_rate": float(f"{trainer.learning_rate(step - 1):.6g}"),  # not 0.0199999995, as float32 would show
        }
        # A network that was trained elsewhere comes without metrics of its last epoch.
        if int(state.metrics.num_images):
            record["train_loss"], record["train_accuracy"] = loss_and_accuracy(state.metrics)
        if step == trainer.last_step or step % (trainer.steps_per_epoch * trainer.config.eval_every) == 0:
            record |= self._evaluate(state, step)
        if self._after_epoch is not None:
            asked = self._after_epoch({**record, **timing})
            self._is_asked_to_end = processes.from_first(bool(asked))
            if self._is_asked_to_end and not is_evaluated(record):
                record |= self._evaluate(state, step)  # the end of a run always is

        # Earlier checkpoints are written before this epoch is recorded, so records of two epochs prove that there was a
        # checkpoint (see RunFolder.check_records). An epoch is long enough to write one, so this rarely waits.
        with self._stopwatch.part("saving"):
            self._checkpoints.wait()
        record |= timing | self._stopwatch.lap()
        self._records.append(record)
        if processes.is_first():
            self._folder.append(record)
            with self._folder.writing(self._folder.tensorboard):
                self._events.write(record)
        self._progress.end_epoch(record)
        ends = step == trainer.last_step or self._ends_early()
        is_due = ends or (whole and record["epoch"] % trainer.config.checkpoint_every == 0)
        if is_due or best_record(self._records) is record:
            self._save(state, step)
        self._stop_if_asked(state, step)

    def _ends_early(self) -> bool:
        return self._is_asked_to_end or has_stalled(self._records, self._trainer.config.patience)

    def _evaluate(self, state: TrainState, step: int) -> Record:
        """Returns what the network, and its moving average, get right."""
        with self._stopwatch.part("evaluation"):
            return self._evaluated(state, step)

    def _evaluated(self, state: TrainState, step: int) -> Record:
        trainer, found = self._trainer, Record()
        networks = {"": (state.params, state.batch_stats)} | ({} if state.ema is None else {"ema_": state.ema})
        for prefix, network in networks.items():
            for split, evaluation in trainer.evaluations.items():
                with self._progress.evaluating(evaluation.num_images) as advance:
                    metrics = evaluation(*network, self._stop, advance)
                if metrics is None:
                    self._stop_if_asked(state, step)
                else:
                    found |= {f"{prefix}{split}_{name}": value for name, value in metrics.items()}
        if trainer.config.class_weights == "balanced":
            split = next(iter(trainer.evaluations))
            found["selection_accuracy"] = found[f"{split}_mean_class_accuracy"]
        return found
