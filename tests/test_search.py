"""examples/search.py tries settings on validation images, stops bad trials, and goes on where it was."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from training_fixtures import TINIEST, made_dataset, small

from seanet_jax.models import PRESETS
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import parse
from seanet_jax.training.run_folder import RunFolder

optuna = pytest.importorskip("optuna")

SCRIPT = Path(__file__).parent.parent / "examples" / "search.py"


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the script in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", TINIEST)
    monkeypatch.setattr(optuna.logging.get_logger("optuna"), "disabled", True)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search.py", "--model", "tiny", "--epochs", "2", *arguments])
        # Two batches of the recipe, which has 128 images in each, beside the validation images.
        with small(made_dataset(train=300)), pytest.MonkeyPatch.context() as patch:
            patch.setitem(PRESETS, "tiny", TINIEST)
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.filterwarnings("ignore")  # those of Optuna and SQLAlchemy
@pytest.mark.slow
def test_it_goes_on_where_it_was_and_prints_the_command_of_the_best(search, tmp_path):
    assert "best of 2 trials: " in search("--trials", "2")
    out = search("--trials", "1")
    accuracy = float(re.search(r"best of 3 trials: ([\d.]+)% of the validation images", out)[1])
    folders = sorted((tmp_path / "runs/search").glob("trial*/"))
    found = {folder.name: RunFolder(folder) for folder in folders if folder.is_dir()}
    assert list(found) == ["trial0", "trial1", "trial2"]
    best = max(run.read_records()[-1]["val_accuracy"] for run in found.values())
    assert accuracy == pytest.approx(100 * best, abs=0.005)
    flags = out.splitlines()[-1].split()
    assert flags[:2] == ["seanet", "train"]
    config = parse(TrainConfig(), "", flags[2:]).config
    assert (config.model, config.epochs, config.schedule, config.validation_fraction) == ("tiny", 2, "one_cycle", 0.0)
    rates = [run.read_config().learning_rate for run in found.values()]
    assert config.learning_rate in rates and len(set(rates)) == 3


def test_a_trial_that_is_worse_than_the_others_is_stopped(monkeypatch, tmp_path):
    objective = runpy.run_path(str(SCRIPT))["objective"]
    asked = []

    def fit(config, *, after_epoch):
        asked.append(config)
        assert after_epoch({"epoch": 1, "val_accuracy": 0.25}) is True
        return {"stopped_by": "after_epoch"}

    monkeypatch.setitem(objective.__globals__, "fit", fit)
    trial = optuna.trial.FixedTrial(
        {"learning_rate": 0.1, "weight_decay": 1e-3, "trivial_augment": True, "cutmix": 0.2}
    )
    monkeypatch.setattr(trial, "should_prune", lambda: True)
    with pytest.raises(optuna.TrialPruned):
        objective(trial, TrainConfig(dataset="digits", model="resnet20", epochs=2), tmp_path)
    (config,) = asked
    assert (config.learning_rate, config.trivial_augment, config.cutmix) == (0.1, True, 0.2)
    assert config.validation_fraction == 0.1
