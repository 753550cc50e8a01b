"""The page of what happens inside a network: which channels it shows, and what it says of them."""

import html
import re

import numpy as np
import pytest
from html_pages import Elements, browse, in_a_browser, widths
from PIL import Image

from seanet_jax.inference.inspection import Aggregated, Inspection
from seanet_jax.inference.inspection_page import _RULES, inspection_page
from seanet_jax.layers.aggregates import AGGREGATE_KINDS

RANDOM = np.random.default_rng(0)
HOSTILE = '"><script>alert(1)</script>'


def aggregated(kind="sum", *, path="stages.0.aggregate", groups=8, factor=4, normalized=False, weights=None):
    """Returns maps of which the last channels after the aggregate have the largest means."""
    channels = groups * factor
    after = np.ones((2, 3, groups)) * np.arange(groups)
    before, members = RANDOM.uniform(size=(2, 3, channels)) - 0.5, np.arange(channels).reshape(-1, factor)
    return Aggregated(path, kind, normalized, before, after, members, weights)


def made(found, name="digit.png"):
    pixels = np.zeros((8, 12, 1), np.uint8)
    picture = Image.new("RGB", (30, 20))
    return inspection_page(found, picture, pixels, image=name, network="a_network", command="seanet show")


def inspection(aggregates=(), excitations=(), classes=(("two", 0.875), (HOSTILE, 0.125)), grad_cam=None):
    grad_cam = RANDOM.uniform(size=(len(classes), 2, 3)) if grad_cam is None else grad_cam
    return Inspection(classes, grad_cam, list(aggregates), dict(excitations))


def rows(page):
    """The labels of the maps in each row."""
    return [re.findall(r"<span>(.*?)</span></li>", row) for row in re.findall(r'<ul class="maps".*?</ul>', page, re.S)]


def test_the_groups_of_the_largest_means_are_shown_with_their_channels():
    page = made(inspection([aggregated()]))
    assert [row[-1] for row in rows(page)] == ["→ 7", "→ 6", "→ 5", "→ 4", "→ 3", "→ 2"]
    assert rows(page)[0] == ["28", "29", "30", "31", "→ 7"]
    text = Elements(page).text()
    assert "Stage 1: 32 channels become 8 Maps of 3 x 2 pixels. Each group of 4 adjacent channels is added" in text
    alternatives = [one["alt"] for one in Elements(page).named("img")]
    assert "Channel 7 after the aggregate, from 7 to 7" in alternatives and all(alternatives)


def test_the_maps_of_a_row_have_one_scale_from_the_lowest_to_the_highest():
    before = np.zeros((1, 1, 2))
    for values, low, high in (((1.0, 2.0), "0", "3"), ((-2.0, 1.0), "-2", "1")):
        before[0, 0] = values
        one = Aggregated("a", "sum", False, before, before.sum(-1, keepdims=True), np.array([[0, 1]]), None)
        *_, found = re.findall(
            r'<p class="scale soft"><span>(.*?)</span>.*?<span>([^<]+)</span></p>', made(inspection([one]))
        )
        assert found == (low, high)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sum", "group of 4 adjacent channels is added up. Batch normalization follows"),
        ("mean", "group of 4 adjacent channels is averaged."),
        ("max", "the largest value of 4 adjacent channels."),
        ("normalized_sum", "is added up and divided by the square root of 4."),
        ("drop", "Of each group of 4 adjacent channels, the first is kept"),
        ("random", "Each group of 4 channels is added up. The groups were drawn at random"),
        ("learned", "group of 4 adjacent channels is added up, each times the learned weight"),
        ("dense", "adds up all 32 channels, each times a learned weight. Before it, the 4 channels of the largest"),
    ],
)
def test_the_page_says_how_channels_are_reduced(kind, words):
    text = Elements(made(inspection([aggregated(kind, normalized=kind == "sum")]))).text()
    assert words in text and ("Batch normalization follows" in text) == (kind == "sum")


def test_the_page_knows_every_kind():
    assert set(_RULES) == set(AGGREGATE_KINDS)


def test_learned_weights_are_shown_and_of_many_the_largest():
    learned = aggregated("learned", groups=1, weights=np.array([[1.0, -0.25, 0.125, 2.0]]))
    assert rows(made(inspection([learned]))) == [["0 × 1", "1 × -0.25", "2 × 0.12", "3 × 2", "→ 0"]]
    dense = aggregated("dense", groups=2, factor=2)
    dense = dense._replace(groups=np.tile(np.arange(4), (2, 1)), weights=np.array([[0, 5, -6, 1.0], [9, 0, 0, 8]]))
    assert rows(made(inspection([dense]))) == [["0 × 9", "3 × 8", "→ 1"], ["1 × 5", "2 × -6", "→ 0"]]


def test_blocks_are_named_and_many_aggregates_are_folded_away():
    paths = [f"stages.0.blocks.{number}.aggregate" for number in range(5)]
    page = made(inspection([aggregated(path=path) for path in paths]))
    assert "Stage 1, block 5: 32 channels become 8" in Elements(page).text()
    assert page.count('<details class="aggregate">') == 5
    assert '<details class="aggregate" open>' in made(inspection([aggregated(path="stages.0.aggregate")]))


def test_weights_of_squeeze_excitation_are_those_of_each_block_by_stage():
    values = {
        f"stages.{stage}.blocks.{block}.squeeze_excite": np.array([0.25, 0.5, 0.75])
        for stage, block in ((0, 0), (0, 1), (1, 0))
    } | {"other": np.array([0.125])}
    page = made(inspection(excitations=values))
    text = Elements(page).text()
    assert "Stage 1 Smallest Mean Largest block 1 0.250 0.500 0.750 block 2 0.250 0.500 0.750 Stage 2" in text
    assert "other Smallest Mean Largest other 0.125 0.125 0.125" in text
    assert sum(one["src"].startswith("data:image/svg") for one in Elements(page).named("img")) == 3


def test_parts_that_a_network_does_not_have_are_left_out():
    text = Elements(made(Inspection([("two", 0.5)], None, [], {}))).text()
    for words in ("There is no Grad-CAM", "This network has no aggregate.", "This network has no squeeze-excitation."):
        assert words in text
    assert "two probability 50.00%" in text
    whole = Elements(made(inspection([aggregated()], {"other": np.array([0.5])}))).text()
    assert "There is no" not in whole and "has no" not in whole


def test_names_add_no_markup_and_nothing_comes_from_elsewhere():
    page = made(inspection([aggregated(path=HOSTILE)], {HOSTILE: np.array([0.5])}), HOSTILE)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert all(one["src"].startswith("data:") and one["alt"] for one in Elements(page).named("img"))
    assert not re.search(r"url\(|@import|https?://", page)


@in_a_browser
def test_nothing_is_wider_than_a_phone(tmp_path):
    wide = aggregated("learned", path="x" * 300, groups=2, factor=16, weights=RANDOM.normal(size=(2, 16)) * 1e-9)
    classes = [("a_name_that_is_longer_than_most" * 9, 0.5)] * 3
    found = inspection([aggregated(), wide], {"y" * 300: RANDOM.uniform(size=9)}, classes)
    assert widths([made(found, "z" * 300)], tmp_path) == "390/390"


@in_a_browser
def test_maps_keep_their_colors_in_the_dark_and_figures_do_not(tmp_path):
    frame = html.escape(made(inspection([aggregated()], {"other": RANDOM.uniform(size=9)})))
    script = (
        "<script>onload = () => { const frame = document.querySelector('iframe'); document.title = ['.maps img', "
        "'figure img'].map(name => getComputedStyle(frame.contentDocument.querySelector(name))).map(style => "
        "style.filter + ' ' + style.padding).join(', '); }</script>"
    )
    (tmp_path / "frame.html").write_text(f'<title>-</title>{script}<iframe srcdoc="{frame}"></iframe>')
    dump, _ = browse(tmp_path / "frame.html", tmp_path / "profile", "--blink-settings=preferredColorScheme=0")
    assert re.search("<title>(.*)</title>", dump)[1] == "none 0px, invert(0.89) hue-rotate(180deg) 8px"
