"""The figure of the study of widths: error against multiply-adds, and the distance at equal error."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seanet_jax import style
from seanet_jax.studies.line_styles import arm_style
from seanet_jax.studies.power_law import EqualError
from seanet_jax.studies.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A network's multiply-adds, and its test error over the seeds in percent.
Point = tuple[float, Summary]


def widths_figure(aggregated: Sequence[Point], plain: Sequence[Point], distance: EqualError | None) -> "Figure":
    """Draws the test error in percent over the multiply-adds of networks with and without their aggregates.

    Bars are standard deviations over the seeds. Lines are the fitted power laws. An arrow between them at equal error
    has their distance as its label.

    Args:
        aggregated: The networks with aggregates.
        plain: The networks without.
        distance: The fit, or None to draw the networks alone.
    """
    made, (axes,) = style.figure(width=style.COLUMN, height=2.5)
    arms = (("with aggregates", "sum", aggregated), ("without", "none", plain))
    for number, (label, arm, points) in enumerate(arms):
        if not points:
            continue
        look = arm_style(arm)
        costs = np.array([cost for cost, _ in points])
        axes.errorbar(
            costs,
            [error.mean for _, error in points],
            [error.deviation or 0 for _, error in points],
            color=look["color"],
            marker=look["marker"],
            markersize=4.5,
            linestyle="none",
            capsize=2,
            elinewidth=0.9,
            label=label,
        )
        if distance is not None:
            ends = np.geomspace(costs.min(), costs.max(), 50)
            axes.plot(ends, distance.scales[number] * ends**distance.exponent, color=look["color"], linewidth=1.1)
    style.label(axes, x="multiply-adds for one image (millions)", y="test error (%)")
    style.log_axis(axes, "x", unit=1e6)
    style.log_axis(axes, "y")
    axes.margins(0.12)
    made.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=style.SMALL_TEXT, handletextpad=0.3)
    if distance is not None and distance.factor is not None and distance.is_reached:
        _draw_distance(axes, aggregated, plain, distance)
    return made


def _draw_distance(axes: "Axes", aggregated: Sequence[Point], plain: Sequence[Point], distance: EqualError) -> None:
    """Draws an arrow from the curve without aggregates to the one with them, at an error that both reach."""
    errors = [[error.mean for _, error in arm] for arm in (aggregated, plain)]
    level = math.sqrt(max(map(min, errors)) * min(map(max, errors)))
    end, start = ((level / scale) ** (1 / distance.exponent) for scale in distance.scales)
    arrow = {"arrowstyle": "->", "color": style.BLACK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, level), (start, level), arrowprops=arrow)
    # Left of the arrow and below both curves, which fall, nothing is drawn.
    axes.annotate(
        f"x {distance.factor:.2f}",
        (min(start, end), level),
        (-3, -1),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=style.SMALL_TEXT,
    )
