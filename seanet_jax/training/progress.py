"""The output of a run while it trains: lines of text, and a progress bar on a terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from seanet_jax import console
from seanet_jax.printable import printable_lines
from seanet_jax.training import processes
from seanet_jax.training.records import Record


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds as text: ``42 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_once(line: str) -> None:
    """Prints a line in the first process, above the progress bar if there is one.

    A line that stdout cannot take is dropped, because a run outlives the readers of its output.
    """
    if processes.is_first():
        tqdm.write(printable_lines(line), file=console.stdout)
        console.stdout.flush()


class Progress:
    """Shows the progress of a run: a bar on a terminal, otherwise a line every ``log_every`` steps.

    Args:
        step: Optimizer step at which the run starts.
        last_step: Optimizer step at which the run ends.
        steps_per_epoch: Optimizer steps in one epoch.
        batch_size: Images per step.
        log_every: Steps between lines.
        eval_every: Epochs between evaluations. The last epoch is always evaluated.
    """

    def __init__(
        self, *, step: int, last_step: int, steps_per_epoch: int, batch_size: int, log_every: int, eval_every: int = 1
    ):
        self._last_step = last_step
        self._steps_per_epoch = steps_per_epoch
        self._epochs = -(-last_step // steps_per_epoch)
        self._batch_size = batch_size
        self._log_every = log_every
        self._steps_per_evaluation = eval_every * steps_per_epoch
        self._evaluation = 0.0  # seconds after the steps of the last epoch that was evaluated
        self._step = self._run_began = step
        self._bar: tqdm | None = None
        self._ended: float | None = None  # time at which the epoch's clock was stopped

    def begin_epoch(self, stop: int, seconds: float | None = None) -> None:
        """Starts the clock, and the bar, of an epoch.

        Args:
            stop: Step at which the epoch ends.
            seconds: If the run continues inside an epoch, the seconds that its earlier steps took. None leaves these
                steps out of the epoch's duration, because nothing is known of them.
        """
        self._started, self._ended = time.perf_counter() - (seconds or 0.0), None
        whole = (stop - 1) // self._steps_per_epoch * self._steps_per_epoch
        self._first_step = self._step if seconds is None else whole
        epoch = self._step // self._steps_per_epoch + 1
        self._bar = _new_bar(f"epoch {epoch}/{self._epochs}", stop - self._step, "step")

    def is_due(self, step: int) -> bool:
        """Whether a line is due after this step. A bar never needs a step: it shows those that it is given."""
        in_epoch = (step - 1) % self._steps_per_epoch + 1
        # A line after the run's first step shows at once how fast it is.
        return self._bar is None and (in_epoch % self._log_every == 0 or step == self._run_began + 1)

    def step(self, step: int, loss: float, accuracy: float) -> None:
        """Shows that this step, and all before it, are finished.

        Args:
            step: Optimizer steps done.
            loss: Mean loss over the epoch so far.
            accuracy: Accuracy over the epoch so far, a fraction.
        """
        before, self._step = self._step, step
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.2%}", refresh=False)
            self._bar.update(step - before)
        elif self.is_due(step):
            seconds_per_step = (time.perf_counter() - self._started) / (step - self._first_step)
            print_once(
                f"  epoch {(step - 1) // self._steps_per_epoch + 1}/{self._epochs}, "
                f"step {(step - 1) % self._steps_per_epoch + 1}/{self._steps_per_epoch}: "
                f"loss {loss:.3f}, accuracy {accuracy:.2%}, {self._batch_size / seconds_per_step:.0f} images/s"
            )

    def end_steps(self) -> dict[str, float]:
        """Stops the epoch's clock. Returns the duration of its steps in seconds, and their images per second."""
        self.close()
        self._ended = time.perf_counter()
        images = (self._step - self._first_step) * self._batch_size
        return {"seconds": self.seconds, "images_per_second": round(images / (self._ended - self._started), 1)}

    @property
    def seconds(self) -> float:
        """The duration of the epoch's steps so far, in seconds."""
        return round((time.perf_counter() if self._ended is None else self._ended) - self._started, 3)

    def close(self) -> None:
        """Removes the bar, so that whatever is printed next begins on a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def evaluating(self, images: int) -> Iterator[Callable[[int], object]]:
        """A context with a bar of the images that are evaluated, if the output is a terminal.

        Args:
            images: Number of images.

        Yields:
            Function that is called with the number of images that are done.
        """
        if (bar := _new_bar("evaluating", images, " images")) is None:
            yield lambda done: None
            return
        with bar:
            yield bar.update

    def end_epoch(self, record: Record) -> None:
        """Prints the epoch's results and the time left, which includes evaluations."""
        parts = [f"epoch {record['epoch']:.4g}/{self._epochs}", f"lr {record['learning_rate']:g}"]
        for name in ("train", "val", "test"):
            if f"{name}_loss" in record:
                parts.append(f"{name} loss {record[f'{name}_loss']:.3f} accuracy {record[f'{name}_accuracy']:.2%}")
            if f"ema_{name}_accuracy" in record:
                parts.append(f"moving average {record[f'ema_{name}_accuracy']:.2%}")
        # There were no steps if the run was stopped after the epoch's last step and is resumed for its evaluation.
        if steps := self._step - self._first_step:
            ended = time.perf_counter() if self._ended is None else self._ended
            if "test_loss" in record:
                self._evaluation = time.perf_counter() - ended
            left = (ended - self._started) / steps * (self._last_step - self._step)
            left += self._evaluation * self._evaluations_left()
            parts.append(f"{record['images_per_second']:.0f} images/s")
            parts.append(f"{format_duration(left)} left")
        print_once(", ".join(parts))

    def _evaluations_left(self) -> int:
        if self._step == self._last_step:
            return 0
        every = self._steps_per_evaluation
        return (self._last_step - 1) // every - self._step // every + 1


def _new_bar(what: str, total: int, unit: str) -> tqdm | None:
    """Returns a bar in the first process, which vanishes at its end; None if the output is no terminal."""
    if not console.stdout.isatty() or not processes.is_first():
        return None
    return tqdm(total=total, desc=what, unit=unit, file=console.stdout, leave=False, dynamic_ncols=True)
