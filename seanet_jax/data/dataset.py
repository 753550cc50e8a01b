"""An image classification data set that fits in memory."""

import dataclasses
import hashlib

import numpy as np

from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of one data set, checked when it is made.

    Attributes:
        name: Name under which `seanet_jax.data.load` knows the data set.
        train_images: uint8 [N, H, W, C], values 0..255.
        train_labels: int32 [N], values 0..num_classes-1.
        test_images: uint8 [M, H, W, C].
        test_labels: int32 [M].
        class_names: One name per class, in the order of the labels.
        mean: Mean per channel of the training pixels, scaled to [0, 1].
        std: Standard deviation per channel of the same pixels.
        flip: Whether a mirrored image is still of its class.
        val_images: uint8 [V, H, W, C] held out of the training images, or None when nothing was held out.
        val_labels: int32 [V], or None together with `val_images`.

    Raises:
        InputError: A field contradicts this description.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    val_images: np.ndarray | None = None
    val_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            raise InputError(f"Data set {self.name}: there must be at least one class name")
        self._check_split("train", self.train_images, self.train_labels)
        self._check_split("test", self.test_images, self.test_labels)
        if (self.val_images is None) != (self.val_labels is None):
            raise InputError(f"Data set {self.name}: val_images and val_labels must be given together")
        if self.val_images is not None and self.val_labels is not None:
            self._check_split("val", self.val_images, self.val_labels)
        channels = self.train_images.shape[-1]
        for field in ("mean", "std"):
            values = getattr(self, field)
            if len(values) != channels or not np.all(np.isfinite(values)):
                raise InputError(f"Data set {self.name}: {field} must be {channels} finite numbers, not {values}")
        if min(self.std) <= 0:
            raise InputError(f"Data set {self.name}: std must be positive, not {self.std}")

    def sha256(self, part: int = 0, parts: int = 1) -> str:
        """Of all images and labels, or of one of several parts of each split, in hexadecimal digits.

        Args:
            part: Which, from 0.
            parts: How many there are; as long as one another, but for rounding.
        """
        digest = hashlib.sha256()
        for split in ("train", "val", "test"):
            for kind in ("images", "labels"):
                array = getattr(self, f"{split}_{kind}")
                if array is not None:
                    array = array[len(array) * part // parts : len(array) * (part + 1) // parts]
                    digest.update(f"{split} {kind} {array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _check_split(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        where = f"Data set {self.name}: {split}"
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(f"{where}_images must be uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}")
        if labels.dtype != np.int32 or labels.ndim != 1:
            raise InputError(f"{where}_labels must be int32 [N], not {labels.dtype} {list(labels.shape)}")
        if not images.size:
            raise InputError(f"{where}_images must hold at least one image, not {list(images.shape)}")
        if images.shape[1:] != self.train_images.shape[1:]:
            raise InputError(
                f"{where}_images must be {list(self.train_images.shape[1:])} like train_images, "
                f"not {list(images.shape[1:])}"
            )
        if len(images) != len(labels):
            raise InputError(f"{where}: {len(images)} images but {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise InputError(f"{where}_labels must be in 0..{self.num_classes - 1}, not {labels.min()}..{labels.max()}")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_spec(self) -> ImageSpec:
        """What a network trained on it has to be given, and answers."""
        _, height, width, _ = self.train_images.shape
        return ImageSpec(height, width, self.mean, self.std, self.class_names)

    def limit(self, train: int | None, test: int | None) -> "Dataset":
        """Keeps the first images of each split.

        Args:
            train: How many training images to keep; None keeps all.
            test: How many test images to keep; None keeps all.

        Returns:
            The smaller data set; its arrays are views of this one's.

        Raises:
            InputError: A limit is below 1 or above what there is.
        """
        for option, limit, count in (
            ("--limit-train", train, len(self.train_labels)),
            ("--limit-test", test, len(self.test_labels)),
        ):
            if limit is not None and not 1 <= limit <= count:
                raise InputError(f"{option} must be between 1 and {count} for {self.name}, not {limit}")
        return dataclasses.replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def split_validation(self, fraction: float) -> "Dataset":
        """Holds the last training images out for validation, as TFDS's `train[:90%]` and `train[90%:]` do for 0.1.

        Args:
            fraction: Part of the training images to hold out, between 0 and 1, both excluded.

        Returns:
            The data set with `val_images` and `val_labels`; its arrays are views of this one's.

        Raises:
            InputError: The fraction is out of range or leaves a side empty, or images are already held out.
        """
        if self.val_labels is not None:
            raise InputError(f"Data set {self.name} already has a validation split of {len(self.val_labels)} images")
        if not 0 < fraction < 1:
            raise InputError(f"The validation fraction must be between 0 and 1, both excluded, not {fraction}")
        count = len(self.train_labels)
        cut = round(count * (1 - fraction))
        if not 0 < cut < count:
            raise InputError(
                f"A validation fraction of {fraction} of {count} images leaves {cut} to train on and {count - cut} "
                "to validate on; there must be at least one of each"
            )
        return dataclasses.replace(
            self,
            train_images=self.train_images[:cut],
            train_labels=self.train_labels[:cut],
            val_images=self.train_images[cut:],
            val_labels=self.train_labels[cut:],
        )
