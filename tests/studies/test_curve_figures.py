"""What is drawn, read from matplotlib's objects. Whether labels can be read follows from their boxes."""

import itertools

import numpy as np
import pytest
from figure_fixtures import NETWORKS, assert_legible, assert_saved_alike, boxes
from hypothesis import given
from hypothesis import strategies as st

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.studies import curve_figures
from seanet_jax.studies.line_styles import line_style
from seanet_jax.training.curves import published_curves


def runs(end, *, seeds=3, epochs=10, start=95.0):
    """Records of runs whose test error falls from ``start`` to ``end``; seeds differ by 0.4 points from one to next."""
    made = []
    for seed in range(seeds):
        errors = end + (start - end) * np.exp(-np.arange(epochs) / (epochs / 4)) + 0.4 * (seed - (seeds - 1) / 2)
        made.append(
            [
                {"epoch": n + 1, "test_accuracy": 1 - error / 100, "train_accuracy": 1.02 - error / 100}
                for n, error in enumerate(errors)
            ]
        )
    return made


CURVES = {model: runs(end) for model, (end, _) in NETWORKS.items()}


def errors_of(model, quantity="test_accuracy"):
    return 100 - 100 * np.array([[record[quantity] for record in one] for one in CURVES[model]])


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curve_figures.error_curves(CURVES, epochs=10),
        lambda: curve_figures.against_published({"cifar100": CURVES}, datasets=["cifar100"]),
    ],
)
def test_both_files_are_the_same_when_drawn_again(draw, tmp_path):
    assert_saved_alike(draw, tmp_path)


# Error over epochs.


@pytest.fixture(scope="module")
def error_curves():
    return curve_figures.error_curves(CURVES | {"seanet20": []}, epochs=10, title="CIFAR-100")


def test_a_line_is_the_mean_over_the_seeds_and_its_band_their_range(error_curves):
    (axes,) = error_curves.axes
    assert [one.get_label() for one in axes.lines] == list(NETWORKS)
    for model, band in zip(NETWORKS, axes.collections, strict=True):
        errors = errors_of(model)
        np.testing.assert_allclose(line(axes, model).get_xdata(), range(1, 11))
        np.testing.assert_allclose(line(axes, model).get_ydata(), errors.mean(0))
        outline = band.get_paths()[0].vertices
        for epoch in range(1, 11):
            there = outline[outline[:, 0] == epoch, 1]
            assert (there.min(), there.max()) == pytest.approx((errors[:, epoch - 1].min(), errors[:, epoch - 1].max()))
    assert axes.get_title(loc="left") == "CIFAR-100\nmean and range of 3 seeds"
    assert axes.get_xlim() == (0, 10.2) and axes.get_yscale() == "linear"


def test_epochs_that_were_not_evaluated_are_left_out_of_a_line():
    sparse = [
        [{k: v for k, v in record.items() if k != "test_accuracy" or record["epoch"] % 5 == 0} for record in one]
        for one in runs(30.0)
    ]
    figure = curve_figures.error_curves({"resnet20": sparse}, epochs=10)
    drawn = line(figure.axes[0], "resnet20")
    expected = 100 - 100 * np.mean([[record["test_accuracy"] for record in one[4::5]] for one in runs(30.0)], 0)
    np.testing.assert_array_equal(drawn.get_xdata(), [5, 10])
    np.testing.assert_allclose(drawn.get_ydata(), expected)
    with pytest.raises(
        InputError, match="a record of resnet20 has no test_accuracy; give runs that have one of the same"
    ):
        curve_figures.error_curves({"resnet20": [sparse[0], runs(30.0)[1]]}, epochs=10)


def test_lines_are_named_at_their_ends_in_their_order(error_curves):
    (axes,) = error_curves.axes
    error_curves.draw_without_rendering()
    labels = {text.get_text().split()[0]: text for text in axes.texts if text.get_text().split()[0] in NETWORKS}
    assert labels.keys() == NETWORKS.keys()
    for model, text in labels.items():
        assert text.get_text() == f"{model}  {errors_of(model).mean(0)[-1]:.1f}"
        assert text.get_color() == line(axes, model).get_color() == line_style(model)["color"]
        assert text.xy == pytest.approx((10, errors_of(model).mean(0)[-1]))
    by_height = sorted(labels, key=lambda model: labels[model].get_position()[1])
    assert by_height == sorted(labels, key=lambda model: errors_of(model).mean(0)[-1])
    assert_legible(error_curves, [*axes.texts, axes._left_title])
    assert error_curves.get_size_inches()[0] == style.COLUMN
    right = axes.get_window_extent().x1
    assert all(box.x0 > right for box in boxes(labels.values()))


def test_one_seed_has_no_band():
    (axes,) = curve_figures.error_curves({"resnet20": runs(70, seeds=1)}, epochs=10).axes
    assert not axes.collections
    assert axes.get_title(loc="left") == "one seed each"


def test_seeds_that_differ_in_number_are_told():
    (axes,) = curve_figures.error_curves({"resnet20": runs(70), "senet20": runs(71, seeds=1)}, epochs=10).axes
    assert len(axes.collections) == 1
    assert axes.get_title(loc="left") == "mean and range of 1 to 3 seeds"


def test_long_runs_have_a_log_axis_and_no_markers():
    figure = curve_figures.error_curves({"resnet20": runs(8, epochs=200)}, epochs=200)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.lines[0].get_marker() == "None"
    assert {"10", "20", "50"} <= {text.get_text() for text in axes.get_yticklabels()}


@pytest.mark.parametrize(
    ("curves", "epochs", "message"),
    [
        ({}, 10, "there are no runs to draw"),
        ({"resnet20": []}, 10, "there are no runs to draw"),
        ({"resnet20": runs(70)}, 0, "epochs is 0; it must be a positive integer"),
        ({"resnet20": [*runs(70), *runs(70, epochs=3)]}, 10, "resnet20 have different last epochs: 10, 10, 10, 3"),
        ({"resnet20": [[]]}, 10, "resnet20 have different last epochs: none"),
        ({"resnet20": [[{"epoch": 1, "val_accuracy": 0.5}]]}, 10, "a record of resnet20 has no test_accuracy"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(curves, epochs, message):
    with pytest.raises(InputError, match=message):
        curve_figures.error_curves(curves, epochs=epochs)


# Ours over the published run.


@pytest.fixture(scope="module")
def against_published():
    return curve_figures.against_published({"cifar100": CURVES}, datasets=["cifar10", "cifar100"])


def test_ours_are_over_the_published_accuracies(against_published):
    for axes, dataset in zip(against_published.axes, ("cifar10", "cifar100"), strict=True):
        for split, name in (("train", "training"), ("test", "test")):
            published = line(axes, f"published, {name}")
            expected = [100 * row[f"{split}_accuracy"] for row in published_curves(dataset)]
            np.testing.assert_allclose(published.get_ydata(), expected)
            assert published.get_color() == style.PUBLISHED
            assert published.get_xdata()[0] == 1 and axes.get_xlim() == (0, published.get_xdata()[-1])
    panel = against_published.axes[1]
    for axes in (panel, *panel.child_axes):
        for model in NETWORKS:
            np.testing.assert_allclose(line(axes, model).get_ydata(), 100 - errors_of(model).mean(0))
            training = line(axes, f"{model}, training")
            np.testing.assert_allclose(training.get_ydata(), 100 - errors_of(model, "train_accuracy").mean(0))
            assert training.get_linewidth() < line(axes, model).get_linewidth()
            assert training.get_color() == line(axes, model).get_color() == line_style(model)["color"]


def test_a_data_set_without_runs_of_ours_says_so(against_published):
    without, panel = against_published.axes
    assert [text.get_text() for text in without.texts] == ["no runs of this study"]
    assert not panel.texts and not without.child_axes
    assert [without.get_title(loc="left"), panel.get_title(loc="left")] == ["CIFAR-10", "CIFAR-100"]
    (axes,) = curve_figures.against_published({"cifar10": {"resnet20": []}}, datasets=["cifar10"]).axes
    assert [text.get_text() for text in axes.texts] == ["no runs of this study"]


def test_the_legend_names_each_line_once(against_published):
    (legend,) = against_published.legends
    notes = ["published, training", "published, test", "thin: training"]
    assert [text.get_text() for text in legend.get_texts()] == [*NETWORKS, *notes]
    against_published.draw_without_rendering()
    assert_legible(against_published, legend.get_texts())


def test_one_data_set_fits_into_a_column():
    figure = curve_figures.against_published({"cifar100": CURVES}, datasets=["cifar100"])
    assert figure.get_size_inches()[0] == style.COLUMN
    figure.draw_without_rendering()
    assert_legible(figure, figure.legends[0].get_texts())


def test_short_runs_have_an_inset_that_shows_them_whole(against_published):
    (inset,) = against_published.axes[1].child_axes
    assert inset.get_xlim() == (1, 10) and inset.get_title(loc="left") == "the first 10 epochs"
    top = max(line(inset, f"{model}, training").get_ydata().max() for model in NETWORKS)
    assert top < inset.get_ylim()[1] < 1.5 * top
    # It hides neither our lines, left of it, nor the published test accuracy, above it.
    against_published.draw_without_rendering()
    box = inset.get_tightbbox()
    panel = against_published.axes[1]
    for name in ("published, test", *NETWORKS):
        points = panel.transData.transform(line(panel, name).get_xydata())
        assert not any(box.contains(x, y) for x, y in points)


def test_long_runs_have_no_inset():
    (axes,) = curve_figures.against_published({"cifar10": {"resnet20": runs(8, epochs=60)}}, datasets=["cifar10"]).axes
    assert not axes.child_axes and not axes.texts


@pytest.mark.parametrize(
    ("curves", "datasets", "message"),
    [
        ({}, [], "name one or more of cifar10, cifar100"),
        ({}, ["digits"], r"datasets is \['digits'\]; name one or more"),
        ({"cifar10": {"resnet20": [[{"epoch": 1, "test_accuracy": 0.5}]]}}, ["cifar10"], "has no train_accuracy"),
    ],
)
def test_accuracies_that_cannot_be_drawn_are_named(curves, datasets, message):
    with pytest.raises(InputError, match=message):
        curve_figures.against_published(curves, datasets=datasets)


# Labels in a column.


def test_labels_that_touch_are_centered_on_what_they_want():
    assert curve_figures._spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert curve_figures._spread([0.5, 0.5, 0.9], 0.2) == pytest.approx([0.4, 0.6, 0.9])
    # 0.4 and 0.6 would leave the third too near: all three are a block.
    assert curve_figures._spread([0.5, 0.5, 0.65], 0.2) == pytest.approx([0.35, 0.55, 0.75])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.3))
def test_labels_are_apart_and_on_the_whole_where_they_want(wanted, height):
    found = curve_figures._spread(wanted, height)
    assert all(b - a >= height - 1e-9 for a, b in itertools.pairwise(found))
    assert np.mean(found) == pytest.approx(np.mean(wanted))
    if all(b - a >= height for a, b in itertools.pairwise(wanted)):
        assert found == pytest.approx(wanted)
