"""How a network is trained, whatever the network and the data set."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal, get_args

from seanet_jax.errors import InputError, is_integer, is_number
from seanet_jax.models.network import ComputeDtype, NetworkConvMethod
from seanet_jax.printable import short_repr

OptimizerName = Literal["sgd", "adam", "adamw", "muon"]
ScheduleName = Literal["steps", "cosine", "one_cycle", "constant"]
ClassWeights = Literal["none", "balanced"]
Padding = Literal["zero", "reflect"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The fields of ``TrainConfig`` that say how a network is trained, whatever the network and the data set.

    The defaults are the published recipe (SEANet talk, MIND 2019).
    """

    dtype: ComputeDtype = "float32"
    """Dtype in which convolutions and matrix products are computed. Parameters and batch statistics stay float32."""

    conv_method: NetworkConvMethod = "auto"
    """Algorithm of convolutions: auto picks the fastest on the device, lax is XLA's own. Results differ by rounding."""

    epochs: int = 200
    """Passes over the training images."""

    batch_size: int = 64
    """Training images per step, over all devices. Each epoch drops the images left over after its last full batch."""

    optimizer: OptimizerName = "sgd"
    """Optimizer: SGD with momentum, Adam, AdamW, or Muon, which updates scales, biases and the classifier by AdamW."""

    nesterov: bool = False
    """Nesterov's momentum, for SGD alone."""

    learning_rate: float = 0.1
    """Learning rate, before any decay. The schedules cosine and one_cycle have it at their peak."""

    schedule: ScheduleName = "steps"
    """Learning rate over the run: decays in steps, half a cosine to 0, one cycle (up, then down to 0), or constant."""

    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly from 0, before the schedule goes on. one_cycle has its own."""

    decay_every: int | None = 80
    """Multiply the learning rate by decay_factor every this many epochs; None disables it. For the schedule steps."""

    decay_at: tuple[int, ...] = ()
    """Epochs at which the learning rate is multiplied by decay_factor, if decay_every is None."""

    decay_factor: float = 0.1
    """Factor by which each decay multiplies the learning rate."""

    momentum: float = 0.9
    """Momentum of SGD or Muon, or beta 1 of Adam and AdamW, whose beta 2 is 0.999."""

    weight_decay: float = 1e-4
    """L2 penalty: this factor times each parameter is added to its gradient before the optimizer's update."""

    decoupled_decay: bool = False
    """Subtract learning rate x weight_decay x parameter instead of the L2 penalty, as AdamW and Muon always do."""

    decay_vectors: bool = True
    """Apply weight decay to scales and biases too, the parameters of a single axis."""

    clip_norm: float | None = None
    """Largest L2 norm of the gradient of all parameters together; a longer one is shortened. None sets no limit."""

    sam_rho: float | None = None
    """Sharpness-aware minimization: L2 distance at which the gradient is taken, for twice the cost; None for none."""

    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over all classes."""

    class_weights: ClassWeights = "none"
    """Weights of the classes in the loss: none, or balanced, inversely proportional to their training images."""

    augment: bool = True
    """Augment training images: pad with 4 pixels, crop at random, and mirror half if the classes allow it."""

    padding: Padding = "zero"
    """Pixels around an image before it is cropped: zero (black), or reflect (the image, mirrored at its border)."""

    mirror: bool = True
    """Mirror half of the images. Data sets whose classes mirroring changes, such as digits, are never mirrored."""

    cutout: int = 0
    """Side in pixels of a square at a random place of each image that is replaced by the mean color; 0 for none."""

    erasing: float = 0.0
    """Probability with which a random rectangle of an image is replaced by the mean color (random erasing)."""

    trivial_augment: bool = False
    """Change each image by one random operation of random strength (TrivialAugment, wide)."""

    mixup: float = 0.0
    """Mix pairs of images and their labels, by shares of the distribution beta(mixup, mixup); 0 mixes none."""

    cutmix: float = 0.0
    """Replace a rectangle of each image by another's, of an area from beta(cutmix, cutmix), and mix labels; 0: none."""

    ema_decay: float | None = None
    """Also keep an exponential moving average of the network with this decay per step, for --which ema; None: none."""

    limit_train: int | None = None
    """Use only this many training images, the first ones; None uses all."""

    limit_test: int | None = None
    """Use only this many test images, the first ones; None uses all."""

    seed: int = 0
    """Random seed of the initial parameters, the order of the images and the augmentation."""

    @property
    def mixes_labels(self) -> bool:
        """Whether an image may belong to several classes, so that labels are distributions over classes."""
        return self.label_smoothing > 0 or self.mixup > 0 or self.cutmix > 0

    def check(self) -> None:
        """Checks the fields of this class, alone and together.

        Raises:
            InputError: If a field has a value that cannot work, or contradicts another.
        """
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {short_repr(getattr(self, name))}; it must be one of {', '.join(known)}")
        for name, (allowed, holds) in _ALLOWED.items():
            if not holds(getattr(self, name)):
                raise InputError(f"{name} is {short_repr(getattr(self, name))}; it must be {allowed}")
        if self.decay_at and self.decay_every is not None:
            raise InputError(
                f"decay_every is {self.decay_every} and decay_at is {self.decay_at}; only one can be followed: make "
                "decay_every None, or leave decay_at empty"
            )
        self._check_optimizer()
        self._check_schedule()
        if not self.augment:
            self._unused("augment is False", "padding", "cutout", "erasing", "trivial_augment", "mixup", "cutmix")

    def _check_optimizer(self) -> None:
        if self.optimizer != "sgd":
            self._unused(f"the optimizer is {self.optimizer}", "nesterov")
        if self.nesterov and not self.momentum:
            raise InputError("momentum is 0; Nesterov's momentum needs one above 0")
        if self.decoupled_decay and not self.weight_decay:
            raise InputError("weight_decay is 0, but decoupled_decay is True; give a weight_decay above 0")

    def _check_schedule(self) -> None:
        if self.schedule != "steps":
            self._unused(f"the schedule is {self.schedule}", "decay_at", "decay_factor")
            if self.decay_every not in (None, _DEFAULTS["decay_every"]):
                raise InputError(
                    f"the schedule is {self.schedule}, but decay_every is {self.decay_every}; make decay_every None"
                )
        elif self.decay_every is None and not self.decay_at:
            self._unused("the learning rate has no decay", "decay_factor")
        if self.schedule == "one_cycle":
            self._unused("the schedule one_cycle has its own warm-up", "warmup_epochs")
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs is {self.warmup_epochs}; it must be at most {self.epochs}, the epochs")

    def _unused(self, why: str, *names: str) -> None:
        """Raises an error if a field that nothing would follow is not at its default."""
        for name in names:
            value, default = getattr(self, name), _DEFAULTS[name]
            if value != default:
                # A named recipe may have set the field, so the message does not say to leave it alone.
                raise InputError(f"{why}, but {name} is {short_repr(value)}; it must be {default!r}")


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(ScheduleName),
    "class_weights": get_args(ClassWeights),
    "padding": get_args(Padding),
}


def _rising(epochs: Any) -> bool:
    return isinstance(epochs, tuple) and all(
        is_integer(later, minimum=earlier + 1) for earlier, later in itertools.pairwise((0, *epochs))
    )


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_positive_integer(value: Any) -> bool:
    return is_integer(value, minimum=1)


def _from_0(value: Any) -> bool:
    return is_number(value) and value >= 0


def _from_0_below_1(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


# What each field must be, in words and as a function.
_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epochs": ("a positive integer", _is_positive_integer),
    "batch_size": ("a positive integer", _is_positive_integer),
    "nesterov": ("True or False", _is_flag),
    "learning_rate": ("a positive number", _is_positive),
    "warmup_epochs": ("at least 0", _from_0),
    "decay_every": ("a positive integer or None", _or_none(_is_positive_integer)),
    "decay_at": ("epochs from 1 in rising order, or none", _rising),
    "decay_factor": ("above 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1),
    "momentum": ("at least 0 and below 1", _from_0_below_1),
    "weight_decay": ("at least 0", _from_0),
    "decoupled_decay": ("True or False", _is_flag),
    "decay_vectors": ("True or False", _is_flag),
    "clip_norm": ("a positive number or None", _or_none(_is_positive)),
    "sam_rho": ("a positive number or None", _or_none(_is_positive)),
    "label_smoothing": ("at least 0 and below 1", _from_0_below_1),
    "augment": ("True or False", _is_flag),
    "mirror": ("True or False", _is_flag),
    "cutout": ("an integer of at least 0", lambda value: is_integer(value, minimum=0)),
    "erasing": ("from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1),
    "trivial_augment": ("True or False", _is_flag),
    "mixup": ("at least 0", _from_0),
    "cutmix": ("at least 0", _from_0),
    "ema_decay": ("above 0 and below 1, or None", _or_none(lambda value: is_number(value) and 0 < value < 1)),
    "limit_train": ("a positive integer or None", _or_none(_is_positive_integer)),
    "limit_test": ("a positive integer or None", _or_none(_is_positive_integer)),
    "seed": ("an integer from 0 to 2**32 - 1", lambda value: is_integer(value, minimum=0) and value < 2**32),
}
