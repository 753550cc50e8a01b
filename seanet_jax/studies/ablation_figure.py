"""The figure of the ablation. ``style.save`` writes it."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seanet_jax import style
from seanet_jax.errors import InputError
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
    """Draws the test error in percent of each value, with a panel for each design choice.

    A point is the mean over the seeds, with the standard deviation as a bar. The learning rate of a value is written
    below its name. A dashed line marks the error of the base network in all panels.

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
        # A letter is about 5 points wide, and all panels together about 400 points.
        wrapped = textwrap.fill(title, max(4, int(400 / 5 * ratio / sum(ratios))))
        panel.set_title(wrapped, fontsize=9, loc="left")
        names = [f"{value.name}\n{_rate(value)}" for value in values]
        panel.set_xticks(range(len(values)), names, fontsize=style.SMALL_TEXT)
        panel.set_xlim(-0.6, len(values) - 0.4)
        panel.grid(False, axis="x")
    spread = any(value.deviation is not None for values in choices.values() for value in values)
    points = "mean ± standard deviation over the seeds" if spread else "one run each"
    figure.supxlabel(
        f"{points}; below each value: its learning rate; diamond and line: base network", fontsize=style.SMALL_TEXT
    )
    return figure


def _rate(value: Value) -> str:
    return "—" if value.learning_rate is None else f"{value.learning_rate:g}"
