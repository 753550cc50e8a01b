"""Writes docs/results.md and its figures from the records of the studies.

The folder of a study needs its ``study.json`` and, for each run, ``config.json``, ``metrics.jsonl`` and
``summary.json``. Checkpoints are not read.
"""

import dataclasses
import functools
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

import jinja2

from seanet_jax import data, style
from seanet_jax.durable import write_whole
from seanet_jax.errors import InputError
from seanet_jax.json_files import checked, read_json
from seanet_jax.models import PRESETS, NetworkConfig, SEANetConfig
from seanet_jax.models.multiply_adds import features
from seanet_jax.paths import UserPath, exists, user_path
from seanet_jax.studies import ablate, comparison, comparison_tables, recipes, widths
from seanet_jax.studies.ablation_figure import ablation_figure
from seanet_jax.studies.cost_figure import error_against_multiply_adds
from seanet_jax.studies.curve_figures import against_published, error_curves
from seanet_jax.studies.recipe_words import describe_recipe
from seanet_jax.studies.roofline import hours_at_least
from seanet_jax.studies.statistics import summarize
from seanet_jax.studies.study import Run, Study
from seanet_jax.studies.tables import markdown_text
from seanet_jax.studies.talk_errors import TALK_ERRORS
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import as_flags
from seanet_jax.training.progress import format_duration
from seanet_jax.training.records import Record

# The assumed shares of the roofline that a GPU reaches, lowest and highest. Nobody has measured them for this network.
_REACHED = (0.1, 0.3)


@dataclasses.dataclass(frozen=True)
class Results:
    """The records from which the page is made.

    Attributes:
        comparison: The study that compares networks.
        ablation: The ablation study, or None.
        analysis: The contents of ``analysis.json``, or None.
        analysis_folder: The folder that holds the figures of the analysis.
        full: The names of the presets of the full comparison, whose cost the page estimates.
        recipes: The study that compares recipes, or None.
        widths: The study of widths, or None.
    """

    comparison: Study
    ablation: Study | None
    analysis: dict[str, Any] | None
    analysis_folder: Path
    full: tuple[str, ...]
    recipes: Study | None = None
    widths: Study | None = None

    @classmethod
    def read(
        cls,
        comparison: UserPath,
        ablation: UserPath,
        analysis: UserPath,
        full: tuple[str, ...],
        recipes: UserPath | None = None,
        widths: UserPath | None = None,
    ) -> "Results":
        """Reads the records from their folders. Only the first folder must exist.

        Args:
            comparison: A folder that ``experiments/compare.py`` has written.
            ablation: A folder that ``experiments/ablate.py`` has written.
            analysis: A folder that ``experiments/analyze.py`` has written.
            full: The names of the presets of the full comparison.
            recipes: A folder that ``experiments/recipes.py`` has written; None leaves that study out.
            widths: A folder that ``experiments/widths.py`` has written; None leaves that study out.

        Raises:
            InputError: If the first folder holds no study with a finished run.
        """
        ablation, analysis = user_path(ablation), user_path(analysis)
        study = Study.read(comparison)
        if not any(study.results(variant) for variant in study.variants):
            raise InputError(f"{comparison} holds no finished run; train some with experiments/compare.py")
        found = analysis / "analysis.json"
        return cls(
            study,
            _study_in(ablation),
            _read_analysis(found) if exists(found) else None,
            analysis,
            full,
            _study_in(recipes),
            _study_in(widths),
        )


def _study_in(folder: UserPath | None) -> Study | None:
    """Returns the study that a folder holds, or None if it holds none."""
    return None if folder is None or not exists(user_path(folder) / "study.json") else Study.read(folder)


class _Claim(TypedDict):
    claim: str
    figure: str
    measured: str
    verdict: str


class _AnalysisFile(TypedDict):
    """The fields of ``analysis.json`` that the page shows."""

    subject: str
    command: str
    claims: list[_Claim]


def _read_analysis(path: Path) -> dict[str, Any]:
    remedy = "repeat the command of the analysis"
    found = read_json(path, remedy=remedy)
    checked(found, _AnalysisFile, where=str(path), remedy=remedy)
    return found


def write(results: Results, page: UserPath) -> None:
    """Draws the figures into the folders of the studies, and writes the page.

    Args:
        results: The records of the studies.
        page: The Markdown file to write. Its folder must hold the folders of the studies, since links are relative.

    Raises:
        InputError: If a study is not in the folder of the page.
    """
    page = user_path(page)
    written = text(results, page)
    draw(results)
    write_whole(page, written)


def draw(results: Results) -> None:
    """Draws the figures of the comparison and of the ablation."""
    study = results.comparison
    dataset = study.base.dataset
    runs = _runs(study)
    style.save(error_curves(runs, epochs=study.base.epochs), study.folder / "errors")
    if dataset in TALK_ERRORS:
        published = against_published({dataset: runs}, datasets=(dataset,))
        style.save(published, study.folder / "published")
    points = []
    for row in comparison.rows(study):
        if row.last_errors:
            summary = summarize(list(row.last_errors.values()))
            points.append((row.model, float(row.multiply_adds), summary.mean, summary.deviation))
    style.save(error_against_multiply_adds(points), study.folder / "multiply-adds")
    if results.ablation is not None:
        axes: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
        for found in ablate.table(results.ablation):
            if found["test_errors"]:
                summary = summarize(list(found["test_errors"].values()))
                value = (found["value"], summary.mean, summary.deviation, found["learning_rate"])
                axes.setdefault(found["axis"], []).append(value)
        if axes:
            style.save(ablation_figure(axes, base=ablate.BASE_VALUES), results.ablation.folder / "ablation")
    if results.widths is not None:
        widths.draw(results.widths)
    if results.recipes is not None:
        curves = _runs(results.recipes)
        for model, by_recipe in _recipe_variants(results.recipes).items():
            of_model = {name: curves[variant] for name, variant in by_recipe.items()}
            made = error_curves(of_model, epochs=results.recipes.base.epochs, title=model)
            style.save(made, results.recipes.folder / f"errors-{model}")


def _recipe_variants(study: Study) -> dict[str, dict[str, str]]:
    """Returns, by network and recipe, the variants of the study of recipes that have finished runs."""
    found: dict[str, dict[str, str]] = {}
    for row in recipes.rows(study):
        found.setdefault(row.model, {})[row.recipe] = f"{row.model}-{row.recipe}"
    return found


def _runs(study: Study) -> dict[str, list[list[Record]]]:
    """Returns the records of the finished runs by variant. Variants without any are left out.

    A run that stopped early keeps its last metrics up to the end of the variant's longest run, so that a mean over
    seeds is over all of them at every epoch.
    """
    found = {variant: list(study.results(variant).values()) for variant in study.variants}
    return {variant: _of_equal_length(runs) for variant, runs in found.items() if runs}


def _of_equal_length(runs: list[list[Record]]) -> list[list[Record]]:
    longest = max(runs, key=len)
    return [run + [{**run[-1], "epoch": later["epoch"]} for later in longest[len(run) :]] for run in runs]


def text(results: Results, page: Path) -> str:
    """Returns the page as Markdown, by the template ``results.md.jinja``.

    Args:
        results: The records of the studies.
        page: The path of the page, for its links.

    Raises:
        InputError: If a study is not in the folder of the page.
    """
    study = results.comparison
    studies = [found for found in (study, results.ablation, results.recipes, results.widths) if found is not None]
    runs = [(of, run) for of in studies for run in of.finished()]
    summaries = [summary for of, run in runs if (summary := of.summary(run)) is not None]
    table = [row for row in comparison.rows(study) if row.last_errors]
    aggregated = [row for row in table if row.aggregates]
    networks = {row.model: comparison.network(study, row.model) for row in table}
    tests = comparison.comparisons(table)
    published = PRESETS["seanet20"]
    assert isinstance(published, SEANetConfig)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "change": "{:+.1%}".format,
        "duration": format_duration,
        "link": functools.partial(_link, page),
        "name": markdown_text,
        "number": "{:g}".format,
        "percent": "{:.0%}".format,
    }
    template = (resources.files("seanet_jax.studies") / "results.md.jinja").read_text(encoding="utf-8")
    return (
        environment.from_string(template)
        .render(
            comparison=study,
            dataset=data.find_source(study.base.dataset).title,
            recipe_words=describe_recipe,
            published=TrainConfig(),
            is_reduced=study.base.limit_train is not None or study.base.epochs < TrainConfig().epochs,
            has_published=study.base.dataset in TALK_ERRORS,
            tests=tests,
            better=sum(test.is_significant and test.difference.mean < 0 for test in tests),
            worse=sum(test.is_significant and test.difference.mean > 0 for test in tests),
            aggregated=aggregated,
            plain=[row for row in table if not row.aggregates],
            matched_within=comparison.MATCHED_WITHIN,
            classes=networks[table[0].model].num_classes if table else None,
            factor=published.aggregate_factor,
            published_features=features(published),
            has_published_width=any(_widths(networks[row.model]) == published.widths for row in aggregated),
            edges=[variant for variant in study.variants if study.edge(variant)],
            rates=study.tried_rates(),
            comparison_table=comparison_tables.markdown(study).strip(),
            learning_rates=_validation_errors(study),
            ablation=results.ablation,
            ablation_table=results.ablation and ablate.markdown(results.ablation).strip(),
            recipes=results.recipes,
            recipes_table=results.recipes and recipes.markdown(results.recipes).strip(),
            recipe_variants=_recipe_variants(results.recipes) if results.recipes else {},
            widths=results.widths,
            widths_table=results.widths and widths.markdown(widths.arms(results.widths)).strip(),
            analysis=results.analysis,
            analysis_folder=results.analysis_folder,
            commands=_commands(results),
            studies=studies,
            runs=len(runs),
            seconds=sum(record["seconds"] for of, run in runs for record in of.records(run)),
            devices=sorted({summary["device"] for summary in summaries}),
            versions=sorted({", ".join(f"{k} {v}" for k, v in summary["versions"].items()) for summary in summaries}),
            full=results.full,
            hours=hours_at_least(results.full, seeds=3),
            reached=_REACHED,
        )
        .rstrip()
        + "\n"
    )


def _widths(network: NetworkConfig) -> tuple[int, ...] | None:
    return network.widths if isinstance(network, SEANetConfig) else None


def _validation_errors(study: Study) -> dict[str, list[str]]:
    """Returns, by variant, the cells of the table of learning rates."""
    found: dict[str, list[str]] = {}
    for variant in study.variants:
        cells = found.setdefault(variant, [])
        for rate in study.tried_rates():
            run = Run(variant, rate, 0)
            outcome = study.outcome(run)
            if outcome == "finished" and "val_accuracy" in (last := study.records(run)[-1]):
                error = f"{100 * (1 - last['val_accuracy']):.2f}"
                cells.append(f"**{error}**" if rate == study.chosen_rate(variant) else error)
            else:
                cells.append("diverged" if outcome == "diverged" else "—")
    return found


def _commands(results: Results) -> list[str]:
    """Returns the commands that make the records and the page."""
    commands = [_command("compare", results.comparison)]
    if results.ablation is not None:
        commands.append(_command("ablate", results.ablation))
    if results.analysis is not None:
        commands.append(results.analysis["command"])
    if results.recipes is not None:
        commands.append(_command("recipes", results.recipes))
    if results.widths is not None:
        commands.append(_command("widths", results.widths))
    return [*commands, "python experiments/results.py"]


def _command(script: str, study: Study) -> str:
    """Returns the command that makes a study."""
    base, plain = study.base, TrainConfig()
    models = dict.fromkeys(str(fields["model"]) for fields in study.variants.values())
    flags = [f"--models {' '.join(models)}"]
    if script != "recipes":  # which have their own
        flags.append(f"--learning-rates {' '.join(f'{rate:g}' for rate in study.learning_rates)}")
        if study.extend_rates:
            flags.append(f"--extend-rates {study.extend_rates}")
    flags.append(f"--seeds {study.seeds}")
    kept = {name: getattr(plain, name) for name in ("out", "data_dir", "resume", "model", "seed")}
    flags += as_flags(dataclasses.replace(base, **kept), plain)
    return f"python experiments/{script}.py {' '.join(flags)} --out {study.folder.as_posix()}"


def _link(page: Path, path: Path) -> str:
    """Returns a path relative to the folder of the page."""
    try:
        return path.resolve().relative_to(page.parent.resolve()).as_posix()
    except ValueError:
        raise InputError(f"{path} is not in {page.parent}, the folder of the page; name folders that are") from None
