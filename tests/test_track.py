"""examples/track.py tells MLflow of a run, and goes on in the same run of MLflow. Needs the extra track."""

import importlib.util
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from training_fixtures import TINIEST, made_dataset, small

from seanet_jax.errors import InputError
from seanet_jax.models import PRESETS
from seanet_jax.training.run_folder import RunFolder

# Not imported yet: what it sends to its makers is decided then.
if importlib.util.find_spec("mlflow") is None:
    pytest.skip("mlflow is not installed", allow_module_level=True)

SCRIPT = Path(__file__).parent.parent / "examples" / "track.py"


@pytest.fixture
def track(tmp_path, monkeypatch):
    """Returns a function that runs the script in an empty folder, and then returns the runs that MLflow has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def run(*arguments):
        import mlflow

        monkeypatch.setattr(sys, "argv", ["track.py", "--model", "tiny", *arguments])
        # Two batches of the published recipe, which has 128 images in each.
        with small(made_dataset(train=256)), pytest.MonkeyPatch.context() as patch:
            patch.setitem(PRESETS, "tiny", TINIEST)
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return mlflow.search_runs(output_format="list")

    return run


@pytest.mark.filterwarnings("ignore")  # those of MLflow and SQLAlchemy
@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_run_of_the_tracker(track):
    (first,) = track("--epochs", "2")
    run = RunFolder(Path("runs/digits-tiny-seed0"))
    # Stopped in the second epoch, as far as the checkpoints tell, which is then trained again.
    shutil.rmtree(max((run.path / "checkpoints").iterdir(), key=lambda path: int(path.name)))
    (found,) = track("--epochs", "3", "--resume")
    assert found.info.run_id == first.info.run_id and found.info.status == "FINISHED"
    assert found.info.run_name == "digits-tiny-seed0"
    assert (found.data.params["learning_rate"], found.data.params["model"]) == ("0.1", "tiny")

    import mlflow

    for name in ("train_loss", "test_accuracy", "learning_rate"):
        points = mlflow.MlflowClient().get_metric_history(found.info.run_id, name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == [record[name] for record in run.read_records()]
    files = Path("runs/mlflow/artifacts") / found.info.run_id / "artifacts"
    assert {path.name for path in files.iterdir()} == {
        *("config.json", "summary.json", "report.html", "evaluation.json")
    }
    about = json.loads((files / "evaluation.json").read_text())
    assert about["which"] == "latest"
    assert found.data.metrics["evaluation_top_1_accuracy"] == about["top_1_accuracy"]


def test_a_run_that_cannot_begin_is_not_tracked(track):
    folder = Path("runs/digits-tiny-seed0")
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    with pytest.raises(InputError, match="holds"):
        track("--epochs", "1")
    assert not Path("runs/mlflow").exists()
