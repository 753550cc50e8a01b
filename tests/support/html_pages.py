"""What tests read from HTML pages, alone and in a browser."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Elements(HTMLParser):
    """Every element with its attributes, and the words of the page."""

    def __init__(self, page):
        super().__init__()
        self.found, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    def text(self):
        return " ".join(" ".join(self.words).split())


def browse(page, profile, *flags):
    """What Chromium makes of a page without a network: its elements, and what it complains of."""
    done = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={profile}",
            ),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--disable-background-networking"),
            *("--enable-logging=stderr", "--dump-dom", *flags, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, re.findall(r"CONSOLE.*?\] \"(.*)\", source", done.stderr)


def widths(pages, folder):
    """The width that each page needs / that it has, in frames 390 pixels wide, since a window has a minimum."""
    frames = "".join(
        f'<iframe style="width: 390px; height: 844px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for page in pages
    )
    script = (
        "<script>onload = () => { document.title = [...document.querySelectorAll('iframe')].map(frame => "
        "frame.contentDocument.documentElement).map(e => e.scrollWidth + '/' + e.clientWidth).join(' '); }</script>"
    )
    (folder / "frames.html").write_text(f"<!doctype html><title>not measured</title>{script}{frames}")
    dump, complaints = browse(folder / "frames.html", folder / "profile", "--hide-scrollbars")
    assert complaints == []
    return re.search("<title>(.*)</title>", dump)[1]
