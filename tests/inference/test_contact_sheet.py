"""A contact sheet shows every image and its lines of text."""

import io

import numpy as np
import pytest
from PIL import Image
from predict_fixtures import IMAGES

from seanet_jax import InputError
from seanet_jax.inference.contact_sheet import MOST, SIDE, Cell, Line, contact_sheet


def test_a_sheet_has_every_picture_and_its_words():
    cells = [Cell(Image.fromarray(image), [Line("a name that is too long by far", "9.9%")]) for image in IMAGES]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(cells))).convert("RGB")).astype(int)
    width, height = (sheet.shape[1] - 10) // 3, (sheet.shape[0] - 10) // 3
    for number, image in enumerate(IMAGES):
        y, x = 10 + number // 3 * height, 10 + number % 3 * width
        cell = sheet[y : y + SIDE, x : x + SIDE]
        big = image.repeat(13, 0).repeat(13, 1)  # 12 pixels, 13 times, are the most that fit in 160
        np.testing.assert_array_equal(cell[28:132, 2:158], big)
        words = sheet[y + SIDE + 1 : y + height - 10, x : x + SIDE]
        assert (words < 128).any((0, 2)).nonzero()[0].max() > SIDE - 10, "the value ends at the right"
        assert (sheet[y : y + height, x + SIDE + 1 : x + width] == 255).all(), "words stay below their picture"
    for count in (0, MOST + 1):
        with pytest.raises(InputError, match="give from 1 to 1000"):
            contact_sheet(cells[:1] * count)


def test_pictures_of_any_size_fill_their_squares():
    for size, shown in (((32, 32), (160, 160)), ((64, 64), (128, 128)), ((96, 96), (160, 160)), ((96, 40), (160, 67))):
        cell = Cell(Image.new("RGB", size, "black"), [Line("名前" * 40), Line("قطة 🙂")])
        sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([cell]))).convert("L"))[10 : 10 + SIDE]
        rows, columns = (sheet == 0).any(1), (sheet == 0).any(0)
        assert (columns.sum(), rows.sum()) == shown
