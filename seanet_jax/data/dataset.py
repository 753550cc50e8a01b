"""An image classification data set in memory."""

import dataclasses
import hashlib
import reprlib

import numpy as np

from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec, is_name


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The images and labels of one data set, checked on creation.

    Attributes:
        name: Name of the data set in `seanet_jax.data.DATASETS`.
        train_images: uint8 [N, H, W, C], values 0..255.
        train_labels: int32 [N], values 0..num_classes-1.
        test_images: uint8 [M, H, W, C].
        test_labels: int32 [M].
        image_spec: Size, normalization and class names of the images.
        flip: Whether a mirrored image still belongs to its class, so that training may mirror images at random.
        val_images: uint8 [V, H, W, C] held out of the training images, or None if nothing is held out.
        val_labels: int32 [V], or None if nothing is held out.
        superclasses: Name of the superclass of each class, in the order of the labels, or None if the data set groups
            its classes in no superclasses. An evaluation reports how often the predicted class is in the right one.

    Raises:
        InputError: If a field contradicts this description.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    image_spec: ImageSpec
    flip: bool
    val_images: np.ndarray | None = None
    val_labels: np.ndarray | None = None
    superclasses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._check_split("train", self.train_images, self.train_labels)
        self._check_split("test", self.test_images, self.test_labels)
        if (self.val_images is None) != (self.val_labels is None):
            raise InputError(f"Data set {self.name}: val_images and val_labels must be given together")
        if self.val_images is not None and self.val_labels is not None:
            self._check_split("val", self.val_images, self.val_labels)
        if self.superclasses is not None:
            self._check_superclasses(self.superclasses)

    def sha256(self, part: int = 0, parts: int = 1) -> str:
        """Returns the SHA-256 of all images and labels, or of one part of each split.

        Args:
            part: Index of the part, from 0.
            parts: Number of parts that each split is divided into. They have the same length, up to rounding.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for split in ("train", "val", "test"):
            for kind in ("images", "labels"):
                array = getattr(self, f"{split}_{kind}")
                if array is not None:
                    array = array[len(array) * part // parts : len(array) * (part + 1) // parts]
                    # Names and shapes too, because the same bytes could be divided into other arrays.
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
        spec = self.image_spec
        if images.shape[1:] != (spec.height, spec.width, spec.channels):
            raise InputError(
                f"{where}_images must be {[spec.height, spec.width, spec.channels]} as image_spec says, "
                f"not {list(images.shape[1:])}"
            )
        if len(images) != len(labels):
            raise InputError(f"{where}: {len(images)} images but {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= spec.num_classes:
            raise InputError(f"{where}_labels must be in 0..{spec.num_classes - 1}, not {labels.min()}..{labels.max()}")

    def _check_superclasses(self, names: tuple[str, ...]) -> None:
        if not isinstance(names, tuple) or not all(map(is_name, names)):
            raise InputError(
                f"Data set {self.name}: superclasses is {reprlib.repr(names)}; it must be a tuple of non-empty "
                "names of Unicode text"
            )
        if len(names) != self.image_spec.num_classes:
            raise InputError(
                f"Data set {self.name}: superclasses has {len(names)} names; it must have one for each of the "
                f"{self.image_spec.num_classes} classes"
            )

    def limit(self, train: int | None, test: int | None) -> "Dataset":
        """Keeps the first images of each split.

        Args:
            train: Number of training images to keep; None keeps all.
            test: Number of test images to keep; None keeps all.

        Returns:
            The smaller data set. Its arrays are views of this data set's arrays.

        Raises:
            InputError: If a limit is below 1 or above the number of images.
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
        """Holds out the last training images for validation.

        A fraction of 0.1 gives the splits that TFDS calls `train[:90%]` and `train[90%:]`.

        Args:
            fraction: Fraction of the training images to hold out, between 0 and 1, both excluded.

        Returns:
            The data set with `val_images` and `val_labels`. Its arrays are views of this data set's arrays.

        Raises:
            InputError: If the fraction is out of range or leaves a split empty, or if images are already held out.
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
