"""Everything a person looks at while a run goes on and after it: progress, TensorBoard events, curves."""

import contextlib
import csv
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from seanet_jax import processes, style
from seanet_jax.run_folder import Record
from seanet_jax.scores import LOGITS, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Quantity = Literal["loss", "accuracy"]

# The axis of a quantity, a loss's own where it is empty, and what is drawn of it.
_SCALES: dict[Quantity, tuple[str, Callable[[float], float]]] = {
    "loss": ("", lambda value: value),
    "accuracy": ("error (%)", lambda value: 100 * (1 - value)),
}


def format_duration(seconds: float) -> str:
    """A time as a person says it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def say(line: str) -> None:
    """Prints a line, in the first process alone, and without tearing a bar."""
    if processes.is_first():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


class Progress:
    """Tells how a run advances: a bar on a terminal, otherwise a plain line every so many steps.

    Args:
        step: where the run starts.
        last_step: where it ends.
        steps_per_epoch: to tell the epoch.
        batch_size: images per step.
        log_every: steps between plain lines.
    """

    def __init__(self, *, step: int, last_step: int, steps_per_epoch: int, batch_size: int, log_every: int):
        self._last_step = last_step
        self._steps_per_epoch = steps_per_epoch
        self._epochs = -(-last_step // steps_per_epoch)
        self._batch_size = batch_size
        self._log_every = log_every
        self._step = self._run_began = step
        self._bar: tqdm | None = None

    def begin_epoch(self, stop: int) -> None:
        """Starts the clock of an epoch that ends at step ``stop``."""
        self._first_step, self._started = self._step, time.perf_counter()
        if sys.stdout.isatty() and processes.is_first():
            epoch = self._step // self._steps_per_epoch + 1
            self._bar = tqdm(
                total=stop - self._step,
                desc=f"epoch {epoch}/{self._epochs}",
                unit="step",
                file=sys.stdout,
                leave=False,
                dynamic_ncols=True,
            )

    def wants(self, step: int) -> bool:
        """Whether this step's loss and accuracy make a plain line; a bar takes whatever steps it is given."""
        in_epoch = (step - 1) % self._steps_per_epoch + 1
        # The first step tells at once how fast it is.
        return self._bar is None and (in_epoch % self._log_every == 0 or step == self._run_began + 1)

    def step(self, step: int, loss: float, accuracy: float) -> None:
        """Reports a finished step, and that those before it are finished too.

        Args:
            step: optimiser steps done.
            loss: mean over the epoch so far.
            accuracy: likewise, as a fraction.
        """
        before, self._step = self._step, step
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.2%}", refresh=False)
            self._bar.update(step - before)
        elif self.wants(step):
            seconds_per_step = (time.perf_counter() - self._started) / (step - self._first_step)
            say(
                f"  epoch {(step - 1) // self._steps_per_epoch + 1}/{self._epochs}, "
                f"step {(step - 1) % self._steps_per_epoch + 1}/{self._steps_per_epoch}: "
                f"loss {loss:.3f}, accuracy {accuracy:.2%}, {self._batch_size / seconds_per_step:.0f} images/s"
            )

    def end_steps(self) -> dict[str, float]:
        """Stops the epoch's clock; the time of its steps and their images per second."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        seconds = time.perf_counter() - self._started
        images = (self._step - self._first_step) * self._batch_size
        return {"seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1)}

    def end_epoch(self, record: Record) -> None:
        """Prints the epoch's line, evaluation included in the time left."""
        parts = [f"epoch {record['epoch']:.4g}/{self._epochs}", f"lr {record['learning_rate']:g}"]
        for name in ("train", "val", "test"):
            if f"{name}_loss" in record:
                parts.append(f"{name} loss {record[f'{name}_loss']:.3f} accuracy {record[f'{name}_accuracy']:.2%}")
        # None, where a run goes on that was stopped between an epoch's last step and its end.
        if steps := self._step - self._first_step:
            overall = (time.perf_counter() - self._started) / steps
            parts.append(f"{record['images_per_second']:.0f} images/s")
            parts.append(f"{format_duration(overall * (self._last_step - self._step))} left")
        say(", ".join(parts))


class Events:
    """TensorBoard events of a run, one point per epoch over optimiser steps.

    Args:
        folder: for the events.
        step: events of later steps, written before a run was killed, are struck out.
    """

    def __init__(self, folder: Path, step: int):
        self._folder = folder
        self._step = step
        self._writer: Any = None

    def write(self, record: Record) -> None:
        """Writes an epoch's numbers; they are in the file when this returns.

        Raises:
            OSError: they cannot be written.
        """
        # Not at the start of a run: where PyTorch is installed tensorboardX imports it, which takes seconds. Not its
        # SummaryWriter either, whose thread dies of a full disk and leaves a run waiting for it without a word.
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        events = []
        if self._writer is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._step}"
            self._writer = RecordWriter(str(self._folder / name))
            events.append(Event(file_version="brain.Event:2"))
            events.append(Event(step=self._step + 1, session_log=SessionLog(status=SessionLog.START)))
        values = {name: record[name] for name in ("learning_rate", "images_per_second")}
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy"):
            if name in record:
                split, quantity = name.split("_")
                values[f"{quantity}/{split}"] = record[name]
        events += [Event(step=record["step"], summary=scalar(name, value)) for name, value in values.items()]
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):  # what could not be written cannot be when it is closed
                self.close()
            self._writer = None
            raise

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._writer.close()


def published_curves(dataset: str) -> list[dict[str, float]]:
    """The published SEANet-20 run, epoch by epoch; empty for a data set it was not run on.

    Args:
        dataset: a name such as "cifar10".

    Returns:
        Records with ``epoch``, ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy``.
    """
    text = (resources.files("seanet_jax") / "published_curves.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row.pop("dataset") == dataset]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def draw_curves(records: list[Record], path: Path, kind: Scores, *, title: str, dataset: str, epochs: int) -> None:
    """Writes the figure of loss and error over epochs; see ``curves_figure``.

    Args:
        records: of the run.
        path: of the PNG.
        kind: of the network's scores.
        title: of the figure.
        dataset: of the run.
        epochs: of the run.
    """
    made = curves_figure(records, kind, dataset=dataset, epochs=epochs)
    made.suptitle(title, fontsize=11)
    made.savefig(path, dpi=150)


def curves_figure(
    records: list[Record],
    kind: Scores,
    *,
    dataset: str,
    epochs: int,
    quantities: Sequence[Quantity] = ("loss", "accuracy"),
) -> "Figure":
    """Quantities over epochs, a panel each, with the published run behind them where there is one to compare with.

    Args:
        records: of the run; at least one.
        kind: of the network's scores.
        dataset: whose published curves to draw.
        epochs: the run's, the width of the picture.
        quantities: to draw; an accuracy is drawn as the error.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(quantities), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    published = [row for row in published_curves(dataset) if row["epoch"] <= epochs]
    panels = figure.subplots(1, len(quantities), squeeze=False).flat
    for axes, quantity in zip(panels, quantities, strict=True):
        label, scale = _SCALES[quantity]
        # The published losses are cross entropies.
        if published and (quantity == "accuracy" or kind == LOGITS):
            x = [row["epoch"] for row in published]
            for split, line in (("train", ":"), ("test", "-")):
                y = [scale(row[f"{split}_{quantity}"]) for row in published]
                name = f"published SEANet-20, {split}"
                axes.plot(x, y, line, color=style.PUBLISHED, linewidth=1, label=name, zorder=1)
        for split, colour in (("train", style.ORANGE), ("val", style.GREEN), ("test", style.BLUE)):
            measured = [record for record in records if f"{split}_{quantity}" in record]
            if not measured:
                continue
            x = [record["epoch"] for record in measured]
            y = [scale(record[f"{split}_{quantity}"]) for record in measured]
            name = {"val": "validation"}.get(split, split)
            axes.plot(
                x, y, color=colour, linewidth=1.8, marker="o" if len(x) < 15 else None, markersize=3.5, label=name
            )
            if quantity == "accuracy" and split != "train":
                axes.annotate(f"{y[-1]:.2f}", (x[-1], y[-1]), (4, 4), textcoords="offset points", color=colour)
        _tidy(axes, label or kind.loss_label, epochs)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def _tidy(axes: "Axes", label: str, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(0, epochs * 1.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
