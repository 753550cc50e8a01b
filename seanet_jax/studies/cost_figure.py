"""The figure of test error against multiply-adds. ``style.save`` writes it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.studies.line_styles import line_style
from seanet_jax.studies.statistics import check_percentage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox


class _Place(NamedTuple):
    """The place of a label beside a point: its offset in points, and its alignment there."""

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
    *(_Place(7, 22, "left", "bottom"), _Place(7, -22, "left", "top")),
    *(_Place(-7, 22, "right", "bottom"), _Place(-7, -22, "right", "top")),
)


class Point(NamedTuple):
    """The cost and the test error of a network.

    Attributes:
        model: The name of the network.
        multiply_adds: The number of multiply-adds for one image.
        error: The mean test error over the seeds, in percent.
        deviation: The standard deviation of the error over the seeds, in percentage points, or None for a single seed.
    """

    model: str
    multiply_adds: float
    error: float
    deviation: float | None


def error_against_multiply_adds(points: Sequence[tuple[str, float, float, float | None]]) -> "Figure":
    """Draws the test error in percent over the multiply-adds for one image, with the standard deviation as a bar.

    Each point has the name of its network beside it.

    Args:
        points: The fields of ``Point`` for each network. The name of a network decides its color and marker.

    Raises:
        InputError: If there are no networks, a network is named twice, or a number is out of range.
    """
    named = [Point(*point) for point in points]
    if not named or len({point.model for point in named}) < len(named):
        raise InputError(f"points has {len(named)} networks, or one twice; give at least one, and each only once")
    for point in named:
        if not 0 < point.multiply_adds < math.inf:
            raise InputError(f"{point.model} has {point.multiply_adds} multiply-adds; give a positive number")
        check_percentage(point.model, point.error)
    figure, (axes,) = style.figure(width=style.COLUMN, height=2.5)
    for point in named:
        line = line_style(point.model)
        axes.errorbar(
            point.multiply_adds,
            point.error,
            point.deviation,
            color=line["color"],
            marker=line["marker"],
            markersize=4.5,
            linestyle="none",
            capsize=2.5,
            elinewidth=1,
            label=point.model,
        )
    style.label(axes, x="multiply-adds for one image (millions)", y="test error (%)")
    axes.set_title("mean ± standard deviation over the seeds", fontsize=style.SMALL_TEXT, loc="left")
    # Leaves room for the labels of the outermost points.
    axes.margins(x=0.4, y=0.15)
    style.log_axis(axes, "x", unit=1e6)
    _label_points(figure, axes, named)
    return figure


def _label_points(figure: "Figure", axes: "Axes", points: Sequence[Point]) -> None:
    """Labels each point at the place where the label covers the least of what is drawn already.

    A thin line joins a label to its point. It may cross others, so it does not count as drawn.
    """
    from matplotlib.transforms import Bbox

    style.lay_out(figure)
    figure.set_layout_engine("none")
    ink = []
    for point in points:
        deviation = point.deviation or 0
        ends = [(point.multiply_adds, point.error + sign * deviation) for sign in (-1, 1)]
        # A marker is 6 points wide, its bar 5.
        ink.append(Bbox(axes.transData.transform(ends)).padded(4 * figure.dpi / 72))
    for point in points:
        text = _text(axes, point, _PLACES[0])
        costs = {}
        for place in _PLACES:
            _move(text, place)
            costs[place] = _covered(text.get_window_extent(), ink, axes.get_window_extent())
        chosen = min(_PLACES, key=lambda place: costs[place])
        _move(text, chosen)
        ink.append(text.get_window_extent())
        text.remove()
        _text(axes, point, chosen, has_line=True)


def _text(axes: "Axes", point: Point, place: _Place, *, has_line: bool = False) -> "Annotation":
    """Writes the name of a network beside its point, with or without a thin line between them."""
    color = line_style(point.model)["color"]
    near = ({"left": 0, "center": 0.5, "right": 1}[place.horizontal], {"bottom": 0, "top": 1}.get(place.vertical, 0.5))
    line = {"arrowstyle": "-", "color": color, "lw": 0.4, "shrinkA": 0, "shrinkB": 2, "relpos": near}
    return axes.annotate(
        style.name(point.model),
        (point.multiply_adds, point.error),
        (place.x, place.y),
        textcoords="offset points",
        fontsize=style.SMALL_TEXT,
        color=color,
        horizontalalignment=place.horizontal,
        verticalalignment=place.vertical,
        arrowprops=line if has_line else None,
    )


def _move(text: "Annotation", place: _Place) -> None:
    text.set(position=(place.x, place.y), horizontalalignment=place.horizontal, verticalalignment=place.vertical)


def _covered(box: "Bbox", ink: Sequence["Bbox"], room: "Bbox") -> float:
    """Returns the area of a box, in square pixels, that covers other boxes or lies outside the room."""
    from matplotlib.transforms import Bbox

    shared = [Bbox.intersection(box, other) for other in ink]
    inside = Bbox.intersection(box, room)
    outside = box.width * box.height - (0 if inside is None else inside.width * inside.height)
    return outside + sum(one.width * one.height for one in shared if one is not None)
