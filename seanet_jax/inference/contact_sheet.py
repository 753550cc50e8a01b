"""Many pictures on one, with a few words under each."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from seanet_jax.errors import InputError

# Pixels.
SIDE = 160
_GAP, _LINE, _FONT = 10, 18, 13
_COLUMNS = 8
# For what matters less than an answer, and for the edge of a picture that is as white as the sheet.
_GREY, _FRAME = "#707070", "#d0d0d0"
# A sheet of so many is as long as a picture may be that viewers still open.
MOST = 1000


class Line(NamedTuple):
    """A line under a picture.

    Attributes:
        text: printable; shortened where there is no room for it.
        value: at the right end, never shortened. A line without one is grey, unless it is the first.
    """

    text: str
    value: str = ""


class Cell(NamedTuple):
    """A picture and what is said of it.

    Attributes:
        image: RGB, of any size; small ones are enlarged by a whole factor, pixel by pixel.
        lines: the first is bold.
    """

    image: Image.Image
    lines: Sequence[Line]


def contact_sheet(cells: Sequence[Cell]) -> bytes:
    """Draws the cells row by row.

    Args:
        cells: from 1 to ``MOST``.

    Returns:
        A PNG file's bytes.

    Raises:
        InputError: there are none, or too many.
    """
    if not 1 <= len(cells) <= MOST:
        raise InputError(f"contact_sheet: there are {len(cells)} pictures; give from 1 to {MOST}")
    columns = min(math.ceil(math.sqrt(len(cells))), _COLUMNS)
    rows = math.ceil(len(cells) / columns)
    width, height = SIDE + _GAP, SIDE + _GAP + _LINE * max(len(cell.lines) for cell in cells)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    fonts = _font("DejaVuSans-Bold.ttf"), _font("DejaVuSans.ttf")
    for number, cell in enumerate(cells):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        image = _fitted(cell.image)
        left, upper = x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2
        draw.rectangle((left - 1, upper - 1, left + image.width, upper + image.height), outline=_FRAME)
        sheet.paste(image, (left, upper))
        for row, line in enumerate(cell.lines):
            font, top = fonts[row > 0], y + SIDE + 2 + row * _LINE
            colour = "black" if line.value or row == 0 else _GREY
            room = SIDE
            if line.value:
                draw.text((x + SIDE, top), line.value, fill=colour, font=font, anchor="ra")
                room -= math.ceil(font.getlength(line.value)) + _GAP // 2
            draw.text((x, top), _shortened(line.text, font, room), fill=colour, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    # The fonts that come with matplotlib know more alphabets than Pillow's own.
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), _FONT)


def _fitted(image: Image.Image) -> Image.Image:
    """Into a square of ``SIDE``."""
    factor = SIDE // max(image.size)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    smaller = image.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return smaller


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"
