"""What is drawn, read from matplotlib's objects; whether labels can be read, from their boxes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.models import PRESETS
from seanet_jax.studies import figures
from seanet_jax.studies.network_lines import line_of
from seanet_jax.training.curves import published_curves

# Errors of the last epoch in percent, multiply-adds in millions; near enough to each other that labels are crowded.
NETWORKS = {
    "resnet20": (72.2, 40.81),
    "senet20": (70.9, 40.82),
    "seanet20_small": (77.9, 40.39),
    "narrow_resnet20": (68.9, 157.73),
    "narrow_senet20": (68.6, 157.75),
    "seanet20_narrow": (69.1, 149.88),
}


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
POINTS = [(model, 1e6 * millions, end, 0.4) for model, (end, millions) in NETWORKS.items()]
ABLATION = {
    "operation": [("sum", 69.1, 0.5, 0.1), ("mean", 70.2, 0.4, 0.1), ("max", 71.0, 0.3, 0.02)],
    "placement": [("stage", 69.1, 0.5, 0.1), ("block", 74.5, None, 0.02)],
    "squeeze-excitation": [("on", 69.1, 0.5, 0.1), ("off", 70.4, 0.2, None)],
}
BASE = {"operation": "sum", "placement": "stage", "squeeze-excitation": "on"}


def errors_of(model, quantity="test_accuracy"):
    return 100 - 100 * np.array([[record[quantity] for record in one] for one in CURVES[model]])


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def boxes(texts):
    """Of the words, without the line that leads from them."""
    return [Text.get_window_extent(text) for text in texts]


def assert_legible(figure, texts):
    page = figure.bbox
    for box in boxes(texts):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    for one, other in itertools.combinations(boxes(texts), 2):
        assert not one.overlaps(other)


# Every preset has a line of its own, each family one colour and marker.


def test_every_preset_has_a_line_of_its_own():
    lines = {model: line_of(model) for model in PRESETS}
    assert len({(line["color"], line["linestyle"]) for line in lines.values()}) == len(PRESETS)
    assert all(lines[model] == line_of(model) for model in PRESETS)
    aggregates = {name for name, config in PRESETS.items() if getattr(config, "aggregate_placement", "none") != "none"}
    assert {model for model, line in lines.items() if line["marker"] == "D"} == aggregates
    assert line_of("mine") == {"color": style.BLACK, "linestyle": "-", "marker": "v"}
    assert line_of("seanet20")["color"] == style.VERMILION


def test_deeper_networks_are_darker():
    colours = [line_of(f"resnet{depth}")["color"] for depth in (20, 32, 44, 56, 110)]
    green = [int(colour[3:5], 16) for colour in colours]
    assert green == sorted(green, reverse=True) and len(set(green)) == 5
    assert line_of("resnet32")["color"] == "#007E5C"  # #009E73, and a fifth of black


DRAWN = {
    "curves": lambda: figures.error_curves(CURVES, epochs=10),
    "published": lambda: figures.against_published({"cifar100": CURVES}, datasets=["cifar100"]),
    "cost": lambda: figures.error_against_multiply_adds(POINTS),
    "ablation": lambda: figures.ablation(ABLATION, base=BASE),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_both_files_are_the_same_when_drawn_again(draw, tmp_path):
    first, again = (style.save(draw(), tmp_path / name / "lr0.1") for name in ("new", "again"))
    assert [path.relative_to(tmp_path) for path in first] == [Path("new/lr0.1.svg"), Path("new/lr0.1.png")]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"<?xml") and first[1].read_bytes().startswith(b"\x89PNG")


# Error over epochs.


@pytest.fixture(scope="module")
def error_curves():
    return figures.error_curves(CURVES | {"seanet20": []}, epochs=10, title="CIFAR-100")


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
    assert axes.get_title(loc="left") == "CIFAR-100"
    assert axes.get_xlim() == (0, 10.2) and axes.get_yscale() == "linear"
    assert "mean of 3 seeds, band from lowest to highest" in [text.get_text() for text in axes.texts]


def test_lines_are_named_at_their_ends_in_their_order(error_curves):
    (axes,) = error_curves.axes
    error_curves.draw_without_rendering()
    labels = {text.get_text().split()[0]: text for text in axes.texts if text.get_text().split()[0] in NETWORKS}
    assert labels.keys() == NETWORKS.keys()
    for model, text in labels.items():
        assert text.get_text() == f"{model}  {errors_of(model).mean(0)[-1]:.1f}"
        assert text.get_color() == line(axes, model).get_color() == line_of(model)["color"]
        assert text.xy == pytest.approx((10, errors_of(model).mean(0)[-1]))
    by_height = sorted(labels, key=lambda model: labels[model].get_position()[1])
    assert by_height == sorted(labels, key=lambda model: errors_of(model).mean(0)[-1])
    assert_legible(error_curves, axes.texts)
    right = axes.get_window_extent().x1
    assert all(box.x0 > right for box in boxes(labels.values()))


def test_one_seed_has_no_band():
    (axes,) = figures.error_curves({"resnet20": runs(70, seeds=1)}, epochs=10).axes
    assert not axes.collections
    assert "one seed each" in [text.get_text() for text in axes.texts]


def test_seeds_that_differ_in_number_are_told():
    (axes,) = figures.error_curves({"resnet20": runs(70), "senet20": runs(71, seeds=1)}, epochs=10).axes
    assert len(axes.collections) == 1
    assert "mean of 1 to 3 seeds, band from lowest to highest" in [text.get_text() for text in axes.texts]


def test_long_runs_have_a_log_axis_and_no_markers():
    figure = figures.error_curves({"resnet20": runs(8, epochs=200)}, epochs=200)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.lines[0].get_marker() == "None"
    assert {"10", "20", "50"} <= {text.get_text() for text in axes.get_yticklabels()}


@pytest.mark.parametrize(
    ("curves", "epochs", "message"),
    [
        ({}, 10, "there are no runs to draw"),
        ({"resnet20": []}, 10, "there are no runs to draw"),
        ({"resnet20": runs(70)}, 0, "epochs is 0; it must be a positive integer"),
        ({"resnet20": [*runs(70), *runs(70, epochs=3)]}, 10, "resnet20 have different epochs, the last 10, 10, 10, 3"),
        ({"resnet20": [[]]}, 10, "resnet20 have different epochs, the last none"),
        ({"resnet20": [[{"epoch": 1, "val_accuracy": 0.5}]]}, 10, "a record of resnet20 has no test_accuracy"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(curves, epochs, message):
    with pytest.raises(InputError, match=message):
        figures.error_curves(curves, epochs=epochs)


# Ours over the published run.


@pytest.fixture(scope="module")
def against_published():
    return figures.against_published({"cifar100": CURVES}, datasets=["cifar10", "cifar100"])


def test_ours_are_over_the_published_accuracies(against_published):
    for axes, dataset in zip(against_published.axes, ("cifar10", "cifar100"), strict=True):
        for split, name in (("train", "training"), ("test", "test")):
            published = line(axes, f"published SEANet-20, {name}")
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
            assert training.get_color() == line(axes, model).get_color() == line_of(model)["color"]


def test_a_data_set_without_runs_of_ours_says_so(against_published):
    without, panel = against_published.axes
    assert [text.get_text() for text in without.texts] == ["no runs of ours"]
    assert not panel.texts and not without.child_axes
    assert [without.get_title(loc="left"), panel.get_title(loc="left")] == ["CIFAR-10", "CIFAR-100"]
    (axes,) = figures.against_published({"cifar10": {"resnet20": []}}, datasets=["cifar10"]).axes
    assert [text.get_text() for text in axes.texts] == ["no runs of ours"]


def test_the_legend_names_each_line_once(against_published):
    (legend,) = against_published.legends
    notes = ["published SEANet-20, training", "published SEANet-20, test", "thin: training of ours"]
    assert [text.get_text() for text in legend.get_texts()] == [*NETWORKS, *notes]
    against_published.draw_without_rendering()
    assert_legible(against_published, legend.get_texts())


def test_short_runs_have_an_inset_that_shows_them_whole(against_published):
    (inset,) = against_published.axes[1].child_axes
    assert inset.get_xlim() == (1, 10) and inset.get_title(loc="left") == "the first 10 epochs"
    top = max(line(inset, f"{model}, training").get_ydata().max() for model in NETWORKS)
    assert top < inset.get_ylim()[1] < 1.5 * top
    # It hides neither our lines, left of it, nor the published test accuracy, above it.
    against_published.draw_without_rendering()
    box = inset.get_tightbbox()
    panel = against_published.axes[1]
    for name in ("published SEANet-20, test", *NETWORKS):
        points = panel.transData.transform(line(panel, name).get_xydata())
        assert not any(box.contains(x, y) for x, y in points)


def test_long_runs_have_no_inset():
    (axes,) = figures.against_published({"cifar10": {"resnet20": runs(8, epochs=60)}}, datasets=["cifar10"]).axes
    assert not axes.child_axes and not axes.texts


@pytest.mark.parametrize(
    ("curves", "datasets", "message"),
    [
        ({}, [], "published runs to draw are of cifar10, cifar100"),
        ({}, ["digits"], r"datasets is \['digits'\]; published runs"),
        ({"cifar10": {"resnet20": [[{"epoch": 1, "test_accuracy": 0.5}]]}}, ["cifar10"], "has no train_accuracy"),
    ],
)
def test_accuracies_that_cannot_be_drawn_are_named(curves, datasets, message):
    with pytest.raises(InputError, match=message):
        figures.against_published(curves, datasets=datasets)


# Error over multiply-adds.


@pytest.fixture(scope="module")
def cost():
    return figures.error_against_multiply_adds([*POINTS[:-1], (*POINTS[-1][:3], None)])


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


def test_aggregated_networks_have_another_colour_and_marker(cost):
    looks = {bars.get_label(): (bars[0].get_color(), bars[0].get_marker()) for bars in cost.axes[0].containers}
    aggregated = {looks[model] for model in NETWORKS if model.startswith("seanet")}
    others = {looks[model] for model in NETWORKS if not model.startswith("seanet")}
    assert aggregated == {(style.VERMILION, "D")}
    assert others == {(style.GREEN, "o"), (style.BLUE, "s")}
    (legend,) = cost.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SEANet (aggregates)", "SENet", "ResNet"]
    assert [handle.get_marker() for handle in legend.legend_handles] == ["D", "s", "o"]


def test_labels_of_points_cover_nothing(cost):
    (axes,) = cost.axes
    cost.draw_without_rendering()
    assert [text.get_text() for text in axes.texts] == list(NETWORKS)
    assert_legible(cost, axes.texts)
    centres = axes.transData.transform([point[1:3] for point in POINTS])
    for text, box, own in zip(axes.texts, boxes(axes.texts), centres, strict=True):
        assert text.get_color() == line_of(text.get_text())["color"]
        # 3 points, half a marker, from any; and no farther than 2 lines of text from its own.
        gaps = [np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1)) for x, y in centres]
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
        figures.error_against_multiply_adds(points)


# The ablation.


@pytest.fixture(scope="module")
def ablation():
    return figures.ablation(ABLATION, base=BASE)


def test_each_value_has_its_dot_bar_and_rate(ablation):
    assert len(ablation.axes) == len(ABLATION)
    for axes, values in zip(ablation.axes, ABLATION.values(), strict=True):
        assert [bars.get_label() for bars in axes.containers] == [value[0] for value in values]
        for place, (bars, (_, error, deviation, _)) in enumerate(zip(axes.containers, values, strict=True)):
            assert (bars[0].get_xdata(), bars[0].get_ydata()) == ([place], [error])
            ends = [end for spread in bars[2] for end in spread.get_segments()[0][:, 1]]
            assert ends == ([] if deviation is None else pytest.approx([error - deviation, error + deviation]))
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in ablation.axes]
    assert ticks == [["sum\n0.1", "mean\n0.1", "max\n0.02"], ["stage\n0.1", "block\n0.02"], ["on\n0.1", "off\n—"]]


def test_the_base_is_marked_in_every_panel(ablation):
    for axes, title in zip(ablation.axes, ABLATION, strict=True):
        marked = {bars.get_label() for bars in axes.containers if bars[0].get_marker() == "D"}
        assert marked == {BASE[title]}
        assert {bars.get_label() for bars in axes.containers if bars[0].get_color() == style.VERMILION} == marked
        (level,) = [one for one in axes.lines if one.get_linestyle() == "--"]
        assert list(level.get_ydata()) == [69.1, 69.1]
    assert len({axes.get_ylim() for axes in ablation.axes}) == 1


def test_the_ablation_says_over_what_its_errors_spread(ablation):
    assert ablation.get_supxlabel().startswith("mean ± standard deviation over the seeds;")
    alone = figures.ablation({"operation": [("sum", 69.1, None, 0.1), ("mean", 70.2, None, 0.1)]}, base=BASE)
    assert alone.get_supxlabel().startswith("one run each;")


def test_words_of_the_ablation_are_apart(ablation):
    ablation.draw_without_rendering()
    texts = [text for axes in ablation.axes for text in (axes._left_title, *axes.get_xticklabels())]
    assert [axes.get_title(loc="left").replace("\n", "") for axes in ablation.axes] == list(ABLATION)
    assert_legible(ablation, [*texts, ablation._supxlabel])


@pytest.mark.parametrize(
    ("axes", "base", "message"),
    [
        ({}, {}, "has no choices"),
        ({"operation": []}, BASE, "or one of them no values"),
        (ABLATION, {"operation": "sum"}, "base has no value of 'placement'"),
        ({"operation": [("sum", -1.0, None, None)]}, BASE, "operation sum has an error of -1.0 %"),
    ],
)
def test_an_ablation_that_cannot_be_drawn_is_named(axes, base, message):
    with pytest.raises(InputError, match=message):
        figures.ablation(axes, base=base)


# Labels in a column.


def test_labels_that_touch_are_centred_on_what_they_want():
    assert figures._spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert figures._spread([0.5, 0.5, 0.9], 0.2) == pytest.approx([0.4, 0.6, 0.9])
    # 0.4 and 0.6 would leave the third too near: all three are a block.
    assert figures._spread([0.5, 0.5, 0.65], 0.2) == pytest.approx([0.35, 0.55, 0.75])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted), st.floats(0.01, 0.3))
def test_labels_are_apart_and_on_the_whole_where_they_want(wanted, height):
    found = figures._spread(wanted, height)
    assert all(b - a >= height - 1e-9 for a, b in itertools.pairwise(found))
    assert np.mean(found) == pytest.approx(np.mean(wanted))
    if all(b - a >= height for a, b in itertools.pairwise(wanted)):
        assert found == pytest.approx(wanted)
