"""Runs that several processes, programs or versions read and write."""

import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import orbax.checkpoint
import pytest
from training_fixtures import one_second_per_step, raise_at

import seanet_jax
from seanet_jax import InputError, TrainConfig, fit, load
from seanet_jax.inference import evaluation
from seanet_jax.training import images as training_images
from seanet_jax.training.interrupt import StoppedError
from seanet_jax.training.loop import Loop
from seanet_jax.training.run_folder import RunFolder

pytestmark = pytest.mark.slow


def _refuse(word):
    raise AssertionError(f"{word} is not JSON")


def test_files_of_a_run_that_diverged_are_json_and_its_evaluation_is_one_sentence(tiny):
    config = tiny(learning_rate=1e30, on_nan="continue", epochs=1)
    fit(config)
    line = json.loads((config.out / "metrics.jsonl").read_text(), parse_constant=_refuse)
    summary = json.loads((config.out / "summary.json").read_text(), parse_constant=_refuse)
    assert line["test_loss"] is None and summary["last"]["test_loss"] is None
    (record,) = RunFolder(config.out).read_records()
    assert math.isnan(record["test_loss"]) and record["test_accuracy"] == line["test_accuracy"]
    assert fit(dataclasses.replace(config, resume=True)) == summary
    with pytest.raises(InputError, match="the network's logits are NaN or infinite"):
        evaluation.evaluate(config.out)


def test_two_processes_write_one_file_and_a_third_reads_only_whole_ones(tmp_path):
    path, size = tmp_path / "evaluation.json", 20_000
    path.write_text("a" * size)
    write = (
        "import pathlib, sys; from seanet_jax.durable import write_whole\n"
        f"for _ in range(50): write_whole(pathlib.Path(sys.argv[1]), sys.argv[2] * {size})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", write, path, letter]) for letter in "bc"]
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == size and len(set(text)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_starts_while_others_ask_whether_its_folder_is_in_use(tmp_path):
    config, folder = TrainConfig(dataset="digits", out=tmp_path), RunFolder(tmp_path)
    with folder.locked(config):
        pass
    ask = (
        "import sys; from seanet_jax.training.run_folder import RunFolder; print(flush=True)\n"
        "while True: RunFolder(sys.argv[1]).in_use()"
    )
    asking = [subprocess.Popen([sys.executable, "-c", ask, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in asking:
            process.stdout.readline()
        for _ in range(100):
            with folder.locked(config):
                assert folder.in_use()
        assert [process.poll() for process in asking] == [None, None]
    finally:
        for process in asking:
            process.kill()
            process.communicate()


def test_the_training_time_of_a_run_stopped_inside_an_epoch_is_that_of_both_processes(tiny, monkeypatch):
    one_second_per_step(monkeypatch)
    config = tiny(checkpoint_steps=2)
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    (stop,) = [int(path.name) for path in (config.out / "checkpoints").iterdir()]
    assert 0 < stop < 5
    assert fit(dataclasses.replace(config, resume=True))["training_seconds"] == 15


def test_evaluation_reads_the_images_from_where_the_run_read_them(tiny, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    config = tiny(epochs=1, data_dir=tmp_path / "data")
    fit(config)
    asked, real = [], training_images.load
    monkeypatch.setattr(
        training_images, "load", lambda name, data_dir, mapped: asked.append(data_dir) or real(name, data_dir, mapped)
    )
    evaluation.evaluate(config.out)
    evaluation.evaluate(config.out, data_dir=tmp_path)
    assert asked == [tmp_path / "data", tmp_path]


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("config", {"mixout": 0.2}, "has the field mixout, which seanet_jax"),
        ("model_config", {"depth": 3}, "has the field depth, which seanet_jax"),
        (
            "model_config",
            {"model_type": "vit"},
            "is of the model_type 'vit'; it must be seanet or encapnet, or one of a plugin",
        ),
    ],
)
def test_a_run_of_a_newer_version_or_a_plugin_is_one_sentence(tiny, in_peace, tmp_path, part, fields, words):
    shutil.copy(in_peace().out / "config.json", tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about[part] |= fields
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert f"{tmp_path}/config.json {words}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_of_the_package_without_metadata_trains_evaluates_and_exports(tmp_path):
    shutil.copytree(
        Path(seanet_jax.__file__).parent, tmp_path / "seanet_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "program.py").write_text(
        """
import importlib.metadata

def find(name, real=importlib.metadata.distribution):
    if name in ("seanet-jax", "optax"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.distribution = find

if __name__ == "__main__":
    from pathlib import Path
    from seanet_jax import PRESETS, SEANetConfig, TrainConfig, fit
    from seanet_jax.inference import evaluation, stablehlo

    PRESETS["tiny"] = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=4, aggregate_factor=2)
    limits = dict(max_steps=1, limit_train=16, limit_test=10, batch_size=8)
    versions = fit(TrainConfig(dataset="digits", model="tiny", out="run", **limits))["versions"]
    assert versions["seanet-jax"] == "VERSION" and "optax" not in versions and "jax" in versions, versions
    evaluation.evaluate("run")
    stablehlo.write("run", Path("run.stablehlo"))
""".replace("VERSION", seanet_jax.__version__)
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run.stablehlo").exists()


def test_loading_a_run_leaves_a_program_its_log_of_orbax_and_its_hooks(tiny):
    config = tiny(epochs=1)
    fit(config)
    before = _process_settings()
    load(config.out)
    assert _process_settings() == before
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        path = str(Path(orbax.checkpoint.__file__).with_name("checkpoint_manager.py"))
        logger.handle(logging.LogRecord("absl", logging.ERROR, path, 1, "the program's own save failed", None, None))
    finally:
        logger.removeHandler(handler)
    assert heard == ["the program's own save failed"]


def _process_settings():
    filters = [list(logging.getLogger(name).filters) for name in ("absl", "asyncio")]
    return filters, list(warnings.filters), sys.unraisablehook
