"""Describes a recipe in words, for the page of results."""

from collections.abc import Iterator, Sequence

from seanet_jax.training.config import TrainConfig

_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "muon": "Muon"}


def describe_recipe(config: TrainConfig, learning_rates: Sequence[float]) -> str:
    """Describes the optimizer, the schedule, the loss, the augmentation and the average of a recipe.

    Args:
        config: Configuration of the recipe. Fields at the defaults of a published recipe are mentioned only where that
            tells them from a common alternative.
        learning_rates: The learning rates that are tried, in place of the configuration's.

    Returns:
        The parts of the description, separated by commas.
    """
    rates = " or ".join(f"{rate:g}" for rate in learning_rates)
    parts = [f"{_OPTIMIZERS[config.optimizer]} with learning rate {rates}"]
    parts += [*_schedule(config), *_update(config), *_loss(config), *_augmentation(config)]
    if config.ema_decay is not None:
        parts.append(f"an exponential moving average of the network with decay {config.ema_decay:g}")
    if config.patience is not None:
        parts.append(f"early stopping after {config.patience} epochs without a better validation accuracy")
    return ", ".join(parts)


def _schedule(config: TrainConfig) -> Iterator[str]:
    if config.warmup_epochs:
        yield f"a linear warm-up of {config.warmup_epochs:g} epochs"
    if config.schedule == "cosine":
        yield "decayed to 0 along half a cosine"
    elif config.schedule == "one_cycle":
        yield "rising to this rate and falling to 0 in one cycle"
    elif config.schedule == "steps" and config.decay_every is not None:
        yield f"multiplied by {config.decay_factor:g} every {config.decay_every} epochs"
    elif config.schedule == "steps" and config.decay_at:
        yield f"multiplied by {config.decay_factor:g} after {' and '.join(map(str, config.decay_at))} epochs"


def _update(config: TrainConfig) -> Iterator[str]:
    yield f"{'Nesterov ' if config.nesterov else ''}momentum {config.momentum:g}"
    decay = f"weight decay {config.weight_decay:g}"
    # AdamW and Muon know no other.
    if config.decoupled_decay and config.optimizer in ("sgd", "adam"):
        decay = f"decoupled {decay}"
    yield decay if config.decay_vectors else f"{decay} (not of scales and biases)"
    if config.clip_norm is not None:
        yield f"gradients clipped to norm {config.clip_norm:g}"
    if config.sam_rho is not None:
        yield f"sharpness-aware minimization with rho {config.sam_rho:g}"


def _loss(config: TrainConfig) -> Iterator[str]:
    if config.label_smoothing:
        yield f"label smoothing {config.label_smoothing:g}"
    if config.class_weights != "none":
        yield f"{config.class_weights} class weights"


def _augmentation(config: TrainConfig) -> Iterator[str]:
    if not config.augment:
        yield "no augmentation"
        return
    if config.padding != "zero":
        yield f"crops with {config.padding} padding"
    if not config.mirror:
        yield "no mirroring"
    if config.trivial_augment:
        yield "TrivialAugment"
    if config.cutout:
        yield f"cutout of {config.cutout} pixels"
    if config.erasing:
        yield f"random erasing with probability {config.erasing:g}"
    if config.cutmix:
        yield f"CutMix with alpha {config.cutmix:g}"
    if config.mixup:
        yield f"mixup with alpha {config.mixup:g}"
