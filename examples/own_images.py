"""Writes a folder of images to try `seanet train --dataset folder` on: 1,870 emoji in a folder for each group.

    sudo apt install fonts-noto-color-emoji unicode-data
    python examples/own_images.py FOLDER

The emoji are those of the font Noto Color Emoji. Their groups, such as "Food & Drink", are those of Unicode. Variants
in another skin color are left out. Each emoji becomes a PNG file of 136 x 128 pixels, named by its code points.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

# Where Debian and Ubuntu install them.
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
EMOJI = Path("/usr/share/unicode/emoji/emoji-test.txt")
FONT_SIZE = 109  # the only size of this font, which holds bitmaps
IMAGE_SIZE = 136, 128


def read_emoji(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the group and the text of each emoji in Unicode's `emoji-test.txt`."""
    group = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"# group: (.+)", line):
            group = found[1]
        elif found := re.match(r"([0-9A-F ]+?) *; fully-qualified", line):
            text = "".join(chr(int(code, 16)) for code in found[1].split())
            if not re.search("[\U0001f3fb-\U0001f3ff]", text):  # modifiers of skin color
                yield group, text


def draw(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Returns an emoji on white."""
    image = Image.new("RGB", IMAGE_SIZE, "white")
    ImageDraw.Draw(image).text((0, 0), text, "black", font, embedded_color=True)
    return image


def write_folder(folder: Path, font_file: Path = FONT, emoji_file: Path = EMOJI) -> int:
    """Writes an image of each emoji to `folder/<group>/<code points>.png`, and returns their number."""
    font = ImageFont.truetype(str(font_file), FONT_SIZE)
    emoji = list(read_emoji(emoji_file))
    for group, text in emoji:
        (folder / group).mkdir(parents=True, exist_ok=True)
        name = "-".join(f"{ord(character):x}" for character in text)
        draw(text, font).save(folder / group / f"{name}.png")
    return len(emoji)


def main() -> None:
    """Writes the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write; it is created if it does not exist")
    folder = parser.parse_args().folder
    if missing := [path for path in (FONT, EMOJI) if not path.exists()]:
        parser.error(f"{missing[0]} is missing: sudo apt install fonts-noto-color-emoji unicode-data")
    if not features.check("raqm"):
        parser.error("Pillow has no Raqm, which joins the characters of flags; install Pillow from PyPI")
    print(f"{write_folder(folder):,} images in {folder}")


if __name__ == "__main__":
    main()
