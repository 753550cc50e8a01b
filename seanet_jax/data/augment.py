"""Augmentation of a batch on the device, inside the jitted training step.

``Augmentation`` says which augmentations a run uses, and applies them in a fixed order. ``augment`` is the crop and the
mirror. The other augmentations have files of their own.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seanet_jax.data.erase import cutout, random_erasing
from seanet_jax.data.mix import cutmix, mixup
from seanet_jax.data.trivial_augment import trivial_augment
from seanet_jax.errors import InputError, store_plain
from seanet_jax.layers.sharding import keeps_batch_sharding

PADDING = 4  # pixels on each side
PADDING_MODES = {"zero": "constant", "reflect": "reflect"}  # our names, and those of jnp.pad


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentations of a run. The order of the fields is the order in which they are applied.

    Attributes:
        crop_and_mirror: Whether to crop each image at random. See ``augment``.
        flip: Whether to mirror images too, if they are cropped.
        padding: What surrounds an image that is cropped, "zero" or "reflect".
        trivial_augment: Whether to change each image by one random operation. See ``trivial_augment``.
        cutout: Side of the square that is filled in each image, in pixels. 0 fills none. See ``cutout``.
        erasing: Probability with which a rectangle of an image is filled. See ``random_erasing``.
        cutmix: Parameter alpha of CutMix. 0 turns it off. See ``cutmix``.
        mixup: Parameter alpha of mixup. 0 turns it off. See ``mixup``.

    Raises:
        InputError: If the padding has another name.
    """

    crop_and_mirror: bool = True
    flip: bool = True
    padding: str = "zero"
    trivial_augment: bool = False
    cutout: int = 0
    erasing: float = 0.0
    cutmix: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        store_plain(self)
        _check_padding(self.padding)

    def pixels(self, key: jax.Array, images: jax.Array, fill: Sequence[int] | np.ndarray) -> jax.Array:
        """Applies the augmentations that change each image by itself.

        Args:
            key: Random key of the step.
            images: Raw pixels, uint8 ``[N, H, W, C]``.
            fill: Color of the pixels that cutout and random erasing remove, one value in 0..255 per channel.

        Returns:
            uint8 ``[N, H, W, C]``.
        """
        # The crop has the key itself. Its children are split(key) = fold_in(key, 0) and fold_in(key, 1).
        if self.crop_and_mirror:
            images = augment(key, images, flip=self.flip, padding=self.padding)
        if self.trivial_augment:
            images = trivial_augment(jax.random.fold_in(key, 2), images)
        if self.cutout:
            images = cutout(jax.random.fold_in(key, 3), images, size=self.cutout, fill=fill)
        if self.erasing:
            images = random_erasing(jax.random.fold_in(key, 4), images, probability=self.erasing, fill=fill)
        return images

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other, so that labels must be probabilities of classes."""
        return bool(self.cutmix or self.mixup)

    def mixed(
        self, key: jax.Array, images: jax.Array, labels: jax.Array, normalize: Callable[[jax.Array], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Normalizes images and mixes them with each other.

        CutMix mixes before normalization, and mixup after it. If both are on, each batch takes one of them, with
        probability one half.

        Args:
            key: Random key of the step, the same one as for ``pixels``.
            images: Raw pixels, uint8 ``[N, H, W, C]``.
            labels: Probability of each class, float32 ``[N, classes]``.
            normalize: Function of uint8 images that returns normalized float32 images, such as
                ``ImageSpec.normalize``.

        Returns:
            The normalized images, float32 ``[N, H, W, C]``, and the labels, float32 ``[N, classes]``.
        """
        choice_key, cutmix_key, mixup_key = (jax.random.fold_in(key, number) for number in (5, 6, 7))
        both = cut = blended = normalize(images), labels
        if self.cutmix:
            pasted, cut_labels = cutmix(cutmix_key, images, labels, alpha=self.cutmix)
            both = cut = normalize(pasted), cut_labels
        if self.mixup:
            both = blended = mixup(mixup_key, *blended, alpha=self.mixup)
        if self.cutmix and self.mixup:
            # Both are computed: each is much quicker than a step, and a branch would make a GPU wait for the choice.
            takes_cutmix = jax.random.bernoulli(choice_key, jnp.float32(0.5))
            both = jax.tree.map(lambda a, b: jnp.where(takes_cutmix, a, b), cut, blended)
        return both


@keeps_batch_sharding
def augment(key: jax.Array, images: jax.Array, *, flip: bool, padding: str = "zero") -> jax.Array:
    """Pads each image by four pixels, crops it to its former size at random, and mirrors it at random.

    He et al., "Deep Residual Learning for Image Recognition", section 4.2, pad, crop and mirror in the same way, with
    black pixels. Black is not the mean of the training pixels, because images are augmented before normalization.

    Args:
        key: Random key. It determines every crop and every mirrored image.
        images: Raw pixels ``[N, H, W, C]``, before normalization.
        flip: Whether to mirror each image with probability one half. If False, no image is mirrored.
        padding: What the four pixels are: "zero" for black, or "reflect" for the image mirrored at its border.

    Returns:
        ``[N, H, W, C]``, of the same dtype as the images.

    Raises:
        InputError: If the images are not of rank 4, or the padding has another name.
    """
    _check_padding(padding)
    if images.ndim != 4:
        raise InputError(f"augment: the images have shape {images.shape}; they must be [N, H, W, C]")
    count, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    margin = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    # The dtypes are named: the default ones depend on jax_enable_x64, and draws of 64 bits are other draws.
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * PADDING + 1, jnp.int32)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    images = jax.vmap(crop)(jnp.pad(images, margin, mode=PADDING_MODES[padding]), corners)
    if not flip:
        return images
    mirrored = jax.random.bernoulli(flip_key, jnp.float32(0.5), (count, 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _check_padding(padding: str) -> None:
    if padding not in PADDING_MODES:
        raise InputError(f"augment: padding is {padding!r}; it must be {' or '.join(PADDING_MODES)}")
