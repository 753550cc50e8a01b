"""What is drawn, read from matplotlib's objects."""

import numpy as np
import pytest

from seanet_jax import style
from seanet_jax.studies.analysis import StageMaps
from seanet_jax.studies.claim_figures import gradients_figure, maps_figure, redundancy_figure
from seanet_jax.studies.line_styles import arm_style

SETS = ("before", "after", "plain", "plain_chosen", "plain_sums")
LAYERS = ["stem", "stage 1 block 1 conv 1", "stage 1 block 1 conv 2", "stage 1 block 1 shortcut"]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_correlations_are_drawn_as_cumulative_shares_of_the_pairs():
    pairs = np.random.RandomState(0).uniform(size=(2, len(SETS), 4))
    figure = redundancy_figure([{"pairs": dict(zip(SETS, stage, strict=True))} for stage in pairs])
    assert len(figure.axes) == 2
    for axes, stage in zip(figure.axes, pairs, strict=True):
        for line, values in zip(axes.lines, stage, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), np.sort(values))
            np.testing.assert_array_equal(line.get_ydata(), [25, 50, 75, 100])
        assert axes.get_xlabel() == "absolute correlation"
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 100))
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == ["stage 1", "stage 2"]
    assert legend(figure) == [
        "before aggregation",
        "after aggregation",
        "no aggregation",
        "no aggregation, as many maps",
        "no aggregation, summed at random",
    ]


def test_gradient_norms_are_drawn_by_depth_without_shortcuts():
    found = {
        operation: [{"step": step, "layers": LAYERS, "gradient_norms": [n, n + 1, n + 2, 99]} for step in (0, 10)]
        for n, operation in enumerate(("sum", "mean", "max", "none"), start=1)
    }
    figure = gradients_figure(found)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == ["step 0", "step 10"]
    for axes in figure.axes:
        assert axes.get_yscale() == "log" and axes.get_xlabel() == "convolution, by depth"
        for n, line in enumerate(axes.lines, start=1):
            assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == [n, n + 1, n + 2]
            assert line.get_color() == arm_style(line.get_label())["color"]
    assert legend(figure) == list(found)


@pytest.fixture(scope="module")
def stage():
    maps = np.random.RandomState(0).uniform(size=(1, 4, 4, 16)).astype(np.float32)
    # The first group is constant, so four of the seven others are drawn.
    maps[..., :2] = 0
    return StageMaps(maps, maps.reshape(1, 4, 4, 8, 2).sum(-1))


def test_the_groups_that_vary_most_are_drawn_beside_their_sum(stage):
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    figure = maps_figure(image, "image 7", [stage], "sum")
    left, block = figure.subfigs
    assert left.get_suptitle() == "image 7"
    assert block.get_suptitle() == "stage 1: groups of 2, and their sum"
    np.testing.assert_array_equal(left.axes[0].images[0].get_array(), image)
    chosen = sorted(np.argsort(-stage.after[0].std((0, 1)))[:4])
    assert 0 not in chosen
    for group, panels in zip(chosen, np.reshape(block.axes, (4, 3)), strict=True):
        names = [str(2 * group), str(2 * group + 1), f"sum {group}"]
        assert [panel.get_title() for panel in panels] == names
        drawn = [panel.images[0] for panel in panels]
        np.testing.assert_array_equal(drawn[0].get_array(), stage.before[0, ..., 2 * group])
        np.testing.assert_array_equal(drawn[1].get_array(), stage.before[0, ..., 2 * group + 1])
        np.testing.assert_array_equal(drawn[2].get_array(), stage.after[0, ..., group])
        assert drawn[0].get_clim() == drawn[1].get_clim()


@pytest.mark.slow
def test_the_maps_are_saved_alike_each_time(stage, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    first, again = (
        style.save(maps_figure(image, "image 0", [stage], "sum"), tmp_path / name / "maps") for name in ("new", "again")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
