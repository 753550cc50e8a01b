"""The curves of several runs in one figure, for the page that compares them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seanet_jax import style
from seanet_jax.training.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.BLACK)
# With more groups than colors, the dashes tell those of one color apart.
_DASHES = ("-", "--", ":", "-.")
# With as many epochs, markers would hide the line.
_EPOCHS_WITH_MARKERS = 20


def curves_of(groups: Mapping[str, Sequence[Sequence[Record]]], quantity: str, label: str) -> "Figure":
    """Draws a quantity over the epochs, with a line for each group of runs.

    A line is the mean over the runs of a group, and a band reaches from the lowest to the highest run. Of runs of
    different lengths, only the epochs that all of them have are drawn.

    Args:
        groups: The records of the runs of each group, by its name.
        quantity: A key of the records. An accuracy is drawn as the error, in percent.
        label: The label of the vertical axis.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = style.figure(width=4.8, height=3.8)
    for number, (name, runs) in enumerate(groups.items()):
        epochs, values = _means(runs, quantity)
        color = _COLORS[number % len(_COLORS)]
        dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
        if len(runs) > 1:
            axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        marker = "o" if len(epochs) < _EPOCHS_WITH_MARKERS else None
        last = f"  {values.mean(0)[-1]:.2f}" if len(epochs) else ""
        line = style.name(name, longest=60) + last
        axes.plot(epochs, values.mean(0), dashes, color=color, linewidth=1.4, marker=marker, markersize=3, label=line)
    style.label(axes, x="epoch", y=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=style.SMALL_TEXT)
    return figure


def _means(runs: Sequence[Sequence[Record]], quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs ``[E]`` that all runs measured, and the values ``[runs, E]``."""
    found = [{record["epoch"]: record[quantity] for record in records if quantity in record} for records in runs]
    epochs = [epoch for epoch in found[0] if all(epoch in one for one in found)]
    values = np.array([[one[epoch] for epoch in epochs] for one in found], np.float64)
    return np.array(epochs), 100 * (1 - values) if quantity.endswith("accuracy") else values
