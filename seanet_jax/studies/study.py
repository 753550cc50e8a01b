"""A study trains several networks, its variants, from several seeds under one recipe. Each run has its own folder.

If there are several learning rates, each variant gets the one whose run from seed 0 has the best validation accuracy
at its last epoch. The other seeds are trained at that rate only. If the best rate is the smallest or the largest of its
grid, a better one may lie beyond it. The study can therefore extend a variant's grid beyond that edge, until the best
rate lies inside; see ``Study.grid``.

Finished runs are skipped, interrupted runs are resumed, and runs that another process trains are left to it. The same
command therefore resumes a study after a kill, and concurrent copies of it split the runs.
"""

import contextlib
import dataclasses
import math
import time
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import filelock
import jax

from seanet_jax.durable import write_whole
from seanet_jax.environment import start_devices
from seanet_jax.errors import InputError, is_integer, store_plain
from seanet_jax.json_files import check_fields, checked, json_text, read_json, written_by
from seanet_jax.paths import UserPath, exists, make_folder, user_path
from seanet_jax.printable import short_repr
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.loop import TrainingDivergedError
from seanet_jax.training.progress import format_duration, print_once
from seanet_jax.training.records import Record, has_stalled, selection_accuracy
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunExistsError, RunFolder, RunInUseError
from seanet_jax.training.stopwatch import spent_seconds
from seanet_jax.version import __version__

_SECONDS_BETWEEN_CHECKS = 5
_MOST_SEEDS = 10_000
_MOST_EXTENSIONS = 20

# This file marks a run whose loss became NaN. Without it, every start of the study would try the run again.
_DIVERGED = "diverged.txt"


class Run(NamedTuple):
    """One training run of a study.

    Attributes:
        variant: The name of the variant in the study.
        learning_rate: The initial learning rate.
        seed: The seed of the run.
    """

    variant: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.variant}-lr{self.learning_rate:g}-seed{self.seed}"


class _Search(NamedTuple):
    """The search for the learning rate of a variant, as the records of its runs from seed 0 have it.

    Attributes:
        accuracies: The validation accuracy at each learning rate of the grid, in the order in which the rates joined
            it: None if its run has no outcome yet, and minus infinity if it diverged.
        best: The learning rate with the best accuracy, the first one of equals; None if a run has no outcome yet, or
            all of several runs diverged.
        beyond: The learning rate by which the grid would be extended next; None if the best one is inside, the study
            has one rate only, or a run has no outcome yet.
    """

    accuracies: dict[float, float | None]
    best: float | None
    beyond: float | None


class _StudyFile(TypedDict):
    """The fields of ``study.json``. Version 0.1.0 wrote neither its version nor ``extend_rates``."""

    version: NotRequired[str]
    extend_rates: NotRequired[int]
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    seeds: int
    learning_rates: list[float]


@dataclasses.dataclass(frozen=True)
class Study:
    """The description of a study, and access to its runs.

    The folder of the study holds the description as ``study.json``, and one folder for each run.

    Attributes:
        folder: The folder of the study.
        base: The recipe that all runs share.
        variants: For each variant, by name, the fields of ``TrainConfig`` in which it differs from the base.
        seeds: The number of seeds. They are counted from 0.
        learning_rates: The learning rates to choose from, for variants without a ``learning_rate`` of their own.
        extend_rates: The largest number of learning rates by which the grid of a variant is extended.

    Raises:
        InputError: If there is nothing to train, a variant cannot be built, there are several learning rates but no
            validation images to choose by, or there is a single learning rate to extend.
    """

    folder: Path
    base: TrainConfig
    variants: Mapping[str, Mapping[str, Any]]
    seeds: int = 3
    learning_rates: tuple[float, ...] = (0.1,)
    extend_rates: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", user_path(self.folder))
        store_plain(self)
        if not self.variants:
            raise InputError("the study has no networks; name at least one")
        # Runs have folders of these names.
        if wrong := [name for name in self.variants if not name.isprintable() or "/" in name or name[:1] in ("", ".")]:
            raise InputError(f"the network {wrong[0]!r} has a name that no folder can have; choose another one")
        if not is_integer(self.seeds, minimum=1) or self.seeds > _MOST_SEEDS:
            raise InputError(
                f"seeds is {short_repr(self.seeds)}; it must be a positive integer of at most {_MOST_SEEDS:,}"
            )
        rates = self.learning_rates
        if not rates or len(set(rates)) != len(rates):
            raise InputError(f"learning_rates is {rates!r}; give at least one, and each only once")
        if len(rates) > 1 and not self.base.validation_fraction:
            raise InputError(
                "choosing between several learning_rates needs validation images; "
                "give --validation-fraction, for example 0.1"
            )
        if not is_integer(self.extend_rates, minimum=0) or self.extend_rates > _MOST_EXTENSIONS:
            raise InputError(
                f"extend_rates is {short_repr(self.extend_rates)}; it must be an integer from 0 to {_MOST_EXTENSIONS}"
            )
        if self.extend_rates and len(rates) == 1:
            raise InputError(
                f"extend_rates is {self.extend_rates}, but there is one learning rate; give at least two "
                "learning_rates, whose ratio is the step beyond them"
            )
        for variant in self.variants:
            for rate in self.rates(variant):
                self.config(Run(variant, rate, 0))

    @classmethod
    def read(cls, folder: UserPath, *, data_dir: UserPath | None = None) -> "Study":
        """Reads the study that a folder holds.

        Args:
            folder: The folder of the study.
            data_dir: The folder that holds the data set, which ``study.json`` does not name; see ``TrainConfig``.

        Raises:
            InputError: If the folder holds no study, or its study.json is damaged.
        """
        folder = user_path(folder)
        path = folder / "study.json"
        if not exists(path):
            raise InputError(f"{folder} holds no study: it has no study.json")
        remedy = "delete it and repeat the command of the study"
        found, where = read_json(path, remedy=remedy), str(path)
        version = found.get("version")
        check_fields(found, typing.get_type_hints(_StudyFile), where=where, version=version)
        saved = checked(found, _StudyFile, where=where, remedy=remedy)
        variants = saved["variants"]
        fields = {name for variant in variants.values() for name in variant}
        check_fields(fields, [field.name for field in dataclasses.fields(TrainConfig)], where=where, version=version)
        for variant in variants.values():
            TrainConfig.from_json(saved["base"] | variant, where=where, version=version)
        config = TrainConfig.from_json(saved["base"], where=where, version=version, data_dir=data_dir)
        try:
            rates, extend_rates = tuple(saved["learning_rates"]), saved.get("extend_rates", 0)
            return cls(folder, config, variants, saved["seeds"], rates, extend_rates)
        except InputError as error:
            raise InputError(f"{path} is damaged ({error}{written_by(version)}); {remedy}") from None

    def config(self, run: Run) -> TrainConfig:
        """Returns the configuration of a run."""
        of_run: dict[str, Any] = {
            "learning_rate": run.learning_rate,
            "seed": run.seed,
            "out": self.folder / run.name,
        }
        return dataclasses.replace(self.base, **(dict(self.variants[run.variant]) | of_run))

    def rates(self, variant: str) -> tuple[float, ...]:
        """Returns the learning rates that a variant is asked to try from seed 0."""
        own = self.variants[variant].get("learning_rate")
        return self.learning_rates if own is None else (own,)

    def grid(self, variant: str) -> tuple[float, ...]:
        """Returns the learning rates that a variant tries from seed 0, as far as they are known by now.

        These are the rates of ``rates`` and, if ``extend_rates`` is not 0, those beyond them. Once all runs of the grid
        have an outcome and the best rate is its smallest or largest, the grid gets another rate beyond this edge. Its
        ratio to the edge is that of the edge to its neighbor. If every rate diverged, the next one is smaller. The grid
        follows from the records alone: a study that is resumed, and copies that run at once, find the same one.
        """
        return tuple(self._search(variant).accuracies)

    def tried_rates(self) -> list[float]:
        """Returns the learning rates in the grid of any variant, in descending order."""
        return sorted({rate for variant in self.variants for rate in self.grid(variant)}, reverse=True)

    def edge(self, variant: str) -> str | None:
        """Returns "smallest" or "largest" if the best rate of a variant is that of its grid, and None if it is inside.

        It is None as well if the variant has one rate, or its rate is not chosen yet.
        """
        found = self._search(variant)
        if found.best is None or found.beyond is None:
            return None
        return "smallest" if found.beyond < found.best else "largest"

    def runs_of(self, variant: str) -> list[Run]:
        """Returns the runs of a variant that are known by now.

        These are the runs that choose the learning rate and, once it is chosen, those of the further seeds.
        """
        found = self._search(variant)
        runs = [Run(variant, rate, 0) for rate in found.accuracies]
        if found.best is not None:
            runs += [Run(variant, found.best, seed) for seed in range(1, self.seeds)]
        return runs

    def chosen_rate(self, variant: str) -> float | None:
        """Returns the learning rate of a variant, or None if it is not chosen yet or every rate diverged."""
        rates = self.rates(variant)
        return rates[0] if len(rates) == 1 else self._search(variant).best

    def _search(self, variant: str) -> _Search:
        """Returns how far the search for a variant's learning rate is. It looks at each run once.

        A second look could find more of the runs of other processes, and choose a rate before its grid is extended.
        """
        rates = list(self.rates(variant))
        accuracies: dict[float, float | None] = {}
        while True:
            accuracies |= {rate: self._accuracy(Run(variant, rate, 0)) for rate in rates if rate not in accuracies}
            known = {rate: accuracy for rate, accuracy in accuracies.items() if accuracy is not None}
            if len(known) < len(accuracies):
                return _Search(accuracies, None, None)
            best = max(known, key=lambda rate: known[rate])
            diverged = known[best] == -math.inf
            beyond = _beyond(sorted(known), best, diverged=diverged)
            if beyond is None or beyond in known or len(known) == len(self.rates(variant)) + self.extend_rates:
                # A single rate was not chosen by its run, so it holds for further seeds even if this one diverged.
                return _Search(accuracies, None if diverged and len(known) > 1 else best, beyond)
            rates.append(beyond)

    def _accuracy(self, run: Run) -> float | None:
        """Returns the accuracy by which a run is chosen, minus infinity if it diverged, or None without an outcome."""
        outcome = self.outcome(run)
        if outcome == "finished":
            return float(selection_accuracy(self.records(run)[-1]))
        return -math.inf if outcome == "diverged" else None

    def results(self, variant: str) -> dict[int, list[Record]]:
        """Returns, by seed, the records of the finished runs of a variant at its chosen learning rate."""
        rate = self.chosen_rate(variant)
        runs = [] if rate is None else [Run(variant, rate, seed) for seed in range(self.seeds)]
        return {run.seed: self.records(run) for run in runs if self.outcome(run) == "finished"}

    def records(self, run: Run) -> list[Record]:
        """Returns the records of a run, one for each epoch."""
        return RunFolder(self.folder / run.name).read_records()

    def summary(self, run: Run) -> dict[str, Any] | None:
        """Returns the contents of a run's ``summary.json``, or None if it has none yet."""
        return RunFolder(self.folder / run.name).read_summary()

    def finished(self) -> Iterator[Run]:
        """Yields all finished runs."""
        for variant in self.variants:
            yield from (run for run in self.runs_of(variant) if self.outcome(run) == "finished")

    def pending(self) -> list[Run]:
        """Returns the runs that can be trained now and have no outcome yet, ordered by seed."""
        runs = [run for variant in self.variants for run in self.runs_of(variant) if not self.outcome(run)]
        return sorted(runs, key=lambda run: run.seed)

    def outcome(self, run: Run) -> str:
        """Returns "finished", "diverged", or an empty string if the run is neither yet.

        Raises:
            InputError: If the folder of the run holds a run of another configuration.
        """
        folder = RunFolder(self.folder / run.name)
        if not exists(folder.path / "config.json"):
            return "diverged" if exists(folder.path / _DIVERGED) else ""
        saved = folder.read().config
        if differences := self.config(run).differences(saved):
            raise InputError(
                f"{folder.path} holds another run ({'; '.join(differences)}); "
                "give the saved values, or name another folder with --out"
            )
        if exists(folder.path / _DIVERGED):
            return "diverged"
        summary = folder.read_summary()
        if summary is None or not summary["finished"]:
            return ""
        config = self.config(run)
        # With more patience, a run that stopped early goes on, as ``fit`` decides by the same rule.
        has_ended = summary["last"]["epoch"] >= config.epochs or has_stalled(self.records(run), config.patience)
        return "finished" if has_ended else ""

    def write(self) -> None:
        """Writes ``study.json``. If the folder holds this study already, the variants and seeds are added to it.

        Raises:
            InputError: If the folder holds a study of another recipe, or cannot be written.
        """
        # Fails before anything is written. Under the lock it is read again: another process may have added variants.
        self._joined()
        make_folder(self.folder)
        with self.locked():
            variants, seeds = self._joined()
            saved = {
                "version": __version__,
                "base": self.base.to_json() | {"out": None, "data_dir": None, "resume": False},
                "variants": variants,
                "seeds": seeds,
                "learning_rates": self.learning_rates,
                "extend_rates": self.extend_rates,
            }
            write_whole(self._path, json_text(saved))

    def _joined(self) -> tuple[dict[str, Any], int]:
        """Returns the variants and seeds, together with those of the study that the folder holds."""
        variants, seeds = dict(self.variants), self.seeds
        if exists(self._path):
            saved = Study.read(self.folder)
            if differences := self.base.differences(saved.base.to_json()):
                raise InputError(
                    f"{self.folder} holds another study ({'; '.join(differences)}); "
                    "give the saved values, or name another folder with --out"
                )
            if saved.learning_rates != self.learning_rates:
                raise InputError(
                    f"{self.folder} holds a study of the learning rates {saved.learning_rates}; "
                    "give the same ones, or name another folder with --out"
                )
            if saved.extend_rates > self.extend_rates:
                raise InputError(
                    f"{self.folder} holds a study that extends its learning rates by up to {saved.extend_rates}; "
                    "give at least as many, or name another folder with --out"
                )
            variants, seeds = dict(saved.variants) | variants, max(saved.seeds, seeds)
        return variants, seeds

    @property
    def _path(self) -> Path:
        return self.folder / "study.json"

    def locked(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context that locks the files of the study, but not its runs, against other processes."""
        return filelock.FileLock(self.folder / "study.lock")

    def run(self, compiler_options: Mapping[str, str] | None = None, *, command: str = "") -> None:
        """Trains all runs that are missing. A run that diverges is marked, and the study goes on with the next one.

        If other processes train all the remaining runs, it waits for them: further runs may depend on their results.

        Args:
            compiler_options: The options of XLA; see ``fit``.
            command: The command line of the study, which its runs record.

        Raises:
            InputError: If ``fit`` does, or the folder holds another study or another run.
            RunError: If ``fit`` does.
            StoppedError: If ``fit`` does.
        """
        start_devices()
        self.write()
        waiting, told = False, set[Run]()
        while runs := self.pending():
            told |= self._tell_of_extensions(runs, told)
            in_use = [run for run in runs if RunFolder(self.folder / run.name).in_use()]
            run = next((run for run in runs if run not in in_use), None)
            if run is None:
                if not waiting:
                    print_once(f"waiting for another process to train {', '.join(run.name for run in runs)}")
                waiting = True
                time.sleep(_SECONDS_BETWEEN_CHECKS)
                continue
            waiting = False
            print_once(f"training {run.name}: {self.progress(len(in_use))}")
            resume = RunFolder(self.folder / run.name).was_started()
            try:
                config = dataclasses.replace(self.config(run), resume=resume)
                fit(config, compiler_options=compiler_options, command=command)
            except (RunInUseError, RunExistsError):
                continue  # since the folder was looked at, another process began the run, and may have finished it
            except TrainingDivergedError as error:
                print_once(f"{run.name}: {error}")
                write_whole(self.folder / run.name / _DIVERGED, f"{error}\n")
            # The next network has other shapes, so no compiled function would be used again. This frees their memory.
            jax.clear_caches()
        if self.extend_rates:
            for variant in self.variants:
                if edge := self.edge(variant):
                    print_once(
                        f"{variant}: {self.chosen_rate(variant):g} is still the {edge} of its learning rates after "
                        f"{self.extend_rates} further ones; a larger --extend-rates goes on"
                    )

    def progress(self, others: int = 0) -> str:
        """Describes the run that is trained next, such as ``run 3 of 12, about 2 h 10 min left``.

        The time is that of the finished runs of this study, for as many epochs as are left. It is not told before one
        is finished. A network without finished runs counts like the others. Extensions of a grid are not foreseen.

        Args:
            others: The number of runs that other processes train now, and will go on to do.
        """
        done, finished, left = 0, dict[str, tuple[float, float]](), dict[str, int]()
        for variant in self.variants:
            runs = self.runs_of(variant)
            outcomes = {run: self.outcome(run) for run in runs}
            done += sum(map(bool, outcomes.values()))
            ended = [self.summary(run) for run, outcome in outcomes.items() if outcome == "finished"]
            seconds = sum(spent_seconds(summary) for summary in ended if summary is not None)
            finished[variant] = seconds, sum(summary["last"]["epoch"] for summary in ended if summary is not None)
            # Seeds whose learning rate is not chosen yet are runs to come. If every rate diverged, there are none.
            open_runs = list(outcomes.values()).count("")
            unknown = self.seeds - 1 if open_runs and not any(run.seed for run in runs) else 0
            left[variant] = open_runs + unknown
        total_seconds, total_epochs = (sum(column) for column in zip(*finished.values(), strict=True))
        words = f"run {done + 1} of {done + sum(left.values())}"
        if not total_epochs:
            return words
        work = 0.0
        for variant, count in left.items():
            seconds, epochs = finished[variant] if finished[variant][1] else (total_seconds, total_epochs)
            work += count * self.config(Run(variant, self.rates(variant)[0], 0)).epochs * seconds / epochs
        return f"{words}, about {format_duration(work / (1 + others))} left"

    def _tell_of_extensions(self, runs: Sequence[Run], told: Collection[Run]) -> set[Run]:
        """Prints a line for each run at a learning rate beyond those asked for that is not told yet; returns them."""
        new = {run for run in runs if run.seed == 0 and run.learning_rate not in self.rates(run.variant)} - set(told)
        for run in sorted(new):
            where = "smaller" if run.learning_rate < min(self.rates(run.variant)) else "larger"
            print_once(
                f"{run.variant}: a {where} learning rate may be better than those tried; "
                f"{run.learning_rate:g} is tried as well"
            )
        return new


def _beyond(rates: Sequence[float], best: float, *, diverged: bool) -> float | None:
    """Returns the learning rate beyond the edge of a grid at which the best one lies; None if it lies inside.

    Args:
        rates: The learning rates in ascending order. A single rate has no edge.
        best: The best one.
        diverged: Whether all of them diverged, so that only a smaller one can be better.
    """
    if len(rates) == 1 or (best not in (rates[0], rates[-1]) and not diverged):
        return None
    edge, neighbor = rates[:2] if diverged or best == rates[0] else rates[:-3:-1]
    # The names of the runs' folders have six digits.
    return float(f"{edge * edge / neighbor:.3g}")
