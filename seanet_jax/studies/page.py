"""docs/results.md and its figures, from the folders of the studies: nothing in them is typed by hand.

A study's folder needs its ``study.json`` and, of each run, ``config.json``, ``metrics.jsonl`` and ``summary.json``;
checkpoints are not read.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from seanet_jax import data, style
from seanet_jax.errors import InputError
from seanet_jax.files import write_whole
from seanet_jax.studies import ablate, compare, figures
from seanet_jax.studies.roofline import hours_at_least
from seanet_jax.studies.statistics import summarize
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import as_flags
from seanet_jax.training.progress import format_duration
from seanet_jax.training.run_folder import Record

# A GPU reaches a part of the roofline; which part here, nobody has measured.
_REACHED = (0.1, 0.3)


@dataclasses.dataclass(frozen=True)
class Results:
    """What a page is made of.

    Attributes:
        comparison: networks x seeds.
        ablation: SEANet's choices, or None.
        analysis: the contents of ``analysis.json``, or None.
        analysis_folder: that holds its figures.
        full: names of the networks of the comparison that is not reduced.
    """

    comparison: Study
    ablation: Study | None
    analysis: dict[str, Any] | None
    analysis_folder: Path
    full: tuple[str, ...]

    @classmethod
    def read(cls, comparison: Path, ablation: Path, analysis: Path, full: tuple[str, ...]) -> "Results":
        """From their folders; only the first must exist.

        Args:
            comparison: folder of a study of ``experiments/compare.py``.
            ablation: likewise of ``experiments/ablate.py``.
            analysis: of ``experiments/analyze.py``.
            full: names of presets.

        Raises:
            InputError: the first holds no study with a finished run.
        """
        study = Study.read(comparison)
        if not any(study.results(variant) for variant in study.variants):
            raise InputError(f"{comparison} holds no finished run; train some with experiments/compare.py")
        found = analysis / "analysis.json"
        return cls(
            study,
            Study.read(ablation) if (ablation / "study.json").exists() else None,
            json.loads(found.read_text()) if found.exists() else None,
            analysis,
            full,
        )


def write(results: Results, page: Path) -> None:
    """Draws the figures into the folders of the studies, and writes the page, whose links are relative to its place.

    Args:
        results: read from their folders.
        page: path of the Markdown file, in a folder that holds those of the results.

    Raises:
        InputError: the page's folder does not hold a study's.
    """
    written = text(results, page)
    draw(results)
    write_whole(page, written)


def draw(results: Results) -> None:
    """Draws the figures."""
    study = results.comparison
    dataset = study.base.dataset
    runs = _runs(study)
    style.save(figures.error_curves(runs, epochs=study.base.epochs), study.folder / "errors")
    if dataset in compare.TALK:
        published = figures.against_published({dataset: runs}, datasets=tuple(compare.TALK))
        style.save(published, study.folder / "published")
    points = []
    for row in compare.rows(study):
        if row.last_errors:
            summary = summarize(list(row.last_errors.values()))
            points.append((row.model, float(row.multiply_adds), summary.mean, summary.deviation))
    style.save(figures.error_against_multiply_adds(points), study.folder / "multiply-adds")
    if results.ablation is not None:
        axes: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
        for found in ablate.table(results.ablation):
            if found["test_errors"]:
                summary = summarize(list(found["test_errors"].values()))
                value = (found["value"], summary.mean, summary.deviation, found["learning_rate"])
                axes.setdefault(found["axis"], []).append(value)
        if axes:
            style.save(figures.ablation(axes, base=ablate.BASE_VALUES), results.ablation.folder / "ablation")


def _runs(study: Study) -> dict[str, list[list[Record]]]:
    found = {variant: list(study.results(variant).values()) for variant in study.variants}
    return {variant: runs for variant, runs in found.items() if runs}


def text(results: Results, page: Path) -> str:
    """The page.

    Args:
        results: read from their folders.
        page: where it will be.

    Raises:
        InputError: the page's folder does not hold a study's.
    """
    study = results.comparison
    parts = [
        f"# Does aggregation help? {_title(study)}",
        _limits(study),
        "## At equal parameters, at equal capacity, at equal compute",
        "\n".join(f"- {line}" for line in _answers(study)),
        compare.markdown(study).strip(),
        _image(page, study.folder / "errors", "test error by epoch"),
        _image(page, study.folder / "multiply-adds", "test error against multiply-adds"),
    ]
    if len(study.learning_rates) > 1:
        parts += ["### Learning rates", _rates(study)]
    if study.base.dataset in compare.TALK:
        parts += [
            "### Beside the published run",
            "The talk's two plots of accuracy, with the runs of this study over the published ones.",
            _image(page, study.folder / "published", "accuracy by epoch, published and ours"),
        ]
    if results.ablation is not None:
        heading = "## SEANet's choices, one at a time"
        parts += [heading, _recipe(results.ablation), ablate.markdown(results.ablation).strip()]
        parts += [_image(page, results.ablation.folder / "ablation", "test error of each choice")]
    if results.analysis is not None:
        parts += _claims(results.analysis, results.analysis_folder, page)
    parts += ["## How it was made", *_origin(results, page)]
    return "\n\n".join(parts) + "\n"


def _title(study: Study) -> str:
    base = study.base
    images = "all training images" if base.limit_train is None else f"{base.limit_train:,} training images"
    reduced = "" if _is_full(base) else "A reduced study: "
    return f"{reduced}{data.get(base.dataset).title}, {images}, {base.epochs} epochs"


def _is_full(base: TrainConfig) -> bool:
    return base.limit_train is None and base.epochs >= TrainConfig().epochs


def _limits(study: Study) -> str:
    base = study.base
    if _is_full(base):
        return _recipe(study)
    return (
        f"This is not the published recipe, which has {TrainConfig().epochs} epochs of all training images: no GPU was "
        "there to run it. Networks trained this short are far from the accuracies they can reach, and which of two "
        "learns faster is not which is better in the end. What stands here holds for this recipe. " + _recipe(study)
    )


def _recipe(study: Study) -> str:
    base = study.base
    rates = " or ".join(f"{rate:g}" for rate in study.learning_rates)
    images = "All training images" if base.limit_train is None else f"The first {base.limit_train:,} training images"
    held = (
        f", of which the last {base.validation_fraction:.0%} are held out to choose the learning rate"
        if base.validation_fraction
        else ""
    )
    tests = "all test images" if base.limit_test is None else f"the first {base.limit_test:,} test images"
    optimizer = {"sgd": "SGD", "adam": "Adam"}[base.optimizer]
    decay = f", times {base.decay_factor:g} every {base.decay_every} epochs"
    if base.decay_every is None:
        ends = " and ".join(map(str, base.decay_at))
        decay = f", times {base.decay_factor:g} after {ends} epochs" if ends else ""
    return (
        f"{images}{held}; {base.epochs} epochs of batches of {base.batch_size}, {optimizer} with learning rate {rates}"
        f"{decay}, momentum {base.momentum:g}, weight decay {base.weight_decay:g}; errors are those of {tests}."
    )


def _answers(study: Study) -> list[str]:
    """A sentence for each aggregated network and each of its equals, from the same tests as the table's."""
    table = {row.model: row for row in compare.rows(study)}
    made = []
    for one in compare.comparisons(list(table.values())):
        row, other, found = table[one.aggregated], table[one.equal], one.difference
        made.append(
            f"**{one.aggregated} against {one.equal}**, with {row.parameters / other.parameters - 1:+.1%} parameters "
            f"and {row.multiply_adds / other.multiply_adds - 1:+.1%} multiply-adds: {abs(found.mean):.2f} points "
            f"{'more' if found.mean > 0 else 'less'} error (95 % interval {found.low:+.2f} to {found.high:+.2f}, "
            f"p = {one.adjusted_p_value:.3f} after Holm, {found.pairs} seeds): {one.verdict}."
        )
    return made or ["Too few seeds are finished to test anything."]


def _rates(study: Study) -> str:
    rates = study.learning_rates
    lines = [
        "Validation error of seed 0 at the last epoch, in percent; the smallest, bold, decides.",
        "",
        f"| network | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---" + "|---:" * len(rates) + "|",
    ]
    for variant in study.variants:
        cells = []
        for rate in rates:
            run = Run(variant, rate, 0)
            outcome = study.outcome(run)
            if outcome == "finished":
                error = f"{100 * (1 - study.records(run)[-1]['val_accuracy']):.2f}"
                cells.append(f"**{error}**" if rate == study.chosen_rate(variant) else error)
            else:
                cells.append(outcome or "—")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _claims(analysis: dict[str, Any], folder: Path, page: Path) -> list[str]:
    made = ["## The talk's claims, measured", analysis["subject"]]
    for claim in analysis["claims"]:
        made.append(f'### "{claim["claim"]}"')
        made.append(_image(page, folder / claim["figure"], claim["claim"]))
        made.append(f"{claim['measured']} {claim['verdict']}")
    return made


def _origin(results: Results, page: Path) -> list[str]:
    studies = [("compare", results.comparison)] + ([("ablate", results.ablation)] if results.ablation else [])
    commands = [_command(script, study) for script, study in studies]
    if results.analysis is not None:
        commands.append(results.analysis["command"])
    commands.append("python experiments/results.py")
    runs = [(study, run) for _, study in studies for run in study.finished()]
    summaries = [summary for study, run in runs if (summary := study.summary(run)) is not None]
    seconds = sum(record["seconds"] for study, run in runs for record in study.records(run))
    devices = sorted({summary["device"] for summary in summaries})
    versions = sorted({", ".join(f"{k} {v}" for k, v in summary["versions"].items()) for summary in summaries})
    full_hours = hours_at_least(results.full, seeds=3)
    low, high = (format_duration(3600 * full_hours / share) for share in reversed(_REACHED))
    return [
        "```bash\n" + "\n".join(commands) + "\n```",
        f"{len(runs)} finished runs, {format_duration(seconds)} of training, evaluation left out, one core or more for "
        f"each run. Device: {'; '.join(devices)}. Versions: {'; '.join(versions)}.",
        "The images/s of the table were measured by `compare.py` after the runs, in turns; the records hold those "
        "of the runs. Every error comes from `test_accuracy` in the `metrics.jsonl` of a run in "
        + " or ".join(f"[{study.folder.name}]({_relative(page, study.folder)})" for _, study in studies)
        + ", and the last command makes this page anew from these alone.",
        "The full study is `python experiments/compare.py`: 3 seeds of each network, all training images. For the "
        f"{len(results.full)} of SEANet's recipe, {TrainConfig().epochs} epochs, one H100 needs "
        f"{format_duration(3600 * full_hours)} at the very least (TF32, the roofline of docs/performance.md); what the "
        "three EncapNets need, 600 epochs by a recipe of their own, is not counted. No part of it has been run on a "
        f"GPU; one that reaches {_REACHED[0]:.0%} to {_REACHED[1]:.0%} of that bound needs {low} to {high}.",
    ]


def _command(script: str, study: Study) -> str:
    base, plain = study.base, TrainConfig()
    models = list(study.variants) if script == "compare" else [ablate.base_name(study)]
    flags = [f"--models {' '.join(models)}", f"--learning-rates {' '.join(f'{r:g}' for r in study.learning_rates)}"]
    flags.append(f"--seeds {study.seeds}")
    kept = {name: getattr(plain, name) for name in ("out", "data_dir", "resume", "model", "seed")}
    flags += as_flags(dataclasses.replace(base, **kept), plain)
    return f"python experiments/{script}.py {' '.join(flags)} --out {study.folder.as_posix()}"


def _image(page: Path, path: Path, what: str) -> str:
    link = _relative(page, path)
    return f"![{what}]({link}.png)\n\n[SVG]({link}.svg)"


def _relative(page: Path, path: Path) -> str:
    try:
        return path.resolve().relative_to(page.parent.resolve()).as_posix()
    except ValueError:
        raise InputError(f"{path} is not below {page.parent}, the page's folder; name folders there") from None
