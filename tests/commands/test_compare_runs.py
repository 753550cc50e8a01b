"""The command ``seanet compare-runs``: its output, its page and its errors."""

import json
import shutil
import sys

import pytest
from study_fixtures import compared_runs_fixture  # noqa: F401
from training_fixtures import made_record, made_summary

from seanet_jax.commands import compare_runs
from seanet_jax.errors import InputError, RunError
from seanet_jax.studies.run_comparison import read_groups, text


def here(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["seanet compare-runs", *map(str, arguments)])
    compare_runs.run()


def test_the_command_prints_the_table_and_writes_the_page(compared_runs, tmp_path, monkeypatch, capsys):
    hostile = shutil.copytree(compared_runs[2], tmp_path / "<script>alert(1)<")
    page = tmp_path / "pages" / "found.html"
    here(monkeypatch, *compared_runs[:2], hostile, "--out", page)
    out = capsys.readouterr().out
    assert out.startswith(text(read_groups([*compared_runs[:2], hostile]))) and out.endswith(
        f"the curves are in {page}\n"
    )
    html = page.read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "seanet compare-runs" in html


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["senet20-lr0.1-seed0"], "one run has nothing to be compared with; name at least two"),
        (["senet20-lr0.1-seed0", "senet20-lr0.1-seed0"], "is named twice; name each run once"),
        (["senet20-lr0.1-seed0", "unfinished"], "unfinished is not finished; finish it with --resume, or leave it out"),
        (["senet20-lr0.1-seed0", "nothing"], "nothing holds no run"),
        (["senet20-lr0.1-seed0", "senet20-lr0.1-seed1", "--out", "page.txt"], "no name of a page"),
    ],
)
def test_what_cannot_be_compared_is_refused(compared_runs, tmp_path, monkeypatch, names, words):
    unfinished = shutil.copytree(compared_runs[0], tmp_path / "unfinished")
    (unfinished / "summary.json").write_text(json.dumps(made_summary([made_record(1)]) | {"finished": False}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        here(monkeypatch, *names)
    assert not list(tmp_path.glob("*.html"))


def test_a_page_that_cannot_be_written_is_an_error(compared_runs, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--out: .*page\.html could not be written"):
        here(monkeypatch, *compared_runs, "--out", tmp_path / "file" / "page.html")
