import io
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from seanet_jax import style
from seanet_jax.printable import shortened

COLORS = (style.BLACK, style.ORANGE, style.SKY, style.GREEN, style.YELLOW, style.BLUE, style.VERMILION, style.PURPLE)


def drawn():
    figure, (axes,) = style.figure(width=3.3, height=2.0)
    axes.plot([1, 10, 2000], [1, 2, 3], color=style.BLUE)
    style.label(axes, x="images", y="error (%)", title="A title")
    style.log_axis(axes, "x")
    return figure


def test_the_palette_has_eight_colors():
    assert len({*COLORS, style.PUBLISHED}) == 9
    assert all(len(color) == 7 and int(color[1:], 16) >= 0 for color in COLORS)


def test_axes_come_row_by_row():
    figure, axes = style.figure(2, 3, width=6.0, height=4.0, sharey=True)
    assert [panel.get_subplotspec().num1 for panel in axes] == [0, 1, 2, 3, 4, 5]
    assert figure.get_size_inches().tolist() == [6.0, 4.0]
    assert axes[0].get_shared_y_axes().joined(axes[0], axes[1])
    assert not axes[0].spines["top"].get_visible()


def test_a_panel_is_labeled():
    (axes,) = drawn().axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title("left")) == ("images", "error (%)", "A title")


@pytest.mark.parametrize(("name", "unit", "expected"), [("x", 1, "1,000"), ("y", 1, "1,000"), ("x", 1000, "1")])
def test_log_ticks_are_numbers_rather_than_powers(name, unit, expected):
    _, (axes,) = style.figure()
    style.log_axis(axes, name, unit=unit)
    axis = axes.xaxis if name == "x" else axes.yaxis
    assert axis.get_scale() == "log"
    assert axis.get_major_formatter()(1000, 0) == expected
    assert axis.get_minor_formatter()(500, 0) == ""


def test_equal_figures_give_equal_bytes():
    assert style.svg(drawn()) == style.svg(drawn())
    assert style.png(drawn()) == style.png(drawn())


def test_a_png_has_300_dots_per_inch():
    with Image.open(io.BytesIO(style.png(drawn()))) as image:
        assert image.size == (990, 600)


def test_an_svg_draws_its_text_as_paths():
    """A reader without the font sees the same letters."""
    root = ET.fromstring(style.svg(drawn()))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert root.tag.endswith("svg") and "path" in names and "text" not in names


def test_both_files_are_saved_under_the_whole_name(tmp_path):
    files = style.save(drawn(), tmp_path / "new" / "lr0.1")
    assert files == [tmp_path / "new" / "lr0.1.svg", tmp_path / "new" / "lr0.1.png"]
    # In the same order, because the layout of a figure changes a little whenever it is drawn again.
    figure = drawn()
    assert [file.read_bytes() for file in files] == [style.svg(figure), style.png(figure)]


@pytest.mark.parametrize(
    "text", ["$x^2$", "$", r"$\bad", r"a\$b$", r"\textbf{x}", "$a$ $b$", "😀 字", "x" * 99, "two\nlines"]
)
def test_a_name_is_drawn_as_it_is_written(text):
    made, (axes,) = style.figure()
    title = axes.set_title(style.name(text))
    style.lay_out(made)
    drawn, is_math = title._preprocess_math(title.get_text())
    assert (drawn, bool(is_math)) == (shortened(text, 32), False)
    assert style.png(made)
