"""Measures the talk's claims about aggregation on trained networks. Each claim gets numbers, a figure and a verdict.

The functions that end in ``_sentences`` give the verdicts. Their docstrings state the rule that each verdict follows.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seanet_jax import jax_settings, style
from seanet_jax.data import Dataset
from seanet_jax.durable import write_together
from seanet_jax.environment import versions
from seanet_jax.errors import InputError, positive_integers
from seanet_jax.inference.trained import load_model
from seanet_jax.json_files import json_text
from seanet_jax.layers.functional import AGGREGATE_OPS, AggregateOp
from seanet_jax.models import SEANet, SEANetConfig
from seanet_jax.paths import UserPath, make_folder, user_path
from seanet_jax.studies import claim_figures
from seanet_jax.studies.analysis import (
    Gradients,
    Moments,
    active_share,
    chosen_channels,
    correlations_of,
    effective_rank_of,
    feature_maps,
    gradient_norms,
    summed_groups,
)
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.images import load_dataset
from seanet_jax.training.progress import print_once
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.trainer import Trainer

# Number of random selections of channels. The control is their mean, so that it does not hang on one selection.
_CHOICES = 20
_IMAGES_AT_A_TIME = 100
# Number of training images in the batch whose gradients are measured.
_GRADIENT_IMAGES = 256
_STAGES_SHOWN = 2
_OPERATIONS = ("sum", "mean", "max", "none")


class Trained(NamedTuple):
    """A run and its trained network.

    Attributes:
        name: Name of the run's folder.
        config: The run's configuration.
        model: The network after the last epoch, in evaluation mode.
    """

    name: str
    config: TrainConfig
    model: SEANet


@jax_settings.fixed()
def analyze(
    aggregated: UserPath,
    baseline: UserPath,
    out: UserPath,
    *,
    images: int = 1000,
    image: int = 0,
    steps: int = 300,
    learning_rate: float = 0.1,
    data_dir: UserPath | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Measures the three claims, and writes ``analysis.json`` and the figures.

    Args:
        aggregated: Folder of a run that aggregates after each stage. Its checkpoints are read.
        baseline: Folder of a run of the same widths without aggregation. Its checkpoints are read.
        out: Folder to write.
        images: Number of test images whose feature maps are measured. The first test images are used.
        image: Index of the test image whose feature maps are drawn.
        steps: Number of training steps over which gradients are measured.
        learning_rate: Learning rate of these training steps.
        data_dir: Folder of the dataset; see ``TrainConfig``. None takes the one that the run was trained from, if it is
            here.
        command: Command line that repeats the analysis. It is written to ``analysis.json``.

    Returns:
        The contents of ``analysis.json``.

    Raises:
        InputError: If the runs are not such a pair, their checkpoints or data cannot be read, or a number is out of
            range.
    """
    images, steps = positive_integers("analyze", images=images, steps=steps)
    out = user_path(out)
    ours, theirs = _read(user_path(aggregated), data_dir), _read(user_path(baseline), data_dir)
    _check_pair(ours, theirs)
    dataset = load_dataset(ours.config)
    available = len(dataset.test_images)
    if images > available:
        raise InputError(f"images is {images}; it must be at most {available}, the number of test images")
    if not 0 <= image < available:
        raise InputError(f"image is {image}; it must be the index of a test image, from 0 to {available - 1}")
    # Validates the learning rate now: it is used only after the maps have been measured, which takes minutes.
    _gradient_config(ours.config, "none", learning_rate)
    # Made now for the same reason.
    make_folder(out)

    redundancy = _redundancy(ours, theirs, dataset, images)
    print_once("redundancy measured")
    gradients = _gradients(ours, dataset, steps, learning_rate)
    print_once("gradients measured")
    coverage = _coverage(ours, dataset, images)
    pixels = dataset.test_images[image]
    drawn = feature_maps(ours.model, _normalized(dataset, pixels[None]))[:_STAGES_SHOWN]
    figures = {
        "redundancy": claim_figures.redundancy_figure(redundancy),
        "gradients": claim_figures.gradients_figure(gradients),
        "maps": claim_figures.maps_figure(pixels, f"image {image}", drawn, ours.model.config.aggregate_op),
    }
    # The claims are quoted from the talk, with its spelling.
    claims = [
        _claim("minimised redundancies", "redundancy", redundancy_sentences(redundancy)),
        _claim("significant flow of gradient with sum", "gradients", gradient_sentences(gradients)),
        _claim("a global representation", "maps", coverage_sentences(coverage)),
    ]
    about = {
        "subject": (
            f"{ours.config.model} (run {ours.name}) beside {theirs.config.model} (run {theirs.name}), both after their "
            f"last epoch; maps of the first {images:,} test images of {dataset.name}. Gradients: new networks of the "
            f"same widths, {steps} steps of training at learning rate {learning_rate:g}, of the loss of "
            f"{min(_GRADIENT_IMAGES, len(dataset.train_images))} training images."
        ),
        "command": command,
        "claims": claims,
        "redundancy": [{name: value for name, value in row.items() if name != "pairs"} for row in redundancy],
        "gradients": gradients,
        "coverage": coverage,
        "versions": versions(),
    }
    files: dict[str, str | bytes] = {}
    for name, figure in figures.items():
        files |= style.encoded(figure, name)
    write_together(out, files | {"analysis.json": json_text(about)})
    for claim in claims:
        print_once(f'"{claim["claim"]}": {claim["measured"]} {claim["verdict"]}')
    return about


def _read(folder: Path, data_dir: UserPath | None) -> Trained:
    config = RunFolder(folder).read_config(data_dir)
    model = load_model(folder, "latest")
    if not isinstance(model, SEANet):
        raise InputError(
            f"{folder} is a run of {config.model}, which has no stages; give a run of a SEANet, SENet or ResNet"
        )
    return Trained(folder.name, config, model)


def _check_pair(ours: Trained, theirs: Trained) -> None:
    first, second = ours.model.config, theirs.model.config
    if first.aggregate_placement != "stage":
        raise InputError(f"run {ours.name} does not aggregate after its stages; the first run must")
    stages = len(first.aggregating_stages)
    if first.aggregate_op not in AGGREGATE_OPS or first.aggregate_norm or stages != len(first.stage_sizes):
        raise InputError(
            f"run {ours.name} does not reduce groups of adjacent channels alone after every stage; give a run whose "
            f"aggregate_op is one of {', '.join(AGGREGATE_OPS)}, without aggregate_stages and aggregate_norm"
        )
    if second.aggregate_placement != "none":
        raise InputError(f"run {theirs.name} aggregates; the second run must not")
    if first.preactivation:
        raise InputError(f"run {ours.name} aggregates maps that are not rectified; give a run without pre-activation")
    if (first.widths, ours.config.dataset) != (second.widths, theirs.config.dataset):
        raise InputError(
            f"run {ours.name} has widths {first.widths} on {ours.config.dataset}, and run {theirs.name} has widths "
            f"{second.widths} on {theirs.config.dataset}; give two runs with the same widths and dataset"
        )


def _claim(claim: str, figure: str, sentences: tuple[str, str]) -> dict[str, str]:
    measured, verdict = sentences
    return {"claim": claim, "figure": figure, "measured": measured, "verdict": verdict}


def _normalized(dataset: Dataset, images: np.ndarray) -> jax.Array:
    return dataset.image_spec.normalize(jnp.asarray(images))


def _batches(dataset: Dataset, images: int) -> Iterator[jax.Array]:
    """Yields the first test images in normalized batches."""
    for start in range(0, images, _IMAGES_AT_A_TIME):
        yield _normalized(dataset, dataset.test_images[start : min(start + _IMAGES_AT_A_TIME, images)])


def _moments(model: SEANet, dataset: Dataset, images: int) -> list[tuple[Moments, Moments]]:
    """Returns the moments of each stage's maps, before and after its aggregation."""
    total: list[tuple[Moments, Moments]] = []
    for batch in _batches(dataset, images):
        found = [(Moments.of(stage.before), Moments.of(stage.after)) for stage in feature_maps(model, batch)]
        pairs = zip(total, found, strict=True)
        total = [(a.merge(c), b.merge(d)) for (a, b), (c, d) in pairs] if total else found
    return total


class _Redundancy(NamedTuple):
    """Redundancy of some channels.

    Attributes:
        numbers: Number of channels, median absolute correlation, effective rank, and its share of the channels.
        pairs: Absolute correlation of each pair of channels that vary.
    """

    numbers: dict[str, float]
    pairs: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray) -> "_Redundancy":
        """Returns the redundancy of channels with a covariance ``[C, C]``."""
        rank, pairs = effective_rank_of(covariance), correlations_of(covariance).absolute
        numbers = {
            "channels": len(covariance),
            "median_correlation": float(np.median(pairs)),
            "effective_rank": rank,
            "effective_rank_share": rank / len(covariance),
        }
        return cls(numbers, pairs)

    @classmethod
    def mean(cls, covariances: Sequence[np.ndarray]) -> "_Redundancy":
        """Returns the mean of the numbers over several covariances, and the pairs of all of them."""
        found = [cls.of(covariance) for covariance in covariances]
        numbers = {name: float(np.mean([one.numbers[name] for one in found])) for name in found[0].numbers}
        return cls(numbers, np.concatenate([one.pairs for one in found]))


def _redundancy(ours: Trained, theirs: Trained, dataset: Dataset, images: int) -> list[dict[str, Any]]:
    """Returns the redundancy of the maps of each stage, one row per stage.

    Fewer channels are less redundant by themselves. Aggregated maps are therefore compared with as many channels of the
    baseline, chosen at random. They are also compared with sums of the baseline's channels in random groups, which show
    the effect of summation in a network that was trained without it.
    """
    rows = []
    source = np.random.default_rng(0)
    factor = ours.model.config.aggregate_factor
    stages = zip(_moments(ours.model, dataset, images), _moments(theirs.model, dataset, images), strict=True)
    for (before, after), (baseline, _) in stages:
        covariance = baseline.covariance()
        orders = [source.permutation(len(covariance)) for _ in range(_CHOICES)]
        # These names are keys of analysis.json: "plain" is the baseline.
        redundancy = {
            "before": _Redundancy.of(before.covariance()),
            "after": _Redundancy.of(after.covariance()),
            "plain": _Redundancy.of(covariance),
            "plain_chosen": _Redundancy.mean([chosen_channels(covariance, o[: len(o) // factor]) for o in orders]),
            "plain_sums": _Redundancy.mean([summed_groups(covariance, o, factor) for o in orders]),
        }
        rows.append(
            {name: found.numbers for name, found in redundancy.items()}
            | {"pairs": {name: found.pairs for name, found in redundancy.items()}}
        )
    return rows


def redundancy_sentences(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Returns a sentence with the measured redundancy, and the verdict.

    The claim holds in a stage if its aggregated maps have a lower median absolute correlation, and a higher effective
    rank per channel, than as many channels of the baseline.

    Args:
        rows: One row per stage, with the redundancy of the aggregated maps (``after``) and of the baseline's chosen
            channels (``plain_chosen``).
    """
    parts, holds = [], []
    for stage, row in enumerate(rows, start=1):
        after, control = row["after"], row["plain_chosen"]
        fewer = after["median_correlation"] < control["median_correlation"]
        holds.append(fewer and after["effective_rank_share"] > control["effective_rank_share"])
        parts.append(
            f"stage {stage}: {after['median_correlation']:.2f} after aggregation, {control['median_correlation']:.2f} "
            f"without, effective rank {after['effective_rank']:.1f} and {control['effective_rank']:.1f} of "
            f"{after['channels']}"
        )
    measured = (
        "Median absolute correlation between maps, and effective rank, beside as many maps of the network without "
        f"aggregation: {'; '.join(parts)}."
    )
    return measured, _verdict(holds, "stage")


def _verdict(holds: Sequence[bool], what: str) -> str:
    if all(holds):
        return "The claim holds here."
    if not any(holds):
        return "The claim does not hold here."
    where = ", ".join(str(number) for number, one in enumerate(holds, start=1) if one)
    return f"The claim holds here in {what} {where} alone."


def _gradients(ours: Trained, dataset: Dataset, steps: int, learning_rate: float) -> dict[str, Any]:
    """Returns the gradient norms of each operation, one row per measured step.

    All operations start from the same seed and are measured on the same images.
    """
    mesh = sharding.make_mesh()
    looks = sorted({step for step in (0, 10, 100) if step < steps} | {steps})
    images = _normalized(dataset, dataset.train_images[:_GRADIENT_IMAGES])
    labels = jnp.asarray(dataset.train_labels[:_GRADIENT_IMAGES])
    found: dict[str, Any] = {}
    for operation in _OPERATIONS:
        trainer = Trainer(_gradient_config(ours.config, operation, learning_rate), dataset, mesh, {})
        train_step = trainer.lower_train_step().compile()
        state = trainer.initial_state()
        network, rows = trainer.model_config, []
        assert isinstance(network, SEANetConfig)
        for step in range(steps + 1):
            if step in looks:
                gradients = gradient_norms(network, state.params, state.batch_stats, images, labels)
                rows.append(_row(step, gradients))
            if step < steps:
                order = trainer.order(step // trainer.steps_per_epoch)
                state, _ = train_step(state, trainer.images, order, trainer.augment_key)
        found[operation] = rows
        print_once(f"{operation}: loss {rows[0]['loss']:.3f} at step 0, {rows[-1]['loss']:.3f} at step {steps}")
    return found


def _gradient_config(config: TrainConfig, operation: str, learning_rate: float) -> TrainConfig:
    """Returns the configuration of a run that aggregates by another operation, at a constant learning rate."""
    change: dict[str, Any] = {"aggregate_op": operation} if operation != "none" else {"aggregate_placement": "none"}
    plain = TrainConfig()
    # A warm-up or a cycle would begin far below the learning rate that the sentence on the gradients names.
    change |= {name: getattr(plain, name) for name in ("warmup_epochs", "decay_every", "decay_at", "decay_factor")}
    return dataclasses.replace(config, **change, schedule="constant", learning_rate=learning_rate, max_steps=None)


def _row(step: int, gradients: Gradients) -> dict[str, Any]:
    return {
        "step": step,
        "loss": gradients.loss,
        "layers": [layer.layer for layer in gradients.layers],
        "gradient_norms": [layer.gradient for layer in gradients.layers],
        "relative_norms": [layer.relative for layer in gradients.layers],
    }


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-30)) for value in values) / len(values))


def gradient_sentences(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, str]:
    """Returns a sentence with the measured gradient norms, and the verdict.

    The claim holds if the gradient of the sum is the largest of the four at every measured step. Gradients are compared
    by the geometric mean of their norms over the convolutions.

    Args:
        found: Maps each operation to one row per measured step.
    """
    parts, holds = [], []
    for index, row in enumerate(found["sum"]):
        means = {name: _geometric_mean(rows[index]["gradient_norms"]) for name, rows in found.items()}
        losses = ", ".join(f"{rows[index]['loss']:.2f}" for rows in found.values())
        norms = ", ".join(f"{value:.2g}" for value in means.values())
        holds.append(max(means, key=lambda name: means[name]) == "sum")
        parts.append(f"step {row['step']}: {norms} (loss {losses})")
    measured = (
        f"Geometric mean of the gradient's norms over the convolutions for {', '.join(found)}: {'; '.join(parts)}. "
        "A larger gradient is no gain by itself: so is one times a larger learning rate."
    )
    if any(holds) and not all(holds):
        where = ", ".join(str(row["step"]) for row, one in zip(found["sum"], holds, strict=True) if one)
        return measured, f"The sum's is the largest at step {where} alone: the claim does not hold throughout."
    return measured, _verdict(holds, "step")


def _coverage(ours: Trained, dataset: Dataset, images: int) -> list[dict[str, float]]:
    """Returns the share of positions at which maps are above zero, one row per stage."""
    config, source = ours.model.config, np.random.default_rng(0)
    factor, op = config.aggregate_factor, cast(AggregateOp, config.aggregate_op)  # as _check_pair has seen
    orders = [[source.permutation(width) for _ in range(_CHOICES)] for width in config.widths]
    rows = [dict.fromkeys(("before", "after", "random_groups"), 0.0) for _ in config.widths]
    for batch in _batches(dataset, images):
        for row, stage, drawn in zip(rows, feature_maps(ours.model, batch), orders, strict=True):
            ungrouped = np.arange(stage.before.shape[-1])
            shares = {
                "before": active_share(stage.before, ungrouped),
                "after": active_share(stage.before, ungrouped, factor=factor, op=op),
                "random_groups": jnp.stack([active_share(stage.before, o, factor=factor, op=op) for o in drawn]).mean(),
            }
            for name, share in shares.items():
                row[name] += float(share) * len(batch) / images
    return rows


def coverage_sentences(rows: Sequence[Mapping[str, float]]) -> tuple[str, str]:
    """Returns a sentence with the measured coverage, and the verdict.

    An aggregated map is above zero wherever one of the maps in its group is, so it covers more of the image by
    construction. The claim holds in a stage only if its groups also cover more than random groups of the same maps.

    Args:
        rows: One row per stage, with the shares ``before``, ``after`` and ``random_groups``.
    """
    parts = [
        f"stage {stage}: {row['before']:.0%} before, {row['after']:.0%} after, {row['random_groups']:.0%} in groups "
        "drawn at random"
        for stage, row in enumerate(rows, start=1)
    ]
    measured = f"Share of positions at which maps are above zero: {'; '.join(parts)}."
    covers = all(row["after"] > row["before"] for row in rows)
    holds = [row["after"] > row["random_groups"] for row in rows]
    if covers and not all(holds):
        return measured, (
            "An aggregated map covers more of the image, as any sum of rectified maps does; the network has not "
            "learned groups that cover more than chance would" + ("." if not any(holds) else " in every stage.")
        )
    return measured, _verdict(holds, "stage")
