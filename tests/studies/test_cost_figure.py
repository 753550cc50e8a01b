"""What is drawn, read from matplotlib's objects. Whether labels can be read follows from their boxes."""

import numpy as np
import pytest
from figure_fixtures import NETWORKS, assert_legible, assert_saved_alike, boxes

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.studies.cost_figure import error_against_multiply_adds
from seanet_jax.studies.line_styles import line_style

POINTS = [(model, 1e6 * millions, end, 0.4) for model, (end, millions) in NETWORKS.items()]


def test_both_files_are_the_same_when_drawn_again(tmp_path):
    assert_saved_alike(lambda: error_against_multiply_adds(POINTS), tmp_path)


@pytest.fixture(scope="module")
def cost():
    return error_against_multiply_adds([*POINTS[:-1], (*POINTS[-1][:3], None)])


def test_points_are_where_their_numbers_say(cost):
    (axes,) = cost.axes
    bars = {container.get_label(): container for container in axes.containers}
    assert list(bars) == list(NETWORKS)
    for model, multiply_adds, error, _ in POINTS:
        marks, _, spreads = bars[model]
        assert (marks.get_xdata(), marks.get_ydata()) == ([multiply_adds], [error])
        ends = [end for spread in spreads for end in spread.get_segments()[0][:, 1]]
        assert ends == ([] if model == POINTS[-1][0] else pytest.approx([error - 0.4, error + 0.4]))
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert {"50", "100", "200"} <= {text.get_text() for text in axes.get_xticklabels()}
    assert not {text.get_text() for text in axes.get_xticklabels(minor=True)} - {""}


def test_aggregated_networks_have_another_color_and_marker(cost):
    looks = {bars.get_label(): (bars[0].get_color(), bars[0].get_marker()) for bars in cost.axes[0].containers}
    aggregated = {looks[model] for model in NETWORKS if model.startswith("seanet")}
    others = {looks[model] for model in NETWORKS if not model.startswith("seanet")}
    assert aggregated == {(style.VERMILION, "D")}
    assert others == {(style.GREEN, "o"), (style.BLUE, "s")}
    assert not cost.legends  # each point has its name


def test_labels_of_points_cover_nothing(cost):
    (axes,) = cost.axes
    cost.draw_without_rendering()
    assert [text.get_text() for text in axes.texts] == list(NETWORKS)
    assert_legible(cost, [*axes.texts, axes._left_title])
    assert cost.get_size_inches()[0] == style.COLUMN
    centers = axes.transData.transform([point[1:3] for point in POINTS])
    for text, box, own in zip(axes.texts, boxes(axes.texts), centers, strict=True):
        assert text.get_color() == line_style(text.get_text())["color"]
        # 3 points, half a marker, from any; and no farther than 2 lines of text from its own.
        gaps = [np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1)) for x, y in centers]
        assert min(gaps) > 3 / 72 * cost.dpi
        assert np.hypot(max(box.x0 - own[0], 0, own[0] - box.x1), 0) < 22 / 72 * cost.dpi


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "points has 0 networks"),
        ([POINTS[0], POINTS[0]], "points has 2 networks, or one twice"),
        ([("resnet20", 0, 70.0, None)], "resnet20 has 0 multiply-adds"),
        ([("resnet20", 1e6, float("nan"), None)], "resnet20 has an error of nan %"),
        ([("resnet20", 1e6, 101.0, None)], "give one from 0 to 100"),
    ],
)
def test_points_that_cannot_be_drawn_are_named(points, message):
    with pytest.raises(InputError, match=message):
        error_against_multiply_adds(points)
