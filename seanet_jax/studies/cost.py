"""What a study of the published length would cost on a GPU: a bound on paper, see ``seanet_jax.studies.roofline``."""

from collections.abc import Sequence

from seanet_jax.studies.roofline import seconds, work

# Of CIFAR-10 and CIFAR-100 alike.
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000

_BATCH = 64


def hours_at_least(models: Sequence[str], *, seeds: int, epochs: int = 200, precision: str = "TF32") -> float:
    """Hours that one H100 needs at the very least to train and evaluate every network on all of CIFAR.

    Args:
        models: names of presets.
        seeds: runs of each.
        epochs: of each run, after each of which the test images are evaluated.
        precision: "TF32" or "bf16".
    """
    a_step = {mode: [seconds(work(model, _BATCH, mode), precision) for model in models] for mode in ("train", "eval")}
    an_epoch = (sum(a_step["train"]) * TRAIN_IMAGES + sum(a_step["eval"]) * TEST_IMAGES) / _BATCH
    return an_epoch * epochs * seeds / 3600
