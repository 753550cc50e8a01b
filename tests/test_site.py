"""The documentation site builds without a warning, has the API, and loads nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_api_pages_have_the_main_names(site):
    for page, name in (
        ("layers", "layers.functional.aggregate"),
        ("layers", "layers.functional.squeeze_excite"),
        ("layers", "layers.modules.SqueezeExcite"),
        ("models", "models.network.Network.from_pretrained"),
        ("models", "models.seanet.SEANetConfig"),
        ("models", "models.presets.create_model"),
        ("data", "data.dataset.Dataset"),
        ("training", "training.run.fit"),
        ("training", "training.config.TrainConfig"),
        ("inference", "inference.trained.load"),
        ("studies", "studies.compare.run_comparison"),
        ("core", "image_spec.ImageSpec"),
        ("core", "errors.InputError"),
    ):
        assert f'id="seanet_jax.{name}"' in (site / f"api/{page}.html").read_text(), name


def test_arguments_have_their_descriptions(site):
    page = (site / "api/layers.html").read_text()
    assert "[..., C / factor]" in page
    assert ">factor<" in page or "<code>factor</code>" in page


def test_every_room_with_an_api_has_a_page(site):
    rooms = {path.parent.name for path in (ROOT / "seanet_jax").glob("*/__init__.py")}
    assert {path.stem for path in (site / "api").glob("*.html")} == (rooms - {"commands"}) | {"core"}


def test_the_figures_are_there(site):
    for page in site.glob("*.html"):
        for source in re.findall(r'<img [^>]*src="([^"]+)"', page.read_text()):
            assert (page.parent / source).exists(), f"{page.name}: {source}"
    assert "errors.png" in (site / "results.html").read_text()


def test_no_page_loads_anything_from_another_host(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link [^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*>', text)
        assert loaded and not [source for source in loaded if "//" in source], page


def test_pages_have_a_switch_to_dark_colors(site):
    assert 'data-md-color-scheme="slate"' in (site / "index.html").read_text()


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!relative \S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {name for name in there if not name.startswith("results/")} == listed
