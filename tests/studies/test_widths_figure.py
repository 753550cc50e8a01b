"""What is drawn, read from matplotlib's objects."""

import pytest
from figure_fixtures import assert_legible, assert_saved_alike

from seanet_jax import style
from seanet_jax.studies.line_styles import arm_style
from seanet_jax.studies.power_law import Network, equal_error
from seanet_jax.studies.statistics import summarize
from seanet_jax.studies.widths_figure import widths_figure


def arm(factor):
    """Makes an arm that needs a factor of compute: its networks, and their points."""
    networks = []
    for cost in (40e6, 150e6, 2400e6):
        error = 60 * (cost / 40e6 / factor) ** -0.1
        networks.append(Network(cost, {0: 0.99 * error, 1: 1.01 * error}))
    return networks, [(network.compute, summarize(list(network.errors.values()))) for network in networks]


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_the_figure_has_both_curves_and_their_distance(factor):
    (networks, aggregated), (others, plain) = arm(factor), arm(1)
    figure = widths_figure(aggregated, plain, equal_error(networks, others))
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 50]
    for curve, points, name in zip(curves, (aggregated, plain), ("sum", "none"), strict=True):
        assert curve.get_color() == arm_style(name)["color"]
        # The made errors lie on the curves.
        for place in (0, -1):
            cost, error = points[place]
            assert curve.get_xydata()[place] == pytest.approx((cost, error.mean), rel=1e-3)
    arrow, label = axes.texts
    # It leads from the networks without aggregates to those with them.
    assert label.get_text() == f"x {factor:.2f}" and arrow.xy[0] / arrow.xyann[0] == pytest.approx(factor, rel=1e-3)
    figure.draw_without_rendering()
    box = label.get_window_extent()
    for curve in curves:
        assert all(y > box.y1 for x, y in axes.transData.transform(curve.get_xydata()) if x < box.x1)
    assert_legible(figure, [label, *figure.legends[0].get_texts()])
    assert figure.get_size_inches()[0] == style.COLUMN


def test_both_files_are_the_same_when_drawn_again(tmp_path):
    (networks, aggregated), (others, plain) = arm(1.5), arm(1)
    assert_saved_alike(lambda: widths_figure(aggregated, plain, equal_error(networks, others)), tmp_path)


def test_without_a_distance_there_are_points_alone():
    _, points = arm(1)
    figure = widths_figure(points, [], None)
    assert [bars.get_label() for bars in figure.axes[0].containers] == ["with aggregates"]
    assert not figure.axes[0].texts
