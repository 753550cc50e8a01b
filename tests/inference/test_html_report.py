"""The HTML report: its content, its independence of other files, and how a browser renders it."""

import html
import json
import re

import pytest
from html_pages import Elements, browse, in_a_browser, widths
from training_fixtures import NAMES, records

from seanet_jax.inference.html_report import html_report
from seanet_jax.training.run_folder import RunFolder

PICTURE = b"\x89PNG"
NAMES_OF_FIGURES = ("loss", "accuracy", "confusion", "superclass_confusion", "reliability")
FIGURES = dict.fromkeys(NAMES_OF_FIGURES, b"<svg xmlns='http://www.w3.org/2000/svg'/>")


def about_of(classes=2, names=None):
    names = names or [f"kind{number}" for number in range(classes)]
    return {
        **{"dataset": "made", "model": "tiny", "which": "latest", "step": 20, "epoch": 2, "recorded": None},
        "network": "latest checkpoint (epoch 2, step 20)",
        **{"images": 8, "top_1_accuracy": 0.5, "top_5_accuracy": None, "loss": 1.25, "loss_unit": "nats"},
        **{"mean_class_accuracy": 0.4375, "superclass_accuracy": None, "superclasses": None, "mirror_tta": None},
        "expected_calibration_error": 0.0625,
        "calibration": [
            {"above": 0, "images": 0, "confidence": None, "accuracy": None},
            {"above": 0.5, "images": 8, "confidence": 0.5625, "accuracy": 0.5},
        ],
        "classes": [
            {"name": name, "images": 4 * (n != 1), "accuracy": n / classes if n != 1 else None}
            for n, name in enumerate(names)
        ],
        "most_confused": [{"class": names[0], "answer": names[1], "images": 3}],
        "mistakes": [{"image": 7, "class": names[0], "answer": names[1], "confidence": 0.875}],
        **{
            "confusion": [[]],
            "device": "1 x made",
            "versions": {"python": "3.1", "jax": "1.2.3"},
            "command": "make it",
        },
    }


CONFIG = {"seed": 5, "limit_train": None, "limit_test": None, "validation_fraction": 0.0, "learning_rate": 0.1}
TTA = {
    **{"top_1_accuracy": 0.625, "top_5_accuracy": None, "mean_class_accuracy": 0.5, "loss": 1.0},
    "superclass_accuracy": None,
    "expected_calibration_error": 0.125,
}
SUMMARY = {
    **{"parameters": 1234, "training_seconds": 61, "device": "2 x made", "finished": True},
    "versions": {"python": "3.1", "jax": "1.1.1"},
}


def record(epoch):
    values = {"train_loss": 2.0, "train_accuracy": 0.25, "test_loss": 1.5, "test_accuracy": 0.375}
    return {"epoch": epoch, "step": 10 * epoch, "learning_rate": 0.1, **values, "images_per_second": 9.0, "seconds": 1}


def made(about=None, *, epochs=3, config=(), summary=SUMMARY):
    about = about or about_of()
    pictures = [PICTURE] * len(about["mistakes"])
    return html_report(
        about, [record(n + 1) for n in range(epochs)], {**CONFIG, **dict(config)}, summary, FIGURES, pictures
    )


# Content.


def test_the_page_of_a_real_run_has_its_numbers(evaluated):
    page = Elements((evaluated / "report.html").read_text())
    about = json.loads((evaluated / "evaluation" / "evaluation.json").read_text())
    text = page.text()
    for value in (about["top_1_accuracy"], about["recorded"]["test_accuracy"], about["expected_calibration_error"]):
        assert f"{value:.2%}" in text
    assert f"{about['loss']:.4f}" in text
    for row in records(evaluated):
        assert f" {row['test_loss']:.4f} {row['test_accuracy']:.2%} " in text
    assert about["command"] in text and about["versions"]["jax"] in text
    assert " batch_size 8 " in text and " learning_rate 0.005 " in text
    # Two curves, the matrix, the diagram and every mistake.
    assert len(page.named("img")) == 4 + len(about["mistakes"])


def test_the_page_says_what_it_is_of():
    text = Elements(made()).text()
    assert (
        "latest checkpoint (epoch 2, step 20) · seed 5 · 1,234 parameters · 1 min 01 s of training on 2 x made" in text
    )
    assert "kind0 kind1 3 of 4" in text  # confused
    assert "kind1 confidence 88% true class: kind0" in text  # a mistake
    assert "The mean confidence is 56.25%, and 50.00% of the predictions are correct" in text
    assert "jax 1.1.1 1.2.3" in text and "device 2 x made 1 x made" in text


def test_the_epoch_that_is_evaluated_is_marked():
    rows = re.findall(r"<tr( class=\"mark\")?><td>(\d)</td>", made())
    assert rows == [("", "1"), (' class="mark"', "2"), ("", "3")]
    assert "highlighted row" in made() and "highlighted row" not in made(about_of() | {"epoch": None, "step": 15})


def test_the_page_says_where_the_run_comes_from(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert "Training run" not in made()  # a run of version 0.1.0
    found = {
        **{"started": None, "ended": "2026-05-31T14:03:07Z", "command": "seanet train --model '<b>'", "host": "<i>"},
        **{"commit": "0a1b", "clean": False, "processor": "AMD"},
    }
    spent = {"training": 61.0, "evaluation": 30.0, "compiling": 0.0, "saving": 0.1, "other": 9.0, "total": 100.1}
    page = made(summary=SUMMARY | {"provenance": found, "time": spent}, config={"data_dir": "/home/ada/images"})
    text = Elements(page).text()
    assert "Command seanet train --model '<b>'" in text and "Host <i>" in text and "<i>" not in page
    assert "Started not recorded Ended 2026-05-31T14:03:07Z" in text
    assert "Git commit 0a1b, with uncommitted changes" in text
    assert "Time 1 min 40 s: 1 min 01 s of training, 30 s of evaluation, 9 s of the rest" in text
    assert "data_dir ~/images" in text and "/home/ada" not in page
    clean = found | {"clean": True}
    assert "Git commit 0a1b Host" in Elements(made(summary=SUMMARY | {"provenance": clean})).text()
    none = found | {"commit": None, "clean": None, "command": ""}
    text = Elements(made(summary=SUMMARY | {"provenance": none})).text()
    assert "Command none: a program called fit Git commit none: not a Git checkout" in text


def test_an_epoch_that_was_not_evaluated_has_dashes():
    first, last = record(1), record(2)
    bare = {name: value for name, value in first.items() if not name.startswith("test")}
    for rows in ([bare, last], [last, bare | {"epoch": 3, "step": 30}]):
        about = about_of()
        page = html_report(about, rows, CONFIG, SUMMARY, FIGURES, [PICTURE] * len(about["mistakes"]))
        assert "2.0000 25.00% — — 9.0" in Elements(page).text() and "1.5000 37.50% 9.0" in Elements(page).text()


def test_many_epochs_are_folded_away():
    assert '<details class="card" open>' in made(epochs=12) and '<details class="card" open>' not in made(epochs=13)


def test_of_many_classes_there_are_the_best_and_the_worst():
    few, many = Elements(made(about_of(20))).text(), Elements(made(about_of(30))).text()
    assert "Lowest accuracy first" in few and "classes of" not in few.split("Lowest accuracy first")[1]
    assert few.index("kind0 0% 4") < few.index("kind19 95% 4") < few.index("kind1 — 0")
    worst, best = many[many.index("10 classes of lowest") :].split("10 classes of highest")
    best, everyone = best.split("All 30 classes")
    assert re.findall(r"kind\d+", worst) == [f"kind{n}" for n in (0, *range(2, 11))]
    assert re.findall(r"kind\d+", best) == [f"kind{n}" for n in range(29, 19, -1)]
    assert re.findall(r"kind\d+", everyone.split("Calibration")[0]) == [f"kind{n}" for n in range(30)]


@pytest.mark.parametrize(
    ("fields", "words", "there"),
    [
        ({"config": {"limit_train": 2000, "limit_test": 50}}, "first 2,000 training images and 50 test images", True),
        ({}, "was limited", False),
        ({"about": about_of() | {"which": "best"}}, "The best epoch was selected on these test images", True),
        ({"about": about_of() | {"which": "best"}, "config": {"validation_fraction": 0.1}}, "was selected on", False),
        ({}, "was selected on", False),
        ({"summary": None}, "The run is not finished", True),
        (
            {"summary": SUMMARY | {"stopped_early": True}, "config": {"patience": 4}},
            "stopped early, after 4 evaluations",
            True,
        ),
        ({"summary": SUMMARY | {"stopped_early": True, "stopped_by": "after_epoch"}}, "because the program that", True),
        ({"summary": SUMMARY | {"stopped_early": False}}, "stopped early", False),
        ({"summary": SUMMARY | {"finished": False}}, "The run is not finished", True),
        ({}, "is not finished", False),
        ({"about": about_of() | {"mistakes": []}}, "Most confident mistakes No image was misclassified.", True),
        ({"about": about_of() | {"most_confused": []}}, "pairs No image was misclassified.", True),
        ({"about": about_of() | {"top_5_accuracy": 0.9125}}, "Top-5 accuracy 91.25%", True),
        ({}, "Top-5", False),
        ({}, "uperclass", False),
        ({"about": about_of() | {"mirror_tta": TTA}}, "Loss 1.2500 nats 1.0000 nats Expected calibration", True),
        ({}, "Test-time augmentation", False),
        ({}, "Mean per-class accuracy 43.75% equals top-1: 4 images in each class; 1 class without test", True),
    ],
)
def test_what_a_reader_has_to_know_is_said(fields, words, there):
    assert (words in Elements(made(**fields)).text()) == there


def test_a_network_that_was_not_trained_here_has_no_curves():
    other = {"network": "pretrained weights", "which": None, "step": None, "epoch": None}
    text = Elements(made(about_of() | other, epochs=0, summary=None)).text()
    assert "tiny on made pretrained weights " in text and "Network configuration" in text
    assert "was not trained in this folder. If it was selected on these test images, its accuracy is optimistic" in text
    for words in ("· seed 5", "Metrics per epoch", "is not finished", "The best epoch"):
        assert words not in text
    first, *_ = Elements(made(about_of() | other, epochs=0, summary=None)).named("img")
    assert first["alt"].startswith("Confusion matrix")


def test_classes_in_superclasses_have_two_matrices():
    superclasses = [
        {"name": "fish", "images": 4, "accuracy": 0.75},
        {"name": "empty", "images": 0, "accuracy": None},
        {"name": "trees", "images": 4, "accuracy": 0.5},
    ]
    page = Elements(made(about_of(30) | {"superclass_accuracy": 0.625, "superclasses": superclasses}))
    text = page.text()
    assert "Superclass accuracy 62.50% 3 superclasses" in text
    assert "Per-superclass accuracy Superclass Accuracy Images trees 50% 4 fish 75% 4 empty — 0" in text
    assert "ordered by superclass" in text and "Zoom in to read the class names" in text
    assert [one["alt"] for one in page.named("img") if "matrix" in one["alt"]] == [
        "Confusion matrix of superclasses: share of each superclass's images by predicted superclass",
        "Confusion matrix: share of each class's images by predicted class",
    ]
    # Both can be scrolled on a phone. A small one has a column beside it.
    assert [one["class"] for one in page.named("div") if "wide" in one.get("class", "")] == 2 * ["scroll wide"]
    few = made(about_of(10))
    assert "scroll wide" not in few and "Zoom in" not in few and "by superclass" not in few


# One self-contained page.


def test_it_needs_no_other_file_and_no_network(evaluated):
    page = Elements((evaluated / "report.html").read_text())
    for tag, attributes in page.found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.found}
    assert not re.search(r"url\(|@import|https?://", (evaluated / "report.html").read_text())
    (policy,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_it_says_its_language_title_width_and_what_pictures_show(evaluated):
    page = Elements((evaluated / "report.html").read_text())
    assert [one["lang"] for one in page.named("html")] == ["en"]
    assert any(one.get("content") == "width=device-width, initial-scale=1" for one in page.named("meta"))
    assert re.search(r"<title>tiny on digits: \d+\.\d\d% top-1</title>", (evaluated / "report.html").read_text())
    alternatives = [one["alt"] for one in page.named("img")]
    assert all(alternatives)
    assert alternatives[:4] == [
        "Loss by epoch",
        "Error by epoch",
        "Confusion matrix: share of each class's images by predicted class",
        "Reliability diagram: accuracy and number of images by confidence",
    ]
    # Every scrollable region has keyboard focus and a label.
    scrolls = [one for one in page.named("div") if one.get("class") == "scroll"]
    assert len(scrolls) >= 4 and all(one["tabindex"] == "0" and one["aria-label"] for one in scrolls)


def test_names_are_shown_as_they_are(evaluated):
    page = (evaluated / "report.html").read_text()
    assert NAMES[1] == "<script>alert(1)</script>"
    assert NAMES[1] not in page and html.escape(NAMES[1]) in page
    wild = about_of(names=['"><img src=x>', "a_b & <i>c</i>"])
    page = Elements(made(wild | {"command": "<b>", "device": "<b>", "dataset": "</title><b>"}, config={"<b>": "<b>"}))
    assert not {"b", "i", "script"} & {tag for tag, _ in page.found}
    assert all(one["src"].startswith("data:") for one in page.named("img"))
    assert '"><img src=x>' in page.text() and "a_ b & <i>c</i>" in page.text()  # it may be broken after the underscore


def test_a_name_neither_turns_the_page_around_nor_fills_it():
    plain = made(about_of(2))
    names = ["\u202e\x1b\0two\nlines", "x" * 10_000]
    page = made(about_of(names=names) | {"dataset": names[0], "command": "y" * 10_000}, config={"z" * 10_000: names[1]})
    assert all(character.isprintable() or character == "\n" for character in page)
    assert r"\u202e\x1b\x00two\nlines" in Elements(page).text()
    # Names of classes are cut first. The configuration comes last.
    assert [len(text) for text in re.findall("x{9,}…|y{9,}…|z{9,}…", page)] == [120, 120, 120, 2000, 2000, 2000]
    assert len(page) < len(plain) + 10_000


# In a browser.


@in_a_browser
def test_a_browser_has_nothing_to_complain_of(evaluated, tmp_path):
    dump, complaints = browse(evaluated / "report.html", tmp_path)
    assert "<h2>Most confident mistakes</h2>" in dump
    assert complaints == []


@in_a_browser
def test_a_script_or_a_file_from_elsewhere_is_noticed_and_kept_out(evaluated, tmp_path):
    broken = tmp_path / "broken.html"
    worse = "<script>document.title = 'ran'</script><img src='https://example.org/x.png'></body>"
    broken.write_text((evaluated / "report.html").read_text().replace("</body>", worse))
    dump, complaints = browse(broken, tmp_path / "profile")
    assert "<title>ran</title>" not in dump
    assert any("inline script" in line for line in complaints), complaints
    assert any("https://example.org/x.png" in line for line in complaints), complaints
    # Without its policy, what a script throws.
    thrown = tmp_path / "thrown.html"
    thrown.write_text("<title>x</title><script>nothing()</script>")
    assert ["nothing is not defined" in line for line in browse(thrown, tmp_path / "profile")[1]] == [True]


@in_a_browser
def test_nothing_is_wider_than_a_phone(evaluated, tmp_path):
    """In frames 390 pixels wide, since a window of Chromium's has a minimum; the last is broken, to see it noticed."""
    names = ["a_name_that_is_longer_than_most", "x" * 60, "x" * 10_000, "<W" * 90, *(f"kind{n}" for n in range(26))]
    wide = {f"field_{n}": "value" * 30 for n in range(3)} | {"command_of_the_longest_sort": "y" * 200}
    about = about_of(30, names) | {"command": "seanet evaluate " + "z" * 120, "top_5_accuracy": 1.0}
    report = (evaluated / "report.html").read_text()
    pages = [
        *(report, made(about, epochs=12, config=wide).replace("<details", "<details open")),
        report.replace("</body>", "<div style='width: 400px'>.</div></body>"),
    ]
    assert widths(pages, tmp_path) == "390/390 390/390 416/390"


@in_a_browser
@pytest.mark.parametrize(("scheme", "color"), [("1", "rgb(246, 247, 249)"), ("0", "rgb(18, 22, 28)")])
def test_it_is_light_or_dark_as_the_reader_prefers(evaluated, tmp_path, scheme, color):
    frame = html.escape((evaluated / "report.html").read_text())
    script = (
        "<script>onload = () => { const frame = document.querySelector('iframe'); const of = name => "
        "getComputedStyle(frame.contentDocument.querySelector(name)).backgroundColor; "
        "document.title = of('body') + ' ' + of('figure img'); }</script>"
    )
    (tmp_path / "frame.html").write_text(f'<title>-</title>{script}<iframe srcdoc="{frame}"></iframe>')
    dump, _ = browse(tmp_path / "frame.html", tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}")
    # Figures stay black on white in both color schemes.
    assert re.search("<title>(.*)</title>", dump)[1] == f"{color} rgb(255, 255, 255)"


def test_the_records_are_those_of_the_run(evaluated):
    assert RunFolder(evaluated).read_records() == records(evaluated, timing=True)
