"""Trains a network and tracks it with MLflow: its configuration, its metrics after each epoch and its report.

    .venv/bin/pip install -e '.[track]'
    .venv/bin/python examples/track.py --dataset cifar100 --model seanet20_narrow --epochs 30

Nothing leaves this machine: MLflow keeps its runs in runs/mlflow, an SQLite database and a folder of files. With the
package mlflow, which has the pages too, `mlflow ui --backend-store-uri sqlite:///runs/mlflow/mlflow.db` shows them.
The same command with --resume goes on with a run that was stopped, in training and in MLflow.
"""

import argparse
import os
from pathlib import Path
from typing import Any

# Read when MLflow is imported, which otherwise counts its uses at its makers'.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow

from seanet_jax import TrainConfig, fit
from seanet_jax.inference.evaluation import evaluate
from seanet_jax.training.run_folder import RunFolder

STORE = Path("runs/mlflow")
EXPERIMENT = "seanet"


def open_store() -> None:
    """Opens the database of MLflow, or makes it. The address of a server can stand in its place."""
    STORE.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{STORE}/mlflow.db")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, artifact_location=(STORE / "artifacts").absolute().as_uri())
    mlflow.set_experiment(EXPERIMENT)


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Returns the entries that are numbers, which MLflow takes as metrics."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def train(config: TrainConfig) -> None:
    """Trains a network in one run of MLflow. A resumed run goes on in the run of MLflow that it began in."""
    folder = config.run_folder
    RunFolder(folder).check(config)  # before MLflow has a run that cannot begin
    open_store()
    note = folder / "mlflow_run_id"
    known = note.read_text() if config.resume and note.exists() else None
    with mlflow.start_run(run_id=known, run_name=folder.name) as run:
        if known is None:  # MLflow's parameters cannot change; config.json has what a resumed run changed
            mlflow.log_params(config.to_json())
        # A run resumes from its last checkpoint, so that some epochs may be trained, and told, a second time.
        logged = run.data.metrics.get("epoch", 0)

        def after_epoch(record: dict[str, Any]) -> None:
            note.write_text(run.info.run_id)
            if record["epoch"] > logged:
                mlflow.log_metrics(numbers(record), step=round(record["epoch"]))

        fit(config, after_epoch=after_epoch)
        about = evaluate(folder, which="latest")
        mlflow.log_metrics({f"evaluation_{name}": value for name, value in numbers(about).items()})
        for name in ("config.json", "summary.json", "report.html", "evaluation/evaluation.json"):
            mlflow.log_artifact(folder / name)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="data set (default: digits)")
    parser.add_argument("--model", default="resnet20", help="preset of the network (default: resnet20)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs to train (default: 5)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/DATASET-MODEL-seed0)")
    parser.add_argument("--limit-train", type=int, help="use only this many training images")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    train(TrainConfig(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
