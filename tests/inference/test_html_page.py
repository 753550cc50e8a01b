"""Pages in which no text is markup, and which need no other file."""

import base64

import jinja2
import pytest

from seanet_jax.inference import html_page


@pytest.fixture
def page(monkeypatch):
    """Renders a page of one template, which a test gives."""

    def render(template, **values):
        monkeypatch.setattr(jinja2, "PackageLoader", lambda name, path: jinja2.DictLoader({"page.jinja": template}))
        return html_page.render("page.jinja", **values)

    return render


def test_no_value_is_markup_or_turns_the_direction(page):
    assert page("<p>{{ name }}</p>", name="<b>\u202eab") == "<p>&lt;b&gt;\\u202eab</p>"
    assert page("{{ name }}", name="a\udcff") == "a\\udcff"
    assert len(page("{{ name }}", name="a" * 10_000)) == 2000


def test_a_value_that_is_missing_is_an_error(page):
    with pytest.raises(jinja2.UndefinedError):
        page("{{ nothing }}")


def test_a_figure_is_in_the_page(page):
    figure = html_page.embedded_svg(b"<svg/>", "a curve")
    html = page('<img src="{{ figure.uri }}" alt="{{ figure.alt }}">', figure=figure)
    assert html == f'<img src="data:image/svg+xml;base64,{base64.b64encode(b"<svg/>").decode()}" alt="a curve">'
