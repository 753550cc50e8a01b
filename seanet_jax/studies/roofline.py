"""How fast one NVIDIA H100 could train a network at the very best: a roofline on paper, nothing is measured.

The convolutions and matrix products are those of the real training and evaluation step on 32x32 images and 100
classes, found in their jaxprs. One follows the other, and each takes at least the longer of two times: its operations
at the tensor cores' peak, or its bytes at the memory's peak. The bytes:

* A convolution or matrix product reads both operands and writes its result, once each.
* Batch normalisation, with all that is element by element fused into it, passes over each convolution's output y: in
  training three times forward (read y for the statistics; read y, write the result) and five times backward (read dy
  and y for the two sums; read both again, write the gradient of y); in evaluation twice (read, write). Pre-activated
  networks normalise the convolutions' inputs instead, which are as large but for a few.
* A residual addition reads one more map, the shortcut, and in training one more gradient.
* The optimiser passes five times over the parameters in float32: gradient, parameter and momentum read, the last two
  written.

Left out, as if they cost nothing: augmentation, pooling, the loss, casts of the kernels, the start of each kernel, and
the gap between a peak and what any program reaches. Two things could make the truth better than the table: maps of a
small batch that stay in the 50 MB of L2 from one kernel to the next, and algorithms that multiply less (Winograd's, or
leaving out the padding, which is a tenth of SEANet-20's operations).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from seanet_jax.data import Dataset
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import SEANet, SEANetConfig, model_config
from seanet_jax.models.multiply_adds import equations, parameters
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.step import Images, Metrics, abstract_state, make_eval_step, make_train_step

CLASSES, SIZE = 100, 32
# H100 SXM5 80 GB: operations per second without sparsity, bytes per second. The data sheet gives 1,979 and 989 TFLOP/s
# with sparsity, which is twice as many, and 3.35 TB/s; the white paper has the decimals.
PEAK = {"bf16": 989.4e12, "TF32": 494.7e12}
BANDWIDTH = 3.35e12
ITEM_BYTES = {"bf16": 2, "TF32": 4}


class Work(NamedTuple):
    """One operation.

    Attributes:
        part: of the table.
        flops: floating-point operations of the tensor cores, two for a multiply-add.
        items: numbers read and written in the compute dtype.
        float32_items: numbers read and written in float32 always.
    """

    part: str
    flops: float = 0
    items: float = 0
    float32_items: float = 0

    def bytes(self, precision: str) -> float:
        """Read and written."""
        return self.items * ITEM_BYTES[precision] + self.float32_items * 4

    def times(self, precision: str) -> tuple[float, float]:
        """Seconds that the tensor cores and the memory need."""
        return self.flops / PEAK[precision], self.bytes(precision) / BANDWIDTH


@functools.cache
def traced(model: str, batch_size: int, mode: str, size: int = SIZE) -> jax.stages.Traced:
    """The real step, in bfloat16 and with XLA's convolutions as on a GPU.

    Args:
        model: name of a preset.
        batch_size: images.
        mode: "train" or "eval".
        size: of the images, in pixels.

    Raises:
        InputError: there is no such preset, or the batch is as small as a kernel.
    """
    if batch_size < 4:
        raise InputError(f"batch size is {batch_size}; it must be at least 4, by which maps are told from kernels")
    config = _config(model, dtype="bfloat16", conv_method="lax")
    mesh, recipe = sharding.make_mesh(), optimizer(TrainConfig(), 1)
    network, state = abstract_state(config, recipe)
    images, labels = np.zeros((batch_size, size, size, 3), np.uint8), np.zeros(batch_size, np.int32)
    spec = ImageSpec(size, size, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
    dataset = Dataset("paper", images, labels, images, labels, spec, flip=True)
    data = jax.eval_shape(Images, images, labels)
    # All of the images are one batch.
    if mode == "train":
        step = make_train_step(network, recipe, dataset, mesh, batch_size=batch_size, use_augmentation=True)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.jit(step).trace(state, data, data.labels, key)
    evaluate = make_eval_step(network, dataset, mesh)
    return jax.jit(evaluate).trace(jax.eval_shape(Metrics.zero), state.params, state.batch_stats, data)


def _config(model: str, **overrides: Any) -> SEANetConfig:
    config = model_config(model, num_classes=CLASSES, **overrides)
    if not isinstance(config, SEANetConfig):
        raise InputError(f"what {model} has between its convolutions is not counted; name a SEANet, SENet or ResNet")
    return config


def products(jaxpr: Any, batch_size: int) -> Iterator[Work]:
    """Every convolution and matrix product.

    Args:
        jaxpr: of a step.
        batch_size: the first axis of feature maps, by which they are told from kernels, in gradients too.

    Yields:
        A convolution's part is the size of its smaller feature map. Its multiplications by padding count, as usual;
        those by the zeros that JAX puts between the pixels of a strided convolution's gradient do not.
    """
    for equation in equations(jaxpr):
        shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
        items = sum(math.prod(shape) for shape in shapes)
        if equation.primitive.name == "conv_general_dilated":
            (kernel,) = (shape for shape in shapes if shape[0] != batch_size)
            height, width = min(shape[1:3] for shape in shapes if shape[0] == batch_size)
            yield Work(_part(height, width), 2 * batch_size * height * width * math.prod(kernel), items)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(shapes[0][axis] for axis in contracted)
            yield Work("matrix products", 2 * depth * math.prod(shapes[2]), items)


def _part(height: int, width: int) -> str:
    return f"{height}x{width} maps"


def work(model: str, batch_size: int, mode: str) -> list[Work]:
    """All that a step does, as the module's description counts it.

    Args:
        model: name of a preset.
        batch_size: images.
        mode: "train" or "eval".
    """
    network = nnx.eval_shape(lambda: SEANet(_config(model), rngs=nnx.Rngs(0)))
    done = list(products(traced(model, batch_size, mode).jaxpr.jaxpr, batch_size))
    for equation in equations(traced(model, batch_size, "eval").jaxpr.jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            shape = equation.outvars[0].aval.shape
            done.append(Work(_part(*shape[1:3]), items=math.prod(shape) * (8 if mode == "train" else 2)))
    for index, stage in enumerate(network.stages):
        side = math.ceil(SIZE / 2**index)
        for block in stage.blocks:
            added = batch_size * side**2 * block.out_channels
            done.append(Work(_part(side, side), items=added * (2 if mode == "train" else 1)))
    if mode == "train":
        done.append(Work("optimiser", float32_items=5 * parameters(_config(model))))
    return done


def seconds(done: Sequence[Work], precision: str) -> float:
    """What one operation after the other takes at least."""
    return sum(max(one.times(precision)) for one in done)


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
