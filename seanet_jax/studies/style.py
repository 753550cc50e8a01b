"""How the figures of the studies look: sizes and labels for a paper, one colour per network, vector and PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
PUBLISHED = "#999999"

# A network's family decides its colour, its size the line: solid as published, dashed wide or narrow, dotted small.
_FAMILIES = {"seanet": VERMILION, "senet": BLUE, "preact_resnet": PURPLE, "resnet": GREEN}
_DASHES = {"wide_": (6, 2), "narrow_": (3, 1.5), "_narrow": (3, 1.5), "_small": (1, 1), "_block": (4, 1, 1, 1)}

# What the ablations change gets the palette's order; yellow is too pale for a line.
CYCLE = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)


def line_of(model: str) -> dict[str, object]:
    """Keywords of ``Axes.plot`` for a network: the same in every figure.

    Args:
        model: name of a preset; one of another name is black.
    """
    bare = model.removeprefix("wide_").removeprefix("narrow_")
    colour = next((colour for family, colour in _FAMILIES.items() if bare.startswith(family)), BLACK)
    dashes = next((dashes for mark, dashes in _DASHES.items() if mark in model), None)
    return {"color": colour, "linestyle": "-" if dashes is None else (0, dashes)}


def figure(rows: int = 1, columns: int = 1, *, width: float = 6.8, height: float = 3.0) -> "tuple[Figure, list[Axes]]":
    """An empty figure, and its axes row by row.

    Args:
        rows: of axes.
        columns: of axes.
        width: of the whole in inches; a text column of a paper is 3.3 wide, a page 6.8.
        height: likewise.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.tick_params(labelsize=8)
        one.grid(alpha=0.25, linewidth=0.5)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def label(axes: "Axes", *, x: str, y: str, title: str = "") -> None:
    """Names the axes, with units, and the panel."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=9, loc="left")


def save(made: "Figure", path: Path) -> Sequence[Path]:
    """Writes a figure as SVG and as PNG of 200 dots an inch, the same bytes for the same figure.

    Args:
        made: the figure.
        path: of both files, without their suffix.

    Returns:
        The files' paths.
    """
    import matplotlib as mpl

    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(suffix) for suffix in (".svg", ".png")]
    # Identifiers and dates would differ from one writing to the next.
    with mpl.rc_context({"svg.hashsalt": "seanet_jax", "svg.fonttype": "path"}):
        made.savefig(files[0], metadata={"Date": None})
    made.savefig(files[1], dpi=200, metadata={"Software": None})
    return files
