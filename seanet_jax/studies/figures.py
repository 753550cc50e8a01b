"""The figures of the studies, from plain data; ``style.save`` writes them."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seanet_jax import style
from seanet_jax.data import DATASETS
from seanet_jax.errors import InputError, demand_positive_integers
from seanet_jax.studies.network_lines import line_of
from seanet_jax.training.curves import published_curves
from seanet_jax.training.run_folder import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# A network's runs, one a seed, each its records by epoch.
Runs = Sequence[Sequence[Record]]

# Errors that fall further than by this factor are drawn on a log axis, where the end of a run is not flat.
_LINEAR_UP_TO = 4

# The talk's accuracies: what the legend says last. Runs up to this share of its epochs get an inset.
_NOTES = ("published SEANet-20, training", "published SEANet-20, test", "thin: training of ours")
_SHORT = 0.25

# Beyond so many epochs markers would hide the line.
_EPOCHS_WITH_MARKERS = 20

# By marker: only the first aggregates.
_FAMILIES = {
    "D": "SEANet (aggregates)",
    "s": "SENet",
    "o": "ResNet",
    "^": "pre-activation ResNet",
    "P": "EncapNet",
    "v": "other",
}

_SMALL = 7.5  # points: the smallest text that reads well on paper


class _Place(NamedTuple):
    """Of a label beside a point: an offset in points, and how it is aligned there."""

    x: float
    y: float
    horizontal: str
    vertical: str


_PLACES = (
    *(_Place(7, 0, "left", "center"), _Place(-7, 0, "right", "center")),
    *(_Place(7, 6, "left", "bottom"), _Place(7, -6, "left", "top")),
    *(_Place(-7, 6, "right", "bottom"), _Place(-7, -6, "right", "top")),
    *(_Place(0, 8, "center", "bottom"), _Place(0, -8, "center", "top")),
    *(_Place(14, 14, "left", "bottom"), _Place(14, -14, "left", "top")),
    *(_Place(-14, 14, "right", "bottom"), _Place(-14, -14, "right", "top")),
)


class Point(NamedTuple):
    """What a network costs and reaches.

    Attributes:
        model: its name.
        multiply_adds: of one image.
        error: in percent, the mean over the seeds.
        deviation: of the error over the seeds, in percentage points; None for a single seed.
    """

    model: str
    multiply_adds: float
    error: float
    deviation: float | None


class Value(NamedTuple):
    """What a value of an ablated choice reaches.

    Attributes:
        name: of the value.
        error: in percent, the mean over the seeds.
        deviation: of the error over the seeds, in percentage points; None for a single seed.
        learning_rate: that was chosen for it; None if none was.
    """

    name: str
    error: float
    deviation: float | None
    learning_rate: float | None


class _Curve(NamedTuple):
    """A quantity of a network over epochs, in percent: ``mean``, ``low`` and ``high`` over its seeds."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def error_curves(curves: Mapping[str, Runs], *, epochs: int, title: str = "") -> "Figure":
    """Test error in percent over epochs: a line for the mean over the seeds, a band from the lowest to the highest.

    Args:
        curves: by network, the records of its runs; a network without runs is left out.
        epochs: the width of the picture.
        title: of the figure.

    Raises:
        InputError: there are no runs, the seeds of a network have different epochs, or a record has no
            ``test_accuracy``.
    """
    from matplotlib.ticker import MaxNLocator

    demand_positive_integers("error_curves", epochs=epochs)
    found = {model: _curve(model, runs, "test_accuracy", error=True) for model, runs in curves.items() if len(runs)}
    if not found:
        raise InputError("there are no runs to draw; give at least one")
    figure, (axes,) = style.figure(width=5.2, height=3.4)
    for model, curve in found.items():
        _plot(axes, model, curve)
    counts = sorted({curve.seeds for curve in found.values()})
    lines = f"mean of {_either(counts)} seeds, band from lowest to highest" if counts != [1] else "one seed each"
    style.label(axes, x="epoch", y="test error (%)", title=title)
    axes.text(0.98, 0.96, lines, transform=axes.transAxes, ha="right", va="top", fontsize=_SMALL)
    axes.set_xlim(0, epochs * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest, highest = (pick([pick(curve.mean) for curve in found.values()]) for pick in (min, max))
    if 0 < _LINEAR_UP_TO * lowest < highest:
        style.log_axis(axes, "y")
    ends = {model: (curve.epochs[-1], curve.mean[-1]) for model, curve in found.items()}
    _label_ends(figure, axes, ends)
    return figure


def against_published(curves: Mapping[str, Mapping[str, Runs]], *, datasets: Sequence[str]) -> "Figure":
    """Training and test accuracy in percent over epochs, a panel for each data set, as in the SEANet talk (MIND 2019).

    Grey is the talk's run; over it the mean over the seeds of each network. Runs much shorter than it are drawn once
    more in an inset, on their own scale.

    Args:
        curves: by data set and network, the records of its runs; where there are none the panel says so.
        datasets: one panel each.

    Raises:
        InputError: no data set is named or one that has no published run, the seeds of a network have different epochs,
            or a record has no ``train_accuracy`` or ``test_accuracy``.
    """
    from matplotlib.ticker import MultipleLocator

    published = {name: source.title for name, source in DATASETS.items() if published_curves(name)}
    if not datasets or any(dataset not in published for dataset in datasets):
        raise InputError(f"datasets is {list(datasets)!r}; published runs to draw are of {', '.join(published)}")
    figure, panels = style.figure(1, len(datasets), width=3.4 * len(datasets), height=3.6, sharey=True)
    handles: dict[str, Any] = {}
    for axes, dataset in zip(panels, datasets, strict=True):
        style.label(axes, x="epoch", y="accuracy (%)" if axes is panels[0] else "", title=published[dataset])
        ours = {
            model: [_curve(model, runs, f"{split}_accuracy", error=False) for split in ("train", "test")]
            for model, runs in curves.get(dataset, {}).items()
            if len(runs)
        }
        handles |= _draw_accuracies(axes, dataset, ours)
        last = published_curves(dataset)[-1]["epoch"]
        axes.set_xlim(0, last)
        axes.xaxis.set_major_locator(MultipleLocator(50))
        axes.set_ylim(0, 102)
        if not ours:
            axes.text(0.97, 0.05, "no runs of ours", transform=axes.transAxes, ha="right", fontsize=9)
        elif (end := max(float(test.epochs[-1]) for _, test in ours.values())) <= _SHORT * last:
            _draw_inset(axes, dataset, ours, end)
    order = [model for model in handles if model not in _NOTES] + [note for note in _NOTES if note in handles]
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=_SMALL,
        handlelength=3,
    )
    return figure


def _draw_accuracies(axes: "Axes", dataset: str, ours: Mapping[str, Sequence[_Curve]]) -> dict[str, Any]:
    """The published run's and those of ours, training before test; what the legend shows of them."""
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
    for model, (training, test) in ours.items():
        thin = line_of(model) | {"marker": None, "linewidth": 0.7, "alpha": 0.7, "label": f"{model}, training"}
        axes.plot(training.epochs, training.mean, **thin)
        handles[model] = _plot(axes, model, test, markers=False)
        handles[_NOTES[2]] = Line2D([], [], color=style.BLACK, linewidth=0.7, alpha=0.7)
    return handles


def _draw_inset(axes: "Axes", dataset: str, ours: Mapping[str, Sequence[_Curve]], end: float) -> None:
    """Our runs, right of themselves and below the published one."""
    inset = axes.inset_axes((0.36, 0.1, 0.6, 0.45))
    _draw_accuracies(inset, dataset, ours)
    top = max(float(curve.high.max()) for pair in ours.values() for curve in pair)
    inset.set_xlim(1, max(end, 2))
    inset.set_ylim(0, 1.15 * top)
    inset.tick_params(labelsize=_SMALL - 0.5, length=2, pad=2)
    inset.grid(alpha=0.25, linewidth=0.5)
    inset.spines[["top", "right"]].set_visible(False)
    inset.set_title(f"the first {end:g} epochs", fontsize=_SMALL, loc="left", pad=2)


def error_against_multiply_adds(points: Sequence[tuple[str, float, float, float | None]]) -> "Figure":
    """Test error in percent over multiply-adds of one image, the mean over the seeds with its deviation.

    Args:
        points: the fields of ``Point``; networks that aggregate are told by their names.

    Raises:
        InputError: there are none, a network is named twice, or a number is not one that can be drawn.
    """
    named = [Point(*point) for point in points]
    if not named or len({point.model for point in named}) < len(named):
        raise InputError(f"points has {len(named)} networks, or one twice; give each once, and at least one")
    for point in named:
        if not 0 < point.multiply_adds < math.inf:
            raise InputError(f"{point.model} has {point.multiply_adds} multiply-adds; give a positive number")
        _demand_error(point.model, point.error)
    figure, (axes,) = style.figure(width=5.2, height=3.4)
    families: dict[str, Any] = {}
    for point in named:
        line = line_of(point.model)
        bars = axes.errorbar(
            point.multiply_adds,
            point.error,
            point.deviation,
            color=line["color"],
            marker=line["marker"],
            markersize=6,
            linestyle="none",
            capsize=2.5,
            elinewidth=1,
            label=point.model,
        )
        families.setdefault(_FAMILIES[line["marker"]], bars[0])
    title = "mean ± standard deviation over the seeds"
    style.label(axes, x="multiply-adds of one image (millions)", y="test error (%)", title=title)
    # Room for the labels, beyond the outermost points too.
    axes.margins(x=0.4, y=0.15)
    style.log_axis(axes, "x", unit=1e6)
    order = [name for name in _FAMILIES.values() if name in families]
    figure.legend(
        [families[name] for name in order], order, loc="outside lower center", ncols=4, frameon=False, fontsize=_SMALL
    )
    _label_points(figure, axes, named)
    return figure


def ablation(
    axes: Mapping[str, Sequence[tuple[str, float, float | None, float | None]]], *, base: Mapping[str, str]
) -> "Figure":
    """Test error in percent by value, a panel for each choice: the mean over the seeds with its deviation.

    Under each value stands the learning rate that was chosen for it; a line leads from the base through all panels.

    Args:
        axes: by choice, the fields of ``Value`` for each of its values.
        base: by choice, the name of the value that the base has, which need not be among those drawn.

    Raises:
        InputError: there is no choice or one without values or without a base, or an error is not a percentage.
    """
    choices = {title: [Value(*value) for value in values] for title, values in axes.items()}
    if not choices or not all(choices.values()):
        raise InputError("an ablation has no choices, or one of them no values; give at least one of each")
    for title, values in choices.items():
        if title not in base:
            raise InputError(f"base has no value of {title!r}; name the one that the base has")
        for value in values:
            _demand_error(f"{title} {value.name}", value.error)
    base_errors = {value.error for title, values in choices.items() for value in values if value.name == base[title]}
    ratios = [len(values) + 0.4 for values in choices.values()]
    figure, panels = style.figure(1, len(choices), height=2.8, sharey=True, width_ratios=ratios)
    for panel, (title, values), ratio in zip(panels, choices.items(), ratios, strict=True):
        for place, value in enumerate(values):
            is_base = value.name == base[title]
            panel.errorbar(
                place,
                value.error,
                value.deviation,
                color=style.VERMILION if is_base else style.BLACK,
                marker="D" if is_base else "o",
                markersize=5,
                capsize=2.5,
                elinewidth=1,
                label=value.name,
            )
        for error in base_errors:
            panel.axhline(error, color=style.VERMILION, linestyle=(0, (3, 2)), linewidth=0.7, zorder=0)
        style.label(panel, x="", y="test error (%)" if panel is panels[0] else "", title="")
        # A letter is about 5 points wide, all panels together 400.
        wrapped = textwrap.fill(title, max(4, int(400 / 5 * ratio / sum(ratios))))
        panel.set_title(wrapped, fontsize=9, loc="left")
        names = [f"{value.name}\n{_rate(value)}" for value in values]
        panel.set_xticks(range(len(values)), names, fontsize=_SMALL)
        panel.set_xlim(-0.6, len(values) - 0.4)
        panel.grid(False, axis="x")
    spread = any(value.deviation is not None for values in choices.values() for value in values)
    what = "mean ± standard deviation over the seeds" if spread else "one run each"
    figure.supxlabel(f"{what}; below each value its learning rate; diamond and line: the base", fontsize=_SMALL)
    return figure


def _demand_error(what: str, error: float) -> None:
    if not 0 <= error <= 100:
        raise InputError(f"{what} has an error of {error} %; give one from 0 to 100")


def _rate(value: Value) -> str:
    return "—" if value.learning_rate is None else f"{value.learning_rate:g}"


def _curve(model: str, runs: Runs, quantity: str, *, error: bool) -> _Curve:
    """Of ``quantity``, an accuracy as a fraction in every record, or of the error that it leaves."""
    epochs = [[record["epoch"] for record in records] for records in runs]
    if not all(epochs) or any(one != epochs[0] for one in epochs):
        ends = ", ".join(f"{one[-1]:g}" if one else "none" for one in epochs)
        raise InputError(f"runs of {model} have different epochs, the last {ends}; give finished runs of one recipe")
    if any(quantity not in record for records in runs for record in records):
        raise InputError(f"a record of {model} has no {quantity}; give the records of runs that have it every epoch")
    values = 100 * np.array([[record[quantity] for record in records] for records in runs])
    values = 100 - values if error else values
    return _Curve(np.array(epochs[0]), values.mean(0), values.min(0), values.max(0), len(runs))


def _plot(axes: "Axes", model: str, curve: _Curve, *, markers: bool = True) -> Any:
    """The mean, and the band where there is more than one seed; the line."""
    line = line_of(model)
    if curve.seeds > 1:
        axes.fill_between(curve.epochs, curve.low, curve.high, color=line["color"], alpha=0.15, linewidth=0)
    marker = line["marker"] if markers and len(curve.epochs) <= _EPOCHS_WITH_MARKERS else None
    width = 1.4 if len(curve.epochs) <= _EPOCHS_WITH_MARKERS else 1.0
    keywords = line | {"marker": marker, "markersize": 3, "linewidth": width, "label": model}
    return axes.plot(curve.epochs, curve.mean, **keywords)[0]


def _either(counts: Sequence[int]) -> str:
    """Such as ``3`` or ``2 to 3``."""
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _label_ends(figure: "Figure", axes: "Axes", ends: Mapping[str, tuple[float, float]]) -> None:
    """Names lines at their ends, one under the other in a column right of the axes.

    Args:
        figure: that has everything else already.
        axes: of it, with the lines.
        ends: by network, epoch and error.
    """
    texts = {}
    for model, (x, y) in ends.items():
        colour = line_of(model)["color"]
        texts[model] = axes.annotate(
            f"{model}  {y:.1f}",
            (x, y),
            (1.04, 0.5),
            textcoords="axes fraction",
            color=colour,
            fontsize=_SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )
    # Where the lines end on paper is known once the labels have their room.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = axes.get_window_extent()
    height = 1.3 * _SMALL / 72 * figure.dpi / box.height
    models = sorted(ends, key=lambda model: ends[model][1])
    wanted = [float((axes.transData.transform(ends[model])[1] - box.y0) / box.height) for model in models]
    for model, y in zip(models, _spread(wanted, height), strict=True):
        texts[model].set_position((1.04, y))


def _spread(wanted: Sequence[float], height: float) -> list[float]:
    """Heights at least ``height`` apart and as near to the wanted ones, which ascend, as squares tell.

    Those that touch form a block around the mean of what they want (pool adjacent violators: Barlow et al., 1972).
    """
    blocks: list[list[float]] = []
    for rank, place in enumerate(wanted):
        blocks.append([place - rank * height])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    means = [float(np.mean(block)) for block in blocks for _ in block]
    return [mean + rank * height for rank, mean in enumerate(means)]


def _label_points(figure: "Figure", axes: "Axes", points: Sequence[Point]) -> None:
    """Names points beside them, each where it covers the least of what is there already."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    ink = []
    for point in points:
        deviation = point.deviation or 0
        ends = [(point.multiply_adds, point.error + sign * deviation) for sign in (-1, 1)]
        # A marker is 6 points wide, its bar 5.
        ink.append(Bbox(axes.transData.transform(ends)).padded(4 * figure.dpi / 72))
    for point in points:
        text = axes.annotate(
            point.model,
            (point.multiply_adds, point.error),
            (0, 0),
            textcoords="offset points",
            fontsize=_SMALL,
            color=line_of(point.model)["color"],
        )
        costs = {}
        for place in _PLACES:
            _put(text, place)
            costs[place] = _covered(text.get_window_extent(), ink, axes.get_window_extent())
        _put(text, min(_PLACES, key=lambda place: costs[place]))
        ink.append(text.get_window_extent())


def _put(text: "Annotation", place: _Place) -> None:
    text.set(position=(place.x, place.y), horizontalalignment=place.horizontal, verticalalignment=place.vertical)


def _covered(box: "Bbox", ink: Sequence["Bbox"], room: "Bbox") -> float:
    """Area of a box that lies on others or outside the room, in pixels."""
    from matplotlib.transforms import Bbox

    shared = [Bbox.intersection(box, other) for other in ink]
    inside = Bbox.intersection(box, room)
    outside = box.width * box.height - (0 if inside is None else inside.width * inside.height)
    return outside + sum(one.width * one.height for one in shared if one is not None)
