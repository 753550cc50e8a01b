"""Searches for a learning rate, a weight decay and an augmentation on validation images, with Optuna.

    .venv/bin/pip install -e '.[search]'
    .venv/bin/python examples/search.py --dataset cifar100 --model seanet20_narrow --epochs 5 --trials 20

Each trial trains one network by the recipe "fast" on 90 % of the training images. After each epoch the accuracy on the
other 10 % is reported, and a trial that is worse than the median of those before it is stopped. Test images choose
nothing. The trials are kept in the folder of the search: the same command continues it, and several copies share it.

Prints the best trial, and the command that trains its network on all training images.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import optuna

from seanet_jax import TrainConfig, fit
from seanet_jax.training.flags import as_flags
from seanet_jax.training.recipe_presets import recipe


def settings(trial: optuna.Trial, epochs: int) -> dict[str, Any]:
    """Returns the fields of the recipe that a trial is to try."""
    changes = {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 1.0, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
        "trivial_augment": trial.suggest_categorical("trivial_augment", [False, True]),
        "cutmix": trial.suggest_categorical("cutmix", [0.0, 0.2, 1.0]),
    }
    return recipe("fast", epochs=epochs, **changes)


def objective(trial: optuna.Trial, base: TrainConfig, folder: Path) -> float:
    """Trains a network by the settings of a trial, and returns its accuracy on the validation images."""
    fields = settings(trial, base.epochs)
    config = dataclasses.replace(base, **fields, out=folder / f"trial{trial.number}", validation_fraction=0.1)

    def after_epoch(record: dict[str, Any]) -> bool:
        trial.report(record["val_accuracy"], round(record["epoch"]))
        return trial.should_prune()

    summary = fit(config, after_epoch=after_epoch)
    if summary["stopped_by"] == "after_epoch":
        raise optuna.TrialPruned
    return float(summary["last"]["val_accuracy"])


def main() -> None:
    """Reads the arguments, searches, and prints the best trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="data set (default: digits)")
    parser.add_argument("--model", default="resnet20", help="preset of the network (default: resnet20)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a trial (default: 5)")
    parser.add_argument("--trials", type=int, default=20, help="trials to add (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder of the search")
    parser.add_argument("--limit-train", type=int, help="use only this many training images")
    arguments = parser.parse_args()
    base = TrainConfig(
        dataset=arguments.dataset,
        model=arguments.model,
        epochs=arguments.epochs,
        limit_train=arguments.limit_train,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{arguments.out / 'trials.db'}",
        study_name="seanet",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )
    # A search that goes on draws other settings than those it has tried.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    study.optimize(lambda trial: objective(trial, base, arguments.out), n_trials=arguments.trials)
    print(f"best of {len(study.trials)} trials: {study.best_value:.2%} of the validation images, {study.best_params}")
    best = dataclasses.replace(base, **recipe("fast", epochs=arguments.epochs, **study.best_params))
    print(f"seanet train {' '.join(as_flags(best, TrainConfig()))}")


if __name__ == "__main__":
    main()
