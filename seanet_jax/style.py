"""The style of all figures: sizes and labels for a paper, a color-blind-safe palette, and SVG and PNG files."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seanet_jax.durable import make_folders, write_together
from seanet_jax.paths import UserPath, user_path
from seanet_jax.printable import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, whose colors can be told apart with any form of color vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
# The gray of published results, so that they stay behind the colors of new ones.
PUBLISHED = "#999999"

DOTS_PER_INCH = 300

# The widths of a paper's text column and of its page, in inches.
COLUMN, PAGE = 3.3, 6.8

# The smallest font size in points that reads well on paper.
SMALL_TEXT = 7.5


def figure(
    rows: int = 1, columns: int = 1, *, width: float = PAGE, height: float = 3.0, **subplots: Any
) -> "tuple[Figure, list[Axes]]":
    """Creates an empty figure.

    Args:
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        width: Width of the figure in inches: ``PAGE``, or ``COLUMN`` for one with room for a text column.
        height: Height of the figure in inches.
        **subplots: Keyword arguments of ``Figure.subplots``.

    Returns:
        The figure and its axes, row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The layout measures labels in whole pixels, so it needs the resolution at which the figure is saved.
    empty = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(empty)
    axes = list(empty.subplots(rows, columns, squeeze=False, **subplots).flat)
    for panel in axes:
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    return empty, axes


def label(axes: "Axes", *, x: str, y: str, title: str = "") -> None:
    """Labels the axes and sets the title of a panel.

    Args:
        axes: The panel.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
        title: Title of the panel.
    """
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=9, loc="left")


def name(text: str, longest: int = 32) -> str:
    """Returns a name as figures show it: on one line, cut if it is long, and as it is written.

    Matplotlib would typeset what is between two dollar signs as a formula, or fail to.

    Args:
        text: A name that others have chosen, for example of a class or a data set.
        longest: Largest number of characters.
    """
    return shortened(text, longest).replace("$", r"\$")


def log_axis(axes: "Axes", name: str, *, unit: float = 1.0) -> None:
    """Makes an axis logarithmic, with ticks such as 1, 2, 5, 10 and 1,000 instead of powers of ten.

    Args:
        axes: The panel to change.
        name: "x" or "y".
        unit: The value whose tick is labeled 1.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,g}"))
    axis.set_minor_formatter(NullFormatter())


def svg(figure: "Figure") -> bytes:
    """Returns a figure as SVG. A figure drawn by the same code gives the same bytes."""
    import matplotlib as mpl

    # By default, identifiers are random and the date is stored.
    with mpl.rc_context({"svg.hashsalt": "seanet_jax", "svg.fonttype": "path"}):
        return encode(figure, format="svg", metadata={"Date": None})


def png(figure: "Figure") -> bytes:
    """Returns a figure as PNG with 300 dots per inch. A figure drawn by the same code gives the same bytes."""
    return encode(figure, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def encode(figure: "Figure", **options: Any) -> bytes:
    """Returns a figure as the bytes of a file.

    Args:
        figure: The figure.
        **options: Keyword arguments of ``Figure.savefig``, such as ``format``.
    """
    file = io.BytesIO()
    with _any_letters():
        figure.savefig(file, **options)
    return file.getvalue()


def lay_out(figure: "Figure") -> None:
    """Lays a figure out as saving it does, after which the positions of its texts are known."""
    with _any_letters():
        figure.draw_without_rendering()


@contextlib.contextmanager
def _any_letters() -> Iterator[None]:
    """Lets texts have letters that the font lacks, such as emoji. They are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def save(figure: "Figure", path: UserPath) -> Sequence[Path]:
    """Writes a figure as an SVG and a PNG file; see ``svg`` and ``png``.

    Args:
        figure: The figure.
        path: Path of both files without their suffix. Its folder is created if it does not exist.

    Returns:
        The paths of the SVG and the PNG file.
    """
    path = user_path(path)
    make_folders(path.parent)
    files = encoded(figure, path.name)
    write_together(path.parent, files)
    return [path.with_name(name) for name in files]


def encoded(figure: "Figure", name: str) -> dict[str, bytes]:
    """Returns the contents of the SVG and the PNG file of a figure by the names of the files; see ``save``."""
    # The suffix is appended, because Path.with_suffix would replace the end of a name such as "lr0.1".
    return {f"{name}.svg": svg(figure), f"{name}.png": png(figure)}
