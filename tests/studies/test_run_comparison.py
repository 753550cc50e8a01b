"""Finished runs are grouped by their settings, and the table and the page have what they reach."""

import base64
import json
import re

from study_fixtures import compared_runs_fixture  # noqa: F401
from training_fixtures import made_record, made_summary

from seanet_jax.studies.run_comparison import differing_settings, notes, page, read_groups, rows, text


def test_runs_that_differ_in_their_seeds_alone_are_one_row(compared_runs):
    first, second = groups = read_groups(compared_runs)
    assert (first.name, second.name) == ("senet20-lr0.1", "senet20-lr0.02-seed0")
    assert differing_settings(groups) == {"learning_rate": ["0.1", "0.02"]}
    header, *found = rows(groups)
    assert header[:4] == ("run", "network", "parameters", "epochs")
    # 45 and 47 at the last epoch, 50 and 47 at the best one; half a second an epoch.
    assert found[0] == ("senet20-lr0.1", "senet20", "1,234", "2", "46.00 ± 1.41", "48.50 ± 2.12", "0.00", "2")
    assert found[1][4:] == ("60.00", "60.00", "0.00", "1")
    assert "hyperparameter  senet20-lr0.1  senet20-lr0.02-seed0\nlearning_rate   0.1            0.02" in text(groups)
    assert [note.split(" ")[0] for note in notes(groups)] == ["A", "A"]


def test_seeds_alone_differ_in_no_setting(compared_runs):
    (group,) = groups = read_groups(compared_runs[:2])
    assert len(group.runs) == 2 and differing_settings(groups) == {}
    assert text(groups).startswith("The runs differ in their seeds alone.\n\nrun  ")


def test_a_moving_average_has_a_column(compared_runs):
    records = [made_record(1, ema_test_accuracy=0.1), made_record(2, ema_test_accuracy=0.375)]
    (compared_runs[2] / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (compared_runs[2] / "summary.json").write_text(json.dumps(made_summary(records)))
    header, first, second = rows(read_groups(compared_runs))
    column = header.index("EMA test accuracy, %")
    assert (first[column], second[column]) == ("—", "37.50")


def test_runs_that_cannot_be_compared_fairly_are_noted(compared_runs):
    about = json.loads((compared_runs[2] / "config.json").read_text())
    about["config"] |= {"dataset": "cifar10"}
    (compared_runs[2] / "config.json").write_text(json.dumps(about))
    assert (
        notes(read_groups(compared_runs))[0]
        == "The runs are of different data sets, so their accuracies cannot be compared."
    )
    about["config"] |= {"dataset": "cifar100", "limit_test": 50}
    (compared_runs[2] / "config.json").write_text(json.dumps(about))
    assert notes(read_groups(compared_runs))[0] == "The runs are tested on different numbers of images."


def test_the_page_shows_the_table_and_two_figures(compared_runs):
    html = page(read_groups(compared_runs), "seanet compare-runs a b c")
    figures = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', html)
    assert len(figures) == 2 and all(base64.b64decode(one).rstrip().endswith(b"</svg>") for one in figures)
    assert ">Best test accuracy, %</th>" in html and ">Run</th>" in html and "<h2>Learning curves</h2>" in html
    assert "46.00 ± 1.41" in html and "<title>3 runs compared</title>" in html and "seanet compare-runs a b c" in html
