"""Runs the comparison: trains its networks, measures how fast each one trains, and writes the tables."""

from collections.abc import Mapping
from pathlib import Path

import filelock

from seanet_jax.durable import write_whole
from seanet_jax.json_files import json_text
from seanet_jax.studies.comparison import measured_speeds
from seanet_jax.studies.comparison_tables import write_tables
from seanet_jax.studies.speed import training_speeds
from seanet_jax.studies.study import Run, Study
from seanet_jax.training import sharding
from seanet_jax.training.flags import StudyCommand
from seanet_jax.training.images import read_dataset
from seanet_jax.training.progress import print_once


def run_comparison(command: StudyCommand, compiler_options: Mapping[str, str]) -> None:
    """Trains the missing runs, measures training speeds, and writes ``table.md``, ``table.csv`` and ``tests.csv``.

    Args:
        command: The models, seeds, recipe and folder of the study.
        compiler_options: The options of XLA for the runs.

    Raises:
        InputError: If ``Study.run`` does.
        RunError: If ``Study.run`` does.
        StoppedError: If ``Study.run`` does.
    """
    folder = command.config.out or Path("runs") / f"compare-{command.config.data_name}"
    variants = {model: {"model": model, **own} for model, own in command.models.items()}
    study = Study(folder, command.config, variants, command.seeds, command.learning_rates, command.extend_rates)
    study.run(compiler_options, command=command.command_line)
    study = Study.read(folder, data_dir=command.config.data_dir)
    _measure_speeds(study, compiler_options)
    with study.locked():
        write_tables(study)
    print_once(f"{folder / 'table.md'}:\n\n{(folder / 'table.md').read_text()}")


def _measure_speeds(study: Study, compiler_options: Mapping[str, str]) -> None:
    """Measures the training speeds and writes them to ``speed.json``, unless it has all networks already."""
    path = study.folder / "speed.json"
    with filelock.FileLock(study.folder / "speed.lock"):
        known = measured_speeds(study)
        if known.keys() >= study.variants.keys():
            return
        print_once("measuring the training speed of each network")
        dataset = read_dataset(study.base)
        configs = {variant: study.config(Run(variant, study.rates(variant)[0], 0)) for variant in study.variants}
        rates = training_speeds(configs, dataset, compiler_options)
        measured = {"device": sharding.describe_devices(), "images_per_second": rates}
        write_whole(path, json_text(measured))
