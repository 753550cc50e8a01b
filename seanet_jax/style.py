"""How figures look: sizes and labels for a paper, a palette for any colour vision, vector and PNG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seanet_jax.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
PUBLISHED = "#999999"

DOTS_PER_INCH = 200


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.8, height: float = 3.0, **subplots: Any
) -> "tuple[Figure, list[Axes]]":
    """An empty figure, and its axes row by row.

    Args:
        rows: of axes.
        columns: of axes.
        width: of the whole in inches; a text column of a paper is 3.3 wide, a page 6.8.
        height: likewise.
        **subplots: keywords of ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Laid out at the resolution it is saved with: labels are measured in whole pixels.
    made = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(made)
    axes = list(made.subplots(rows, columns, squeeze=False, **subplots).flat)
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


def log_axis(axes: "Axes", name: str, *, unit: float = 1.0) -> None:
    """Ticks such as 1, 2, 5, 10 and 1,000, in place of powers of ten.

    Args:
        axes: to change.
        name: "x" or "y".
        unit: what a tick of 1 stands for.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,g}"))
    axis.set_minor_formatter(NullFormatter())


def svg(made: "Figure") -> bytes:
    """A figure as SVG, the same bytes for the same figure."""
    import matplotlib as mpl

    # Identifiers and dates would differ from one writing to the next.
    with mpl.rc_context({"svg.hashsalt": "seanet_jax", "svg.fonttype": "path"}):
        return _drawn(made, format="svg", metadata={"Date": None})


def png(made: "Figure") -> bytes:
    """A figure as PNG of 200 dots an inch, the same bytes for the same figure."""
    return _drawn(made, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def _drawn(made: "Figure", **options: Any) -> bytes:
    file = io.BytesIO()
    made.savefig(file, **options)
    return file.getvalue()


def save(made: "Figure", path: Path) -> Sequence[Path]:
    """Writes a figure as SVG and as PNG; see ``svg`` and ``png``.

    Args:
        made: the figure.
        path: of both files, without their suffix.

    Returns:
        The files' paths.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix, which takes the end of a name such as "lr0.1" for one.
    files = [path.with_name(path.name + suffix) for suffix in (".svg", ".png")]
    for file, content in zip(files, (svg(made), png(made)), strict=True):
        write_whole(file, content)
    return files
