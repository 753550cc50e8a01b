"""What the tests of the studies' figures share: made networks, and checks of labels."""

import itertools

from matplotlib.text import Text

from seanet_jax import style

# Errors of the last epoch in percent, multiply-adds in millions; near enough to each other that labels are crowded.
NETWORKS = {
    "resnet20": (72.2, 40.81),
    "senet20": (70.9, 40.82),
    "seanet20_small": (77.9, 40.39),
    "narrow_resnet20": (68.9, 157.73),
    "narrow_senet20": (68.6, 157.75),
    "seanet20_narrow": (69.1, 149.88),
}


def boxes(texts):
    """Returns the boxes of texts, without the lines that lead to them."""
    return [Text.get_window_extent(text) for text in texts]


def assert_legible(figure, texts):
    page = figure.bbox
    for box in boxes(texts):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    for one, other in itertools.combinations(boxes(texts), 2):
        assert not one.overlaps(other)


def assert_saved_alike(draw, folder):
    """A figure that is drawn and saved twice gives the same SVG and the same PNG."""
    first, again = (style.save(draw(), folder / name / "lr0.1") for name in ("new", "again"))
    assert [path.relative_to(folder).as_posix() for path in first] == ["new/lr0.1.svg", "new/lr0.1.png"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"<?xml") and first[1].read_bytes().startswith(b"\x89PNG")
