"""The figure of the ablation. ``style.save`` writes it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.studies.line_styles import arm_style
from seanet_jax.studies.statistics import check_percentage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Value(NamedTuple):
    """The test error of one value of a design choice.

    Attributes:
        name: The name of the value.
        error: The mean test error over the seeds, in percent.
        deviation: The standard deviation of the error over the seeds, in percentage points, or None for a single seed.
        learning_rate: The learning rate that was chosen for the value, or None if none was.
    """

    name: str
    error: float
    deviation: float | None
    learning_rate: float | None


def ablation_figure(
    axes: Mapping[str, Sequence[tuple[str, float, float | None, float | None]]], *, base: Mapping[str, str]
) -> "Figure":
    """Draws the test error in percent of each value, one row for each, with a panel for each design choice.

    A point is the mean over the seeds, with the standard deviation as a bar. The learning rate of a value is written
    after its name. A diamond and a dashed line mark the base network. Operations have the colors of their arms.

    Args:
        axes: For each choice, the fields of ``Value`` for each of its values.
        base: For each choice, the name of the base's value, which need not be among the values.

    Raises:
        InputError: If there is no choice, a choice has no values or no base, or an error is not a percentage.
    """
    choices = {title: [Value(*value) for value in values] for title, values in axes.items()}
    if not choices or not all(choices.values()):
        raise InputError("the ablation has no choices, or one of them has no values; give at least one of each")
    for title, values in choices.items():
        if title not in base:
            raise InputError(f"base has no value for {title!r}; name the one that the base network has")
        for value in values:
            check_percentage(f"{title} {value.name}", value.error)
    base_errors = {value.error for title, values in choices.items() for value in values if value.name == base[title]}
    ratios = [len(values) + 0.4 for values in choices.values()]
    height = 0.8 + 0.15 * sum(ratios) + 0.2 * len(choices)
    figure, panels = style.figure(len(choices), 1, width=style.COLUMN, height=height, sharex=True, height_ratios=ratios)
    for panel, (title, values) in zip(panels, choices.items(), strict=True):
        for place, value in enumerate(values):
            is_base = value.name == base[title]
            look = arm_style("sum" if is_base else value.name)
            panel.errorbar(
                value.error,
                place,
                xerr=value.deviation,
                color=look["color"],
                marker=look["marker"] if look["marker"] != "." else "o",
                markersize=4.5,
                capsize=2,
                elinewidth=0.9,
                label=value.name,
            )
        for error in base_errors:
            panel.axvline(error, color=arm_style("sum")["color"], linestyle=(0, (3, 2)), linewidth=0.7, zorder=0)
        panel.set_title(title, fontsize=style.SMALL_TEXT, loc="left", pad=2)
        names = [f"{value.name} ({_rate(value)})" for value in values]
        panel.set_yticks(range(len(values)), names, fontsize=style.SMALL_TEXT)
        panel.set_ylim(len(values) - 0.4, -0.6)  # the first value is at the top
        panel.grid(False, axis="y")
        panel.tick_params(axis="x", bottom=panel is panels[-1])
    spread = any(value.deviation is not None for values in choices.values() for value in values)
    points = "mean ± standard deviation over the seeds" if spread else "one run each"
    panels[-1].set_xlabel("test error (%)", fontsize=9)
    figure.suptitle(f"{points};\nin brackets: learning rate", fontsize=style.SMALL_TEXT)
    return figure


def _rate(value: Value) -> str:
    return "—" if value.learning_rate is None else f"{value.learning_rate:g}"
