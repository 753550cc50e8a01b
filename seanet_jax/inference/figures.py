"""Figures of an evaluation: the confusion matrix and the reliability diagram."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seanet_jax import style
from seanet_jax.inference.metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more classes than this, the figure is larger, so that it has room for the names.
_MOST_IN_A_SMALL_FIGURE = 10
# With more classes than this, counts in the cells are too small to read.
_MOST_NUMBERED = 20
# Longer names would leave no room for the matrix.
_LONGEST_NAME = 32
# With more cells than this in a row, some would be narrower than two pixels and could vanish.
_MOST_CELLS = 300


def confusion_figure(
    confusion: np.ndarray, names: Sequence[str], superclasses: Sequence[str] | None = None, *, noun: str = "class"
) -> "Figure":
    """Draws a confusion matrix, normalized over each row.

    Rows are true classes and columns are predicted classes. The axes name the classes, of which many are small: SVG
    files are made to be zoomed. The cells show the number of images if there are at most 20 classes. With more than 300
    classes, a cell stands for a block of adjacent classes and shows the largest of their shares, and no class is named.

    Args:
        confusion: Number of images by true class and predicted class, ``[classes, classes]``.
        names: Class names.
        superclasses: Name of the superclass of each class. The classes are then ordered by superclass, in alphabetical
            order, and lines are drawn between superclasses. By default, the classes are in the given order.
        noun: What the labels of the axes call a class.
    """
    from matplotlib.ticker import PercentFormatter

    starts: Sequence[int] = ()
    if superclasses is not None:
        order = sorted(range(len(names)), key=lambda index: superclasses[index])
        confusion, names = confusion[np.ix_(order, order)], [names[index] for index in order]
        groups = [superclasses[index] for index in order]
        starts = [index for index in range(1, len(groups)) if groups[index] != groups[index - 1]]
    images = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, images, out=np.zeros(confusion.shape), where=images > 0)
    width, height = (4.4, 4.0) if len(names) <= _MOST_IN_A_SMALL_FIGURE else (9.0, 8.4)
    made, (axes,) = style.figure(width=width, height=height)
    axes.grid(False)
    block = math.ceil(len(names) / _MOST_CELLS)
    picture = axes.imshow(_largest(shares, block), cmap="Blues", vmin=0, vmax=1, interpolation="none")
    title = f"largest share of each {block} x {block} classes" if block > 1 else ""
    style.label(axes, x=f"predicted {noun}", y=f"true {noun}", title=title)
    bar = made.colorbar(picture, ax=axes, fraction=0.05, pad=0.02, shrink=0.9, aspect=30, format=PercentFormatter(1))
    bar.set_label(f"share of the {noun}'s images", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    if block == 1:
        shown = [style.name(name, _LONGEST_NAME) for name in names]
        # Of the height of a row, which is in points: the axes have about four fifths of the figure.
        size = min(8.0, 0.8 * 0.8 * height * 72 / len(names))
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), shown, fontsize=size)
        axes.tick_params(length=0, pad=2)
    else:
        axes.set(xticks=[], yticks=[])
    for start in starts:
        for line in (axes.axhline, axes.axvline):
            line(start / block - 0.5, color=style.PUBLISHED, linewidth=0.3)
    if len(names) <= _MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if confusion[row, column]:
                # White text reads better on the dark end of the color map.
                color = "white" if share > 0.55 else style.BLACK
                axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7, color=color)
    return made


def _largest(shares: np.ndarray, block: int) -> np.ndarray:
    """Returns the largest value of each block of a square matrix; blocks at its end may be smaller."""
    starts = range(0, len(shares), block)
    return np.maximum.reduceat(np.maximum.reduceat(shares, starts, axis=0), starts, axis=1)


def reliability_figure(found: Reliability, error: float) -> "Figure":
    """Draws a reliability diagram: accuracy by confidence, and below it the share of the images in each bin.

    Args:
        found: Accuracy and confidence per bin, as ``metrics.reliability`` returns them.
        error: Expected calibration error, as a fraction.
    """
    from matplotlib.ticker import PercentFormatter

    bins = len(found.images)
    width = 1 / bins
    centers = (np.arange(bins) + 0.5) * width
    some = found.images > 0
    made, (above, below) = style.figure(2, width=4.4, height=4, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], "--", color=style.PUBLISHED, linewidth=1, label="perfect calibration")
    above.bar(centers, np.nan_to_num(found.accuracy), width * 0.9, color=style.SKY, label="accuracy")
    above.plot(
        found.confidence[some], found.accuracy[some], "o", color=style.BLUE, markersize=4, label="mean confidence"
    )
    above.set(xlim=(0, 1), ylim=(0, 1))
    style.label(above, x="", y="accuracy", title=f"expected calibration error {error:.2%}")
    # Outside of the axes, where it covers no bar.
    made.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    below.bar(centers, found.images / found.images.sum(), width * 0.9, color=style.PUBLISHED)
    style.label(below, x="confidence", y="share of images")
    for axis in (above.yaxis, below.yaxis, below.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return made
