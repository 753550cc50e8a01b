"""What ``seanet evaluate`` prints, and what it says of wrong arguments."""

import json
import re
import shutil
import sys

import forks
import pytest
from training_fixtures import NAMES, made_dataset, small

from seanet_jax.commands import evaluate as command


@pytest.mark.slow
def test_the_command_prints_a_short_table(evaluated, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(evaluated, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["seanet evaluate", str(copy), "--which", "latest"])
    with small(made_dataset(class_names=NAMES)):
        command.run()
    about = json.loads((copy / "evaluation" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    lines = capsys.readouterr().out.splitlines()
    assert about["command"] == f"seanet evaluate {copy} --which latest"
    assert lines[0] == "tiny on digits, latest checkpoint (epoch 3, step 15), 23 test images"
    assert re.fullmatch(r"  top-1 accuracy +\d+\.\d\d%", lines[1])
    assert re.fullmatch(r"  mean per-class accuracy +\d+\.\d\d% \(classes of 10 to 13 images\)", lines[2])
    assert re.fullmatch(r"  loss +\d\.\d{4} nats", lines[3])
    assert re.fullmatch(r"  expected calibration error +\d+\.\d\d% \(15 bins\)", lines[4])
    assert lines[5].split()[-3:] == [lines[1].split()[-1] + ",", lines[3].split()[-2], "nats"]  # recorded in training
    assert [line[:15].strip() for line in lines[6:9]] == ["best classes", "worst classes", "most confused"]
    assert lines[9:] == [f"the report is {copy / 'report.html'}"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing is neither a folder nor a network that comes with the package; those are "),
        (("nothing", "--which", "first"), "invalid choice: 'first'"),
        ((), "the following arguments are required: folder"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(tmp_path, arguments, words):
    done = forks.run(["-m", "seanet_jax", "evaluate", *arguments], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert not list(tmp_path.iterdir())
