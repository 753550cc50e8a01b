"""Draws many images on one sheet, with a few lines of text below each."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from seanet_jax.errors import InputError

# Side of the square for each image, then gap, line height and font size, all in pixels.
SIDE = 160
_GAP, _LINE, _FONT = 10, 18, 13
_COLUMNS = 8
# Color of secondary text, and of the frame that separates a white image from the white sheet.
_GREY, _FRAME = "#707070", "#d0d0d0"
# Largest number of images. A longer sheet exceeds the image height that common viewers open.
MOST = 1000


class Line(NamedTuple):
    """A line of text below an image.

    Attributes:
        text: Printable text at the left end. It is shortened if it does not fit.
        value: Text at the right end, never shortened. A line without it is gray, unless it is the first.
    """

    text: str
    value: str = ""


class Cell(NamedTuple):
    """An image and the lines of text below it.

    Attributes:
        image: The image, in RGB and of any size. An image of at most ``SIDE / 2`` pixels is enlarged by an integer
            factor without smoothing. Others are resized to ``SIDE`` smoothly.
        lines: The lines of text. The first is bold.
    """

    image: Image.Image
    lines: Sequence[Line]


def contact_sheet(cells: Sequence[Cell]) -> bytes:
    """Draws cells on a sheet, row by row.

    Args:
        cells: The cells, from 1 to ``MOST``.

    Returns:
        The bytes of a PNG file.

    Raises:
        InputError: If there are no cells, or more than ``MOST``.
    """
    if not 1 <= len(cells) <= MOST:
        raise InputError(f"contact_sheet: there are {len(cells)} images; give from 1 to {MOST}")
    columns = min(math.ceil(math.sqrt(len(cells))), _COLUMNS)
    rows = math.ceil(len(cells) / columns)
    width, height = SIDE + _GAP, SIDE + _GAP + _LINE * max(len(cell.lines) for cell in cells)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    fonts = _font("DejaVuSans-Bold.ttf"), _font("DejaVuSans.ttf")
    for number, cell in enumerate(cells):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        image = fitted(cell.image)
        left, upper = x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2
        draw.rectangle((left - 1, upper - 1, left + image.width, upper + image.height), outline=_FRAME)
        sheet.paste(image, (left, upper))
        for row, line in enumerate(cell.lines):
            font, top = fonts[row > 0], y + SIDE + 2 + row * _LINE
            color = "black" if line.value or row == 0 else _GREY
            room = SIDE
            if line.value:
                draw.text((x + SIDE, top), line.value, fill=color, font=font, anchor="ra")
                room -= math.ceil(font.getlength(line.value)) + _GAP // 2
            draw.text((x, top), _shortened(line.text, font, room), fill=color, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    # Matplotlib's fonts cover more alphabets than Pillow's own.
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), _FONT)


def fitted(image: Image.Image) -> Image.Image:
    """Resizes an image to fit a square of ``SIDE`` pixels."""
    factor = SIDE // max(image.size)
    if factor == 1:
        # Enlarged by any factor, since its own pixels are too small to see, and it would fill as little as a quarter.
        scale = SIDE / max(image.size)
        return image.resize(
            (round(image.width * scale) or 1, round(image.height * scale) or 1), Image.Resampling.BICUBIC
        )
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    smaller = image.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return smaller


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Returns the text, ending in an ellipsis if it is wider than the room in pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"
