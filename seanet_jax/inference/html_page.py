"""Renders HTML pages that need no other file: no scripts, no network requests, figures and pictures embedded.

``page_head.jinja`` is their look. Names and settings are escaped, so they cannot add markup.
"""

import base64
from typing import Any

import jinja2

from seanet_jax.printable import shortened

# Largest number of characters of any text. Names are cut earlier, in the templates.
_LONGEST = 2000


def render(template: str, *, loader: jinja2.BaseLoader | None = None, **values: Any) -> str:
    """Returns a page.

    Args:
        template: The name of the template. It includes ``page_head.jinja``.
        loader: What finds the template; None for one in this folder.
        **values: The values that the template shows.
    """
    loaders = [*([] if loader is None else [loader]), jinja2.PackageLoader("seanet_jax.inference", "")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"name": shortened, "percent": "{:.2%}".format, "whole_percent": "{:.0%}".format}
    page = environment.get_template(template).render(values)
    # A path may hold bytes that are no text, which Python keeps as lone surrogates. UTF-8 has none.
    return page.encode("utf-8", "backslashreplace").decode()


def embedded_svg(svg: bytes, alt: str) -> dict[str, str]:
    """Returns what a template needs of a figure: its ``uri`` and its ``alt``.

    Args:
        svg: The SVG file.
        alt: What it shows, for those who do not see it.
    """
    return {"uri": data_uri(svg, "image/svg+xml"), "alt": alt}


def data_uri(content: bytes, kind: str) -> str:
    """Returns a file as a URI that holds it.

    Args:
        content: The file.
        kind: Its media type, for example "image/png".
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _shown(value: Any) -> Any:
    """Returns a value of the template without characters that would turn the direction of the page, and not too long.

    Jinja calls it for every value, and then escapes the value unless it is marked as safe.
    """
    return value if hasattr(value, "__html__") else shortened(value, _LONGEST)
