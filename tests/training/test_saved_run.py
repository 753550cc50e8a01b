"""What a run's files hold, whoever wrote them. tests/test_foreign_folders.py has their folders, and all readers."""

import copy
import json
import math

import pytest
from training_fixtures import TINY_RUN, made_dataset, made_record, made_summary, small

from seanet_jax.errors import InputError
from seanet_jax.models import config_to_json
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.saved_run import read_config, read_records, read_summary
from seanet_jax.version import __version__

# What a hand or another program writes, as JSON; several are no JSON, but Python parses them.
VALUES = [
    *["null", "true", "0", "-1", "1.5", "1e400", "-Infinity", "NaN", "4294967296"],
    *('""', '"x"', "[]", "{}", "[null]", "[[1]]", '{"a": 1}', '"\\ud800"', "1" + 400 * "0"),
    '"\\u001b[31m' + 5000 * "A" + '\\n"',
]


@pytest.fixture
def saved(tmp_path):
    """The folder and the content of a run's config.json, with every field in use."""
    with small(made_dataset()):
        config = TrainConfig(out=tmp_path, **(TINY_RUN | {"decay_every": None, "decay_at": (1, 2)}))
        network, images = config.model_config(2), made_dataset().image_spec
        environment = {"jax": "0.10.2", "device": "1 x cpu"}
        RunFolder(tmp_path).open(config, network, images, "0a", environment, step=5, history=[made_record(1)])
        RunFolder(tmp_path).open(config, network, images, "0a", environment, step=5, history=[made_record(1)])
        yield tmp_path, json.loads((tmp_path / "config.json").read_text())


def test_config_json_comes_back_with_the_version_that_wrote_it(saved):
    folder, about = saved
    found = read_config(folder / "config.json")
    assert (found.config, found.model_config, found.data_sha256) == (about["config"], about["model_config"], "0a")
    assert found.images == made_dataset().image_spec and found.environment == {"jax": "0.10.2", "device": "1 x cpu"}
    assert found.resumed == [{"step": 5, "changed": []}]
    assert found.version == about["version"] == __version__


def test_a_file_of_an_earlier_version_has_fewer_fields(saved):
    folder, about = saved
    for name in ("version", "images", "environment", "converted_from"):
        del about[name]
    (folder / "config.json").write_text(json.dumps(about))
    found = read_config(folder / "config.json")
    assert (found.version, found.images, found.environment, found.converted_from) == (None, None, None, None)
    assert config_to_json(RunFolder(folder).read_network_config()) == config_to_json(
        RunFolder(folder).read_config().model_config(2)
    )


def places(value, path=()):
    """Yields the path of a JSON value and of all values in it."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in items:
        yield from places(one, (*path, name))


def replaced(value, path):
    """Returns a copy in which the value at a path is the text @."""
    if not path:
        return "@"
    made = copy.deepcopy(value)
    place = made
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "@"
    return made


def works_or_says_why(read):
    try:
        return read()
    except InputError as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 2000
        return None


@pytest.mark.slow
def test_any_value_in_any_place_of_config_json_is_read_or_refused_in_a_sentence(saved):
    folder, about = saved
    asked = TrainConfig(out=folder, resume=True, **(TINY_RUN | {"decay_every": None, "decay_at": (1, 2)}))
    read = 0
    for path in places(about):
        text = json.dumps(replaced(about, path))
        for value in VALUES:
            (folder / "config.json").write_text(text.replace('"@"', value))
            run = RunFolder(folder)
            for one in (run.read, run.read_config, run.read_network_config, run.read_images):
                read += works_or_says_why(one) is not None
            works_or_says_why(lambda run=run: run.check(asked))
            works_or_says_why(lambda run=run: run.check_data(asked, "0a", 1))
            works_or_says_why(lambda run=run: run.environment_changes({"jax": "0.12"}))
    assert read > 1000  # by far not all of them are wrong


@pytest.mark.slow
def test_any_value_in_any_place_of_the_records_and_the_summary_is_read_or_refused(saved):
    folder, _ = saved
    lines = [made_record(epoch, val_loss=1.0, val_accuracy=0.5) for epoch in (1, 2)]
    provenance = {"started": "", "ended": "", "command": "", "commit": "", "clean": True, "host": "", "processor": ""}
    spent = dict.fromkeys(("training", "evaluation", "compiling", "saving", "other", "total"), 1.0)
    summary = made_summary(lines, provenance=provenance, time=spent)
    for file, content in (("metrics.jsonl", lines), ("summary.json", summary)):
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "summary.json").write_text(json.dumps(summary))
        assert read_summary(folder / "summary.json", folder / "metrics.jsonl") == summary
        for path in [path for path in places(content) if path]:
            changed = replaced(content, path)
            whole = isinstance(changed, list)
            text = "".join(json.dumps(line) + "\n" for line in changed) if whole else json.dumps(changed)
            for value in VALUES:
                (folder / file).write_text(text.replace('"@"', value))
                for record in works_or_says_why(lambda: read_records(folder / "metrics.jsonl")) or ():
                    assert all(isinstance(number, int | float) for number in record.values())
                    assert math.isfinite(record["epoch"]) and record["step"] > 0
                found = read_summary(folder / "summary.json", folder / "metrics.jsonl")
                if found is not None:
                    assert found["last"] == lines[-1] and isinstance(found["parameters"], int)


def test_records_without_an_evaluation_are_read_but_not_half_of_one(saved):
    folder, _ = saved
    bare = {name: value for name, value in made_record(1).items() if not name.startswith("test")}
    lines = [
        bare,
        made_record(2, val_loss=1.0, val_accuracy=0.5),
        bare | {"epoch": 3, "step": 12, "total_seconds": 2.0},
    ]

    def read(*lines):
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_records(folder / "metrics.jsonl")

    assert read(*lines) == lines
    with pytest.raises(InputError, match=r"line 1 .* is damaged \(it has only one of test_accuracy and test_loss\)"):
        read(bare | {"test_loss": 1.0})
    for name in ("val_accuracy", "ema_test_loss", "selection_accuracy"):
        with pytest.raises(InputError, match=rf"is damaged \(it has {name}, but no test_accuracy\)"):
            read(bare | {name: 1.0})
    with pytest.raises(InputError, match=r"line 3 .* \(its validation metrics are not those of line 2\)"):
        read(*lines[:2], made_record(3))


def test_the_summary_of_another_run_is_none(saved):
    folder, _ = saved
    lines = [made_record(epoch) for epoch in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for summary, expected in (
        (made_summary(lines), True),
        (made_summary([made_record(3, train_loss=9.0)]), False),
        (made_summary([made_record(4)]), False),
    ):
        (folder / "summary.json").write_text(json.dumps(summary))
        assert (read_summary(folder / "summary.json", folder / "metrics.jsonl") is not None) == expected
