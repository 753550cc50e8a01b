"""docs/api.md says what the docstrings say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(DOCS / "build_api.py"))["page"]()
    assert (DOCS / "api.md").read_text() == made, "run python docs/build_api.py"


def test_the_page_has_the_blocks_with_their_shapes():
    page = (DOCS / "api.md").read_text()
    for words in ("### `aggregate`", "### `SqueezeExcite`", "#### `Network.from_pretrained`", "`[..., C / factor]`"):
        assert words in page
    assert "- `epochs: int = 200`: Passes over the training images." in page
