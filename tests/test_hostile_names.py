"""Names that are markup, formulas, commands or too long pass through everything that shows names, harmlessly."""

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from study_fixtures import leave_run
from training_fixtures import TINY, TINY_RUN

from seanet_jax.commands import predict
from seanet_jax.data import DATASETS, Dataset, DatasetSource
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference import stablehlo
from seanet_jax.inference.conversion import convert_to_weights
from seanet_jax.inference.evaluation import evaluate, text
from seanet_jax.inference.trained import load
from seanet_jax.models import PRESETS
from seanet_jax.studies import comparison_tables
from seanet_jax.studies.cost_figure import error_against_multiply_adds
from seanet_jax.studies.curve_figures import error_curves
from seanet_jax.studies.study import Run, Study
from seanet_jax.style import save
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.progress import print_once
from seanet_jax.training.run import fit

CLASSES = (
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;", "</table>"),
    *("=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(1)", "\ttab"),
    *("$x^2$", "$", "$\\bad", r"\textbf{x}"),
    *("a|b`c*d", "[x](javascript:alert(1))"),
    *("\x1b[31mred", "\u202eabc", "two\nlines", "e\u0301\u0321😀", "x" * 10_000),
)
DATASET, MODEL, FOLDER = "<b>$made|\x1b[1m", "=tiny$_<i>|*x*", "<b>$x$"


# All elements and attributes of the template of the page.
ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "sub",
        "small",
        "strong",
    ),
    *("dl", "div", "dt", "dd", "figure", "figcaption", "img", "details", "summary", "ul", "li", "span", "wbr", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "style", "src", "alt", "scope", "open"),
    *("tabindex", "role", "aria-label"),
}


class Elements(HTMLParser):
    """The names of all elements and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.names, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attributes}


def assert_is_printable(output):
    """No terminal is commanded, no line has another direction, and no name fills the screen."""
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "x" * 200 not in output


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The configuration of a run with such names. There are test images of all classes."""
    random = np.random.RandomState(0)
    labels = (np.arange(60) % len(CLASSES)).astype(np.int32)
    images = random.randint(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    spec = ImageSpec(8, 8, (0.5,) * 3, (0.3,) * 3, CLASSES)

    def made(**options):
        return Dataset(DATASET, images, labels, images, labels, image_spec=spec, flip=True)

    monkeypatch.setitem(DATASETS, DATASET, DatasetSource(DATASET, DATASET, spec, 60, made, is_on_disk=False))
    monkeypatch.setitem(PRESETS, MODEL, TINY)
    for number in range(3):
        Image.fromarray(images[number]).save(tmp_path / f"$\x1b[1m<b>{number}.png")
    return TrainConfig(out=tmp_path / FOLDER, **(TINY_RUN | {"dataset": DATASET, "model": MODEL, "epochs": 2}))


@pytest.mark.slow
def test_names_of_any_kind_are_harmless_everywhere(hostile, tmp_path, monkeypatch, capsys):
    # Training: its output, its curves, TensorBoard.
    fit(hostile)
    assert (hostile.out / "curves.png").stat().st_size > 10_000
    assert_is_printable(capsys.readouterr().out)

    # The evaluation: its table, its figures, its contact sheet, its JSON and its page.
    about = evaluate(hostile.out, command="seanet evaluate '<b>\x1b'")
    assert_is_printable(text(about))
    for name in ("confusion", "reliability", "mistakes"):
        assert (hostile.out / "evaluation" / f"{name}.png").stat().st_size > 1_000
    content = (hostile.out / "evaluation" / "evaluation.json").read_text()
    assert tuple(row["name"] for row in json.loads(content)["classes"]) == CLASSES
    page = (hostile.out / "report.html").read_text()
    assert Elements(page).names <= ELEMENTS and Elements(page).attributes <= ATTRIBUTES
    assert_is_printable(re.sub(r'src="data:[^"]*"', "", page))

    # Predictions, from the run and from its weights.
    weights = tmp_path / "=weights$"
    convert_to_weights(hostile.out, weights)
    for folder in (hostile.out, weights):
        assert load(folder).images.class_names == CLASSES
        pictures = [str(path) for path in sorted(tmp_path.glob("*.png"))]
        monkeypatch.setattr(sys, "argv", ["predict", str(folder), *pictures, "--top", "20", "--sheet", "sheet.png"])
        monkeypatch.chdir(tmp_path)
        predict.run()
        output = capsys.readouterr()
        assert_is_printable(output.out + output.err)
        assert len(output.out.splitlines()) == 3 * (1 + len(CLASSES))
        assert (tmp_path / "sheet.png").stat().st_size > 1_000
        (tmp_path / "sheet.png").unlink()
        monkeypatch.setattr(sys, "argv", ["predict", str(folder), *pictures, "--top", "20", "--json"])
        predict.run()
        for image in json.loads(capsys.readouterr().out):
            assert {one["name"] for one in image["predictions"]} == set(CLASSES)

    # The exported artifact.
    said = stablehlo.write(hostile.out, tmp_path / "$<b>.stablehlo")
    assert_is_printable(said)
    assert tuple(json.loads((tmp_path / "$<b>.stablehlo.json").read_text())["classes"]) == CLASSES


def test_names_of_networks_are_harmless_in_the_tables_and_figures_of_studies(tmp_path, monkeypatch, capsys):
    names = (MODEL, "-2$", "@$\\bad", "=resnet")
    for name in names:
        monkeypatch.setitem(PRESETS, name, PRESETS["resnet20" if name == "=resnet" else "seanet20_small"])
    study = Study(tmp_path, TrainConfig(dataset="cifar100", epochs=2), {n: {"model": n} for n in names}, seeds=3)
    for place, name in enumerate(names):
        for seed in range(3):
            leave_run(study, Run(name, 0.1, seed), [0.4, 0.5 + 0.01 * (seed + place)])
    comparison_tables.write_tables(study)
    table = (tmp_path / "table.md").read_text()
    print_once(table)
    assert_is_printable(capsys.readouterr().out)
    for line in table.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 11, line
    assert not re.search(r"(?<!\\)[<>*$]", table.replace("±", ""))
    for file in ("table.csv", "tests.csv"):
        for row in csv.reader(io.StringIO((tmp_path / file).read_text())):
            for cell in row:
                assert not cell.startswith(("=", "+", "-", "@", "\t")) or float(cell) < 0, cell
    records = [{"epoch": 1, "test_accuracy": 0.4}, {"epoch": 2, "test_accuracy": 0.5}]
    for figure in (
        error_curves({name: [records] for name in names}, epochs=2, title=DATASET),
        error_against_multiply_adds([(name, 1e6 * (place + 1), 5.0, 1.0) for place, name in enumerate(names)]),
    ):
        files = save(figure, tmp_path / "figure")
        assert all(file.stat().st_size > 5_000 for file in files)
