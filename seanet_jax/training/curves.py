"""Figures of loss and error over the epochs of a run, with the published run for comparison."""

import csv
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Literal

from seanet_jax import style
from seanet_jax.durable import write_whole
from seanet_jax.models.scores import LOGITS, Scores
from seanet_jax.paths import UserPath, user_path
from seanet_jax.training.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Quantity = Literal["loss", "accuracy"]

# For each quantity, the label of its axis and the function of its values that is drawn. The label of a loss depends on
# the network's scores.
_SCALES: dict[Quantity, tuple[str, Callable[[float], float]]] = {
    "loss": ("", lambda value: value),
    "accuracy": ("error (%)", lambda value: 100 * (1 - value)),
}

_COLORS = {
    "train": style.ORANGE,
    "val": style.GREEN,
    "test": style.BLUE,
    "ema_val": style.GREEN,
    "ema_test": style.BLUE,
}


def published_curves(dataset: str) -> list[dict[str, float]]:
    """Returns the records of the published SEANet-20 run on a data set, or an empty list if there is none.

    Args:
        dataset: Name of a data set, such as "cifar10".

    Returns:
        One record per epoch, with ``epoch``, ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy``.
    """
    text = (resources.files("seanet_jax.training") / "published_curves.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row.pop("dataset") == dataset]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def draw_curves(records: list[Record], path: UserPath, kind: Scores, *, title: str, dataset: str, epochs: int) -> None:
    """Writes the figure of loss and error over epochs to a PNG file; see ``curves_figure``.

    Args:
        records: The run's records, at least one.
        path: The PNG file to write.
        kind: The kind of the network's scores, which defines its loss.
        title: Title of the figure.
        dataset: Name of the run's data set.
        epochs: Number of epochs of the run.
    """
    path = user_path(path)
    made = curves_figure(records, kind, dataset=dataset, epochs=epochs)
    made.suptitle(style.name(title, longest=90), fontsize=11)
    write_whole(path, style.encode(made, dpi=150, format="png"))


def curves_figure(
    records: list[Record],
    kind: Scores,
    *,
    dataset: str,
    epochs: int,
    quantities: Sequence[Quantity] = ("loss", "accuracy"),
) -> "Figure":
    """Draws quantities over epochs, one panel each, over the curves of the published run if there is one.

    Args:
        records: The run's records, at least one.
        kind: The kind of the network's scores, which defines its loss.
        dataset: Name of the data set, which selects the published run.
        epochs: Number of epochs of the run, the width of the panels.
        quantities: Quantities to draw. An accuracy is drawn as the error, in percent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(quantities), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    published = [row for row in published_curves(dataset) if row["epoch"] <= epochs]
    panels = figure.subplots(1, len(quantities), squeeze=False).flat
    for axes, quantity in zip(panels, quantities, strict=True):
        label, scale = _SCALES[quantity]
        # The published losses are cross entropies. Other losses cannot be compared with them.
        if published and (quantity == "accuracy" or kind == LOGITS):
            x = [row["epoch"] for row in published]
            for split, line in (("train", ":"), ("test", "-")):
                y = [scale(row[f"{split}_{quantity}"]) for row in published]
                name = f"published SEANet-20, {split}"
                axes.plot(x, y, line, color=style.PUBLISHED, linewidth=1, label=name, zorder=1)
        for split, color in _COLORS.items():
            measured = [record for record in records if f"{split}_{quantity}" in record]
            if not measured:
                continue
            x = [record["epoch"] for record in measured]
            y = [scale(record[f"{split}_{quantity}"]) for record in measured]
            name = split.replace("val", "validation").replace("ema_", "moving average, ")
            line, marker = "--" if split.startswith("ema_") else "-", "o" if len(x) < 15 else None
            axes.plot(x, y, line, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=name)
            if quantity == "accuracy" and split in ("val", "test"):
                axes.annotate(f"{y[-1]:.2f}", (x[-1], y[-1]), (4, 4), textcoords="offset points", color=color)
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
