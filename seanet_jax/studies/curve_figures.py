"""The figures of errors and accuracies over epochs. ``style.save`` writes them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seanet_jax import style
from seanet_jax.data import DATASETS
from seanet_jax.errors import InputError, positive_integers
from seanet_jax.studies.line_styles import line_style
from seanet_jax.training.curves import published_curves
from seanet_jax.training.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The runs of a network, one for each seed. A run is its records, one for each epoch.
Runs = Sequence[Sequence[Record]]

# If errors fall by more than this factor, the axis is logarithmic. On a linear one the end of the run would look flat.
_LINEAR_UP_TO = 4

# The last entries of the legend.
_NOTES = ("published, training", "published, test", "thin: training")

# Runs that are shorter than this share of the published run are drawn once more, in an inset.
_SHORT = 0.25

# With more epochs than this, markers would hide the line.
_EPOCHS_WITH_MARKERS = 20


class _Curve(NamedTuple):
    """A quantity of a network over epochs, in percent.

    Attributes:
        epochs: The epochs, ``[E]``.
        mean: The mean over the seeds, ``[E]``.
        low: The smallest value of any seed, ``[E]``.
        high: The largest value of any seed, ``[E]``.
        seeds: The number of seeds.
    """

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def error_curves(curves: Mapping[str, Runs], *, epochs: int, title: str = "") -> "Figure":
    """Draws the test error in percent over epochs, with a line for each network.

    The line is the mean over the seeds; a band reaches from the lowest to the highest seed.

    Args:
        curves: The records of the runs of each network, by its name. A network without runs is left out.
        epochs: The number of epochs that the horizontal axis spans.
        title: The title of the figure.

    Raises:
        InputError: If there are no runs, the runs of a network have different epochs, or a record has no
            ``test_accuracy``.
    """
    from matplotlib.ticker import MaxNLocator

    (epochs,) = positive_integers("error_curves", epochs=epochs)
    found = {model: _curve(model, runs, "test_accuracy", error=True) for model, runs in curves.items() if len(runs)}
    if not found:
        raise InputError("there are no runs to draw; give at least one")
    figure, (axes,) = style.figure(width=style.COLUMN, height=2.6)
    for model, curve in found.items():
        _plot(axes, model, curve)
    counts = sorted({curve.seeds for curve in found.values()})
    lines = f"mean and range of {_range(counts)} seeds" if counts != [1] else "one seed each"
    style.label(axes, x="epoch", y="test error (%)")
    # It may reach over the column of labels, but not beyond the figure.
    above = f"{style.name(title, longest=40)}\n{lines}" if title else lines
    axes.set_title(above, fontsize=style.SMALL_TEXT, loc="left")
    axes.set_xlim(0, epochs * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest, highest = (pick([pick(curve.mean) for curve in found.values()]) for pick in (min, max))
    if 0 < _LINEAR_UP_TO * lowest < highest:
        style.log_axis(axes, "y")
    ends = {model: (curve.epochs[-1], curve.mean[-1]) for model, curve in found.items()}
    _label_ends(figure, axes, ends)
    return figure


def against_published(curves: Mapping[str, Mapping[str, Runs]], *, datasets: Sequence[str]) -> "Figure":
    """Draws training and test accuracy in percent over epochs, as the plots of the SEANet talk (MIND 2019) do.

    Each data set has a panel. The published run is gray. For each network there is the mean over the seeds. Runs that
    are much shorter than the published one are drawn once more in an inset, on their own scale.

    Args:
        curves: The records of the runs, by data set and network. A panel without runs says so.
        datasets: The names of the data sets.

    Raises:
        InputError: If no data set is named, a data set has no published run, the runs of a network have different
            epochs, or a record has no ``train_accuracy`` or ``test_accuracy``.
    """
    from matplotlib.ticker import MultipleLocator

    published = {name: source.title for name, source in DATASETS.items() if published_curves(name)}
    if not datasets or any(dataset not in published for dataset in datasets):
        raise InputError(f"datasets is {list(datasets)!r}; name one or more of {', '.join(published)}")
    figure, panels = style.figure(1, len(datasets), width=style.COLUMN * len(datasets), height=3.6, sharey=True)
    handles: dict[str, Any] = {}
    for axes, dataset in zip(panels, datasets, strict=True):
        style.label(
            axes, x="epoch", y="accuracy (%)" if axes is panels[0] else "", title=style.name(published[dataset])
        )
        new = {
            model: [_curve(model, runs, f"{split}_accuracy", error=False) for split in ("train", "test")]
            for model, runs in curves.get(dataset, {}).items()
            if len(runs)
        }
        handles |= _draw_accuracies(axes, dataset, new)
        last = published_curves(dataset)[-1]["epoch"]
        axes.set_xlim(0, last)
        axes.xaxis.set_major_locator(MultipleLocator(50))
        axes.set_ylim(0, 102)
        if not new:
            axes.text(0.97, 0.05, "no runs of this study", transform=axes.transAxes, ha="right", fontsize=9)
        elif (end := max(float(test.epochs[-1]) for _, test in new.values())) <= _SHORT * last:
            _draw_inset(axes, dataset, new, end)
    order = [model for model in handles if model not in _NOTES] + [note for note in _NOTES if note in handles]
    figure.legend(
        [handles[name] for name in order],
        [style.name(name) for name in order],
        loc="outside lower center",
        ncols=2 if len(datasets) == 1 else 4,
        frameon=False,
        fontsize=style.SMALL_TEXT,
        handlelength=2.6,  # of the longest dashes
    )
    return figure


def _draw_accuracies(axes: "Axes", dataset: str, new: Mapping[str, Sequence[_Curve]]) -> dict[str, Any]:
    """Draws the published run and the new runs, and returns the handles of the legend by label.

    Args:
        axes: The axes to draw on.
        dataset: The name of the data set.
        new: The training curve and the test curve of each network.
    """
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    published = published_curves(dataset)
    for split, note, dashes in (("train", _NOTES[0], (0, (1, 1))), ("test", _NOTES[1], "-")):
        y = [100 * row[f"{split}_accuracy"] for row in published]
        (handles[note],) = axes.plot(
            [row["epoch"] for row in published],
            y,
            color=style.PUBLISHED,
            linestyle=dashes,
            linewidth=1.3,
            label=note,
        )
    for model, (training, test) in new.items():
        thin = line_style(model) | {"marker": None, "linewidth": 0.7, "alpha": 0.7, "label": f"{model}, training"}
        axes.plot(training.epochs, training.mean, **thin)
        handles[model] = _plot(axes, model, test, markers=False)
        handles[_NOTES[2]] = Line2D([], [], color=style.BLACK, linewidth=0.7, alpha=0.7)
    return handles


def _draw_inset(axes: "Axes", dataset: str, new: Mapping[str, Sequence[_Curve]], end: float) -> None:
    """Draws the new runs once more, up to the epoch ``end``, where the panel is empty.

    That is to the right of the new runs and below the published one.
    """
    inset = axes.inset_axes((0.36, 0.1, 0.6, 0.45))
    _draw_accuracies(inset, dataset, new)
    top = max(float(curve.high.max()) for pair in new.values() for curve in pair)
    inset.set_xlim(1, max(end, 2))
    inset.set_ylim(0, 1.15 * top)
    inset.tick_params(labelsize=style.SMALL_TEXT - 0.5, length=2, pad=2)
    inset.grid(alpha=0.25, linewidth=0.5)
    inset.spines[["top", "right"]].set_visible(False)
    inset.set_title(f"the first {end:g} epochs", fontsize=style.SMALL_TEXT, loc="left", pad=2)


def _curve(model: str, runs: Runs, quantity: str, *, error: bool) -> _Curve:
    """Returns the curve of a quantity of a network's runs.

    Args:
        model: The name of the network, for messages.
        runs: The records of the runs.
        quantity: The key of an accuracy in the records, which is a fraction.
        error: Whether the curve is of the error, 100 % minus the accuracy.

    Raises:
        InputError: If the runs have different epochs, or the quantity of different epochs.
    """
    epochs = [[record["epoch"] for record in records] for records in runs]
    if not all(epochs) or any(one != epochs[0] for one in epochs):
        ends = ", ".join(f"{one[-1]:g}" if one else "none" for one in epochs)
        raise InputError(f"runs of {model} have different last epochs: {ends}; give finished runs of one recipe")
    # Not every epoch is evaluated.
    measured = [{record["epoch"]: record[quantity] for record in records if quantity in record} for records in runs]
    if any(not one or one.keys() != measured[0].keys() for one in measured):
        raise InputError(f"a record of {model} has no {quantity}; give runs that have one of the same epochs")
    values = 100 * np.array([list(one.values()) for one in measured])
    values = 100 - values if error else values
    return _Curve(np.array(list(measured[0])), values.mean(0), values.min(0), values.max(0), len(runs))


def _plot(axes: "Axes", model: str, curve: _Curve, *, markers: bool = True) -> Any:
    """Draws the mean and, if there are several seeds, the band; returns the line."""
    line = line_style(model)
    if curve.seeds > 1:
        axes.fill_between(curve.epochs, curve.low, curve.high, color=line["color"], alpha=0.15, linewidth=0)
    marker = line["marker"] if markers and len(curve.epochs) <= _EPOCHS_WITH_MARKERS else None
    width = 1.4 if len(curve.epochs) <= _EPOCHS_WITH_MARKERS else 1.0
    keywords = line | {"marker": marker, "markersize": 3, "linewidth": width, "label": model}
    return axes.plot(curve.epochs, curve.mean, **keywords)[0]


def _range(counts: Sequence[int]) -> str:
    """Formats ascending numbers as ``3`` or ``2 to 3``."""
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _label_ends(figure: "Figure", axes: "Axes", ends: Mapping[str, tuple[float, float]]) -> None:
    """Labels lines at their ends, in a column to the right of the axes.

    Args:
        figure: The figure, with everything but the labels.
        axes: The axes that hold the lines.
        ends: The last epoch and the error there, by network.
    """
    texts = {}
    for model, (x, y) in ends.items():
        color = line_style(model)["color"]
        texts[model] = axes.annotate(
            f"{style.name(model)}  {y:.1f}",
            (x, y),
            (1.04, 0.5),
            textcoords="axes fraction",
            color=color,
            fontsize=style.SMALL_TEXT,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )
    # The labels take room from the axes. Only after the layout is it known where the lines end on the page.
    style.lay_out(figure)
    figure.set_layout_engine("none")
    box = axes.get_window_extent()
    height = 1.3 * style.SMALL_TEXT / 72 * figure.dpi / box.height
    models = sorted(ends, key=lambda model: ends[model][1])
    wanted = [float((axes.transData.transform(ends[model])[1] - box.y0) / box.height) for model in models]
    for model, y in zip(models, _spread(wanted, height), strict=True):
        texts[model].set_position((1.04, y))


def _spread(wanted: Sequence[float], height: float) -> list[float]:
    """Moves ascending positions so that they are at least ``height`` apart, with the least sum of squared shifts.

    Labels that touch form a block around the mean of the positions they want (pool adjacent violators, Barlow et al.,
    1972).
    """
    blocks: list[list[float]] = []
    for rank, place in enumerate(wanted):
        blocks.append([place - rank * height])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    means = [float(np.mean(block)) for block in blocks for _ in block]
    return [mean + rank * height for rank, mean in enumerate(means)]
