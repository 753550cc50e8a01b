"""What the confusion matrix and the reliability diagram show."""

import itertools

import numpy as np
import pytest

from seanet_jax.inference.figures import confusion_figure, reliability_figure
from seanet_jax.inference.metrics import Reliability


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.slow
def test_every_class_is_named_and_no_name_is_over_another():
    names = [r"\$x\$", r"\$\nothing", *map(str, range(98))]
    given = ["$x$", r"$\nothing", *names[2:]]
    for classes, numbered in ((2, True), (20, True), (21, False), (100, False)):
        made = confusion_figure(np.full((classes, classes), 2), given[:classes])
        made.draw_without_rendering()
        axes = made.axes[0]
        assert labels(axes.xaxis) == labels(axes.yaxis) == names[:classes]
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
        assert len(axes.texts) == (classes**2 if numbered else 0)


def test_superclasses_order_the_classes_and_have_lines_between_them():
    confusion = np.diag([1, 2, 3, 4])
    made = confusion_figure(confusion, ("oak", "ray", "elm", "eel"), ("trees", "fish", "trees", "fish"))
    axes = made.axes[0]
    assert labels(axes.xaxis) == labels(axes.yaxis) == ["ray", "eel", "oak", "elm"]
    assert [one.get_text() for one in axes.texts] == ["2", "4", "1", "3"]
    across, down = axes.lines
    assert list(across.get_ydata()) == list(down.get_xdata()) == [1.5, 1.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert confusion_figure(confusion, "abcd", noun="superclass").axes[0].get_ylabel() == "true superclass"
    assert not confusion_figure(confusion, "abcd").axes[0].lines


def test_the_matrix_shows_shares_of_each_class():
    made = confusion_figure(np.array([[3, 1, 0], [0, 8, 0], [0, 0, 0]]), ("a", "b", "unseen"))
    (picture,) = made.axes[0].images
    assert picture.get_array().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert [one.get_text() for one in made.axes[0].texts] == ["3", "1", "8"]


def test_of_very_many_classes_no_cell_vanishes():
    confusion = np.zeros((701, 701), int)
    confusion[np.arange(701), np.arange(701)] = 1
    confusion[5, 700] = 3  # 3 of the 4 images of class 5
    (picture,) = (axes := confusion_figure(confusion, [str(n) for n in range(701)]).axes[0]).images
    cells = picture.get_array()
    assert cells.shape == (234, 234) and axes.get_title(loc="left") == "largest share of each 3 x 3 classes"
    np.testing.assert_array_equal(np.diag(cells), 1)
    assert cells[1, 233] == 0.75 and np.count_nonzero(cells) == 235
    assert labels(axes.xaxis) == []


def test_the_reliability_diagram_shows_every_bin():
    found = Reliability(np.array([0, 6, 2]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 1 / 3, 1.0]))
    figure = reliability_figure(found, 0.15)
    above, below = figure.axes
    figure.draw_without_rendering()
    # The legend covers no bar.
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in (above, below))
    assert [bar.get_height() for bar in above.patches] == [0, 1 / 3, 1]
    assert [bar.get_height() for bar in below.patches] == [0, 0.75, 0.25]
    (points,) = [line for line in above.lines if line.get_label() == "mean confidence"]
    assert points.get_xydata().tolist() == [[0.5, 1 / 3], [0.9, 1.0]]
    assert above.get_title(loc="left") == "expected calibration error 15.00%"
