"""What is drawn, read from matplotlib's objects. Whether labels can be read follows from their boxes."""

import pytest
from figure_fixtures import assert_legible, assert_saved_alike

from seanet_jax import style
from seanet_jax.errors import InputError
from seanet_jax.studies.ablation_figure import ablation_figure
from seanet_jax.studies.line_styles import arm_style

ABLATION = {
    "operation": [("sum", 69.1, 0.5, 0.1), ("mean", 70.2, 0.4, 0.1), ("max", 71.0, 0.3, 0.02)],
    "placement": [("stage", 69.1, 0.5, 0.1), ("block", 74.5, None, 0.02)],
    "squeeze-excitation": [("on", 69.1, 0.5, 0.1), ("off", 70.4, 0.2, None)],
}
BASE = {"operation": "sum", "placement": "stage", "squeeze-excitation": "on"}


def test_both_files_are_the_same_when_drawn_again(tmp_path):
    assert_saved_alike(lambda: ablation_figure(ABLATION, base=BASE), tmp_path)


@pytest.fixture(scope="module")
def ablation():
    return ablation_figure(ABLATION, base=BASE)


def test_each_value_has_its_dot_bar_and_rate(ablation):
    assert len(ablation.axes) == len(ABLATION)
    for axes, values in zip(ablation.axes, ABLATION.values(), strict=True):
        assert [bars.get_label() for bars in axes.containers] == [value[0] for value in values]
        for place, (bars, (_, error, deviation, _)) in enumerate(zip(axes.containers, values, strict=True)):
            assert (bars[0].get_xdata(), bars[0].get_ydata()) == ([error], [place])
            ends = [end for spread in bars[2] for end in spread.get_segments()[0][:, 0]]
            assert ends == ([] if deviation is None else pytest.approx([error - deviation, error + deviation]))
    ticks = [[text.get_text() for text in axes.get_yticklabels()] for axes in ablation.axes]
    assert ticks == [
        ["sum (0.1)", "mean (0.1)", "max (0.02)"],
        ["stage (0.1)", "block (0.02)"],
        ["on (0.1)", "off (—)"],
    ]


def test_the_base_is_marked_in_every_panel(ablation):
    for axes, title in zip(ablation.axes, ABLATION, strict=True):
        marked = {bars.get_label() for bars in axes.containers if bars[0].get_marker() == "D"}
        assert marked == {BASE[title]}
        assert {bars.get_label() for bars in axes.containers if bars[0].get_color() == style.VERMILION} == marked
        (level,) = [one for one in axes.lines if one.get_linestyle() == "--"]
        assert list(level.get_xdata()) == [69.1, 69.1]
    assert len({axes.get_xlim() for axes in ablation.axes}) == 1


def test_the_ablation_says_over_what_its_errors_spread(ablation):
    assert ablation.get_suptitle().startswith("mean ± standard deviation over the seeds;")
    alone = ablation_figure({"operation": [("sum", 69.1, None, 0.1), ("mean", 70.2, None, 0.1)]}, base=BASE)
    assert alone.get_suptitle().startswith("one run each;")


def test_words_of_the_ablation_are_apart(ablation):
    ablation.draw_without_rendering()
    texts = [text for axes in ablation.axes for text in (axes._left_title, *axes.get_yticklabels())]
    assert [axes.get_title(loc="left") for axes in ablation.axes] == list(ABLATION)
    assert_legible(ablation, [*texts, ablation._suptitle, ablation.axes[-1].xaxis.label])
    assert ablation.get_size_inches()[0] == style.COLUMN


def test_operations_have_the_colors_of_their_arms(ablation):
    colors = {bars.get_label(): bars[0].get_color() for axes in ablation.axes for bars in axes.containers}
    for name in ("sum", "mean", "max"):
        assert colors[name] == arm_style(name)["color"]
    assert colors["block"] == colors["off"] == style.BLACK


@pytest.mark.parametrize(
    ("axes", "base", "message"),
    [
        ({}, {}, "has no choices"),
        ({"operation": []}, BASE, "or one of them has no values"),
        (ABLATION, {"operation": "sum"}, "base has no value for 'placement'"),
        ({"operation": [("sum", -1.0, None, None)]}, BASE, "operation sum has an error of -1.0 %"),
    ],
)
def test_an_ablation_that_cannot_be_drawn_is_named(axes, base, message):
    with pytest.raises(InputError, match=message):
        ablation_figure(axes, base=base)
