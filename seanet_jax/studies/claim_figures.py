"""Figures of the talk's claims, drawn from measured numbers. ``style.save`` writes them to files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seanet_jax import style
from seanet_jax.studies.analysis import StageMaps
from seanet_jax.studies.line_styles import arm_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPS_SHOWN = 4


def redundancy_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws the cumulative distributions of absolute correlations, one panel per stage.

    Args:
        rows: One row per stage. Its ``pairs`` map each set of channels, ``before``, ``after``, ``plain``,
            ``plain_chosen`` and ``plain_sums``, to the absolute correlation of each pair of its channels.
    """
    # Colors tell the networks apart, and lines within a color tell the sets of channels apart.
    drawn = {
        "before": ("before aggregation", style.VERMILION, (3, 1.5)),
        "after": ("after aggregation", style.VERMILION, None),
        "plain": ("no aggregation", style.BLUE, (3, 1.5)),
        "plain_chosen": ("no aggregation, as many maps", style.BLUE, None),
        "plain_sums": ("no aggregation, summed at random", style.SKY, (1, 1)),
    }
    made, panels = style.figure(1, len(rows), height=2.9, sharey=True)
    for stage, (axes, row) in enumerate(zip(panels, rows, strict=True), start=1):
        for name, (label, color, dashes) in drawn.items():
            values = np.sort(row["pairs"][name])
            share = 100 * np.arange(1, len(values) + 1) / len(values)
            line = "-" if dashes is None else (0, dashes)
            axes.plot(values, share, color=color, linestyle=line, linewidth=1.4, label=label)
        style.label(axes, x="absolute correlation", y="pairs of maps (%)" if stage == 1 else "", title=f"stage {stage}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 100)
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return made


def gradients_figure(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Draws gradient norms by depth, one panel per measured step.

    Args:
        found: Maps each of the four operations to one row per measured step, with ``step``, ``layers`` and
            ``gradient_norms``.
    """
    from matplotlib.ticker import MaxNLocator

    count = len(found["sum"])
    made, panels = style.figure(1, count, height=2.7, sharey=True)
    for index, axes in enumerate(panels):
        for operation, rows in found.items():
            row = rows[index]
            # Shortcuts run parallel to the other convolutions, so they have no place in the order of depth.
            norms = [
                n for layer, n in zip(row["layers"], row["gradient_norms"], strict=True) if "shortcut" not in layer
            ]
            axes.plot(
                range(1, len(norms) + 1),
                norms,
                color=arm_style(operation)["color"],
                linewidth=1.3,
                marker="o",
                markersize=2,
                label=operation,
            )
        y = "gradient norm (3x3 kernels)" if index == 0 else ""
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        style.log_axis(axes, "y")
        style.label(axes, x="convolution, by depth", y=y, title=f"step {found['sum'][index]['step']}")
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return made


def maps_figure(image: np.ndarray, name: str, stages: Sequence[StageMaps], op: str) -> "Figure":
    """Draws an image and some of its feature maps before and after aggregation, one row per group of maps.

    Args:
        image: The image, uint8 ``[H, W, 3]``.
        name: Title of the image.
        stages: Feature maps of each stage to draw. Only those of the first image in the batch are drawn.
        op: Operation of the aggregation, for the titles.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    factor = stages[0].before.shape[-1] // stages[0].after.shape[-1]
    made = Figure(figsize=(style.PAGE, 0.35 + 0.8 * _GROUPS_SHOWN), dpi=style.DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(made)
    left, *blocks = made.subfigures(
        1, 1 + len(stages), squeeze=False, width_ratios=[1.2] + [factor + 1] * len(stages)
    ).flat
    left.suptitle(style.name(name), fontsize=9)
    # An image fills its axes, so it need not be clipped. Matplotlib gives clip paths random identifiers, which would
    # make the SVG differ each time it is drawn.
    (axes, *empty) = left.subplots(_GROUPS_SHOWN, 1)
    axes.imshow(image, clip_on=False)
    for one in (axes, *empty):
        one.axis("off")
    for number, (block, stage) in enumerate(zip(blocks, stages, strict=True), start=1):
        block.suptitle(f"stage {number}: groups of {factor}, and their {op}", fontsize=9)
        before, after = np.asarray(stage.before[0]), np.asarray(stage.after[0])
        # Draws the groups that vary most, because a map that is zero everywhere shows nothing.
        shown = np.argsort(-after.std((0, 1)), kind="stable")[:_GROUPS_SHOWN]
        grid = block.subplots(_GROUPS_SHOWN, factor + 1, squeeze=False)
        for row, group in zip(grid, np.sort(shown), strict=False):
            members = before[..., group * factor : (group + 1) * factor]
            # The maps of a group share a color scale, so that their strengths can be compared.
            for place, panel in enumerate(row[:-1]):
                panel.imshow(members[..., place], cmap="viridis", vmin=0, vmax=members.max(), clip_on=False)
                panel.set_title(str(group * factor + place), fontsize=6, pad=1.5)
            row[-1].imshow(after[..., group], cmap="magma", vmin=0, clip_on=False)
            row[-1].set_title(f"{op} {group}", fontsize=6, pad=1.5)
        for panel in grid.flat:
            panel.axis("off")
    return made
