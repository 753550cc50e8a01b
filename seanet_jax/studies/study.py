"""A study: variants of a network, each trained from several seeds under one recipe, a folder for each run.

Of several learning rates each variant gets the one whose run from seed 0 has the best validation accuracy at its last
epoch; the other seeds are trained at that rate alone. What is finished is skipped, what was killed is resumed, and what
another process trains is left to it: the same command, started again, elsewhere or twice, goes on with the same study.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import jax

from seanet_jax.errors import InputError, is_integer
from seanet_jax.files import write_whole
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.loop import TrainingDivergedError
from seanet_jax.training.progress import say
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import Record, RunFolder, RunInUseError

_SECONDS_BETWEEN_LOOKS = 5

# Where the loss stopped being a number; else the run would be tried again at every start.
_DIVERGED = "diverged.txt"


class Run(NamedTuple):
    """One training run of a study.

    Attributes:
        variant: its name in the study.
        learning_rate: initial.
        seed: of the run.
    """

    variant: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant}-lr{self.learning_rate:g}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Study:
    """What is to be trained. The study's folder holds ``study.json``, which is this, and the folders of the runs.

    Attributes:
        folder: of the study.
        base: the recipe that all runs share.
        variants: fields of ``TrainConfig`` that make each, by name.
        seeds: how many, from 0.
        learning_rates: to choose from, where a variant has no ``learning_rate`` of its own.

    Raises:
        InputError: there is nothing to train, a variant cannot be built, or rates are to be chosen without images held
            out for it.
    """

    folder: Path
    base: TrainConfig
    variants: Mapping[str, Mapping[str, Any]]
    seeds: int = 3
    learning_rates: tuple[float, ...] = (0.1,)

    def __post_init__(self) -> None:
        if not self.variants:
            raise InputError("the study has no networks; name at least one")
        if not is_integer(self.seeds, minimum=1):
            raise InputError(f"seeds is {self.seeds!r}; it must be a positive integer")
        rates = self.learning_rates
        if not rates or len(set(rates)) != len(rates):
            raise InputError(f"learning_rates is {rates!r}; give at least one, and each once")
        if len(rates) > 1 and not self.base.validation_fraction:
            raise InputError(
                "several learning_rates are to be chosen from on images held out from training; "
                "give --validation-fraction, for example 0.1"
            )
        for variant in self.variants:
            for rate in self.rates(variant):
                self.config(Run(variant, rate, 0))

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """The study of a folder.

        Raises:
            InputError: the folder holds none, or its study.json is damaged.
        """
        path = folder / "study.json"
        if not path.exists():
            raise InputError(f"{folder} holds no study: there is no study.json in it")
        try:
            saved = json.loads(path.read_text())
            base, rates = TrainConfig(**saved["base"]), tuple(saved["learning_rates"])
            return cls(folder, base, saved["variants"], saved["seeds"], rates)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); the command that made the study writes it anew") from None

    def config(self, run: Run) -> TrainConfig:
        """What ``fit`` is told."""
        place: dict[str, Any] = {
            **{"learning_rate": run.learning_rate, "seed": run.seed},
            "out": self.folder / run.name,
        }
        return dataclasses.replace(self.base, **(dict(self.variants[run.variant]) | place))

    def rates(self, variant: str) -> tuple[float, ...]:
        """The learning rates that a variant's is chosen from."""
        own = self.variants[variant].get("learning_rate")
        return self.learning_rates if own is None else (own,)

    def runs_of(self, variant: str) -> list[Run]:
        """All runs of a variant that can be named now: those to choose the rate from, then the further seeds."""
        runs = [Run(variant, rate, 0) for rate in self.rates(variant)]
        if all(self.outcome(run) for run in runs) and (rate := self.chosen_rate(variant)) is not None:
            runs += [Run(variant, rate, seed) for seed in range(1, self.seeds)]
        return runs

    def chosen_rate(self, variant: str) -> float | None:
        """The learning rate of a variant; None as long as a run is missing, and if it diverged at every rate."""
        rates = self.rates(variant)
        if len(rates) == 1:
            return rates[0]
        runs = [Run(variant, rate, 0) for rate in rates]
        if not all(self.outcome(run) for run in runs):
            return None
        accuracies = {
            run.learning_rate: self.records(run)[-1]["val_accuracy"] for run in runs if self.outcome(run) == "finished"
        }
        return max(accuracies, key=lambda rate: accuracies[rate]) if accuracies else None

    def results(self, variant: str) -> dict[int, list[Record]]:
        """The records of a variant's finished runs at its learning rate, by seed."""
        rate = self.chosen_rate(variant)
        runs = [] if rate is None else [Run(variant, rate, seed) for seed in range(self.seeds)]
        return {run.seed: self.records(run) for run in runs if self.outcome(run) == "finished"}

    def records(self, run: Run) -> list[Record]:
        """A run's records, one an epoch."""
        return RunFolder(self.folder / run.name).read_records()

    def summary(self, run: Run) -> dict[str, Any] | None:
        """A run's ``summary.json``, or None."""
        return RunFolder(self.folder / run.name).read_summary()

    def finished(self) -> Iterator[Run]:
        """All runs that are."""
        for variant in self.variants:
            yield from (run for run in self.runs_of(variant) if self.outcome(run) == "finished")

    def pending(self) -> list[Run]:
        """Runs that can be trained now and are not finished: seed 0 of all variants first."""
        runs = [run for variant in self.variants for run in self.runs_of(variant) if not self.outcome(run)]
        return sorted(runs, key=lambda run: run.seed)

    def outcome(self, run: Run) -> str:
        """What became of a run: "finished", "diverged" or, where it is neither yet, an empty string."""
        folder = RunFolder(self.folder / run.name)
        if not (folder.path / "config.json").exists():
            return "diverged" if (folder.path / _DIVERGED).exists() else ""
        saved = folder.read().config
        if differences := self.config(run).differences(saved):
            raise InputError(
                f"{folder.path} holds another run ({'; '.join(differences)}); "
                "give the saved values, or name another folder with --out"
            )
        if (folder.path / _DIVERGED).exists():
            return "diverged"
        summary = folder.read_summary()
        done = summary is not None and summary["finished"] and summary["last"]["epoch"] >= self.config(run).epochs
        return "finished" if done else ""

    def write(self) -> None:
        """Writes ``study.json``.

        Raises:
            InputError: the folder holds another study; the variants and seeds of this one are added to its own.
        """
        # Before anything is written, and once more when no other process can write.
        self._joined()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            variants, seeds = self._joined()
            about = {
                "base": self.base.to_json() | {"out": None, "data_dir": None, "resume": False},
                "variants": variants,
                "seeds": seeds,
                "learning_rates": self.learning_rates,
            }
            write_whole(self._path, json.dumps(about, indent=2) + "\n")

    def _joined(self) -> tuple[dict[str, Any], int]:
        """The variants and seeds, with those of the study that the folder holds."""
        variants, seeds = dict(self.variants), self.seeds
        if self._path.exists():
            saved = Study.read(self.folder)
            if differences := self.base.differences(saved.base.to_json()):
                raise InputError(
                    f"{self.folder} holds another study ({'; '.join(differences)}); "
                    "give the saved values, or name another folder with --out"
                )
            if saved.learning_rates != self.learning_rates:
                raise InputError(
                    f"{self.folder} holds a study of the learning rates {saved.learning_rates}; "
                    "give these, or name another folder with --out"
                )
            variants, seeds = dict(saved.variants) | variants, max(saved.seeds, seeds)
        return variants, seeds

    @property
    def _path(self) -> Path:
        return self.folder / "study.json"

    def locked(self) -> contextlib.AbstractContextManager[Any]:
        """Inside this context no other process may write into the study's folder, its runs excepted."""
        return filelock.FileLock(self.folder / "study.lock")

    def run(self, compiler_options: Mapping[str, str] | None = None) -> None:
        """Trains what is missing. Where all that is left is trained by other processes, it waits for them.

        Args:
            compiler_options: see ``fit``.

        Raises:
            InputError: RunError: StoppedError: as ``fit``; a run that diverges is noted and the next one begun.
        """
        self.write()
        waiting = False
        while runs := self.pending():
            run = next((run for run in runs if not RunFolder(self.folder / run.name).in_use()), None)
            if run is None:
                if not waiting:
                    say(f"waiting for {', '.join(run.name for run in runs)}, which another process trains")
                waiting = True
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            waiting = False
            say(f"{run.name}, one of {len(runs)} runs that can be trained now")
            resume = RunFolder(self.folder / run.name).was_started()
            try:
                fit(dataclasses.replace(self.config(run), resume=resume), compiler_options=compiler_options)
            except RunInUseError:
                continue
            except TrainingDivergedError as error:
                say(f"{run.name}: {error}")
                write_whole(self.folder / run.name / _DIVERGED, f"{error}\n")
            # A network is compiled for its own shapes; the next one has others.
            jax.clear_caches()
