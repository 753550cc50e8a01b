"""Upper bound on the speed of training a network on one NVIDIA H100: a roofline on paper, without any measurement.

The convolutions and matrix products are found in the jaxprs of the real training and evaluation steps, on 32x32 images
and 100 classes. The operations run one after the other. Each takes at least the longer of two times: its floating-point
operations at the tensor cores' peak rate, or its bytes at the memory's peak rate. The bytes are counted as follows.

* A convolution or matrix product reads both operands and writes its result, once each.
* Batch normalization is fused with all other elementwise work and passes over the output y of each convolution. In
  training it passes three times forward (reads y for the statistics; reads y and writes the result) and five times
  backward (reads dy and y for the two sums; reads both again and writes the gradient of y). In evaluation it passes
  twice (reads and writes). Pre-activated networks normalize the inputs of the convolutions instead, which have the
  same sizes with few exceptions.
* A residual addition reads one more map, the shortcut, and in training one more gradient.
* The optimizer passes five times over the parameters in float32: it reads the gradient, the parameter and the
  momentum, and writes the last two.

The following costs are left out: augmentation, pooling, the loss, casts of the kernels, the launch of each GPU kernel,
and the gap between a peak rate and the rate that a real program reaches. A real program can be faster than the bound
for two reasons: the maps of a small batch can stay in the 50 MB L2 cache from one GPU kernel to the next, and there are
algorithms that multiply less (Winograd's, or skipping the padding, which is a tenth of SEANet-20's operations).
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
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.step import EvalMetrics, Images, abstract_state, make_eval_step, make_train_step

CLASSES, SIZE = 100, 32
# H100 SXM5 80 GB: floating-point operations per second without sparsity, and bytes per second. The data sheet gives
# 1,979 and 989 TFLOP/s with sparsity, which is twice as many, and 3.35 TB/s. The decimals are from the white paper.
PEAK = {"bf16": 989.4e12, "TF32": 494.7e12}
BANDWIDTH = 3.35e12
ITEM_BYTES = {"bf16": 2, "TF32": 4}


class Work(NamedTuple):
    """Cost of one operation.

    Attributes:
        part: Row of the table that the operation is counted in.
        flops: Floating-point operations of the tensor cores, two for a multiply-add.
        items: Numbers read and written in the compute dtype.
        float32_items: Numbers that are always read and written in float32.
    """

    part: str
    flops: float = 0
    items: float = 0
    float32_items: float = 0

    def bytes(self, precision: str) -> float:
        """Returns the bytes read and written at a precision, "bf16" or "TF32"."""
        return self.items * ITEM_BYTES[precision] + self.float32_items * 4

    def times(self, precision: str) -> tuple[float, float]:
        """Returns the seconds that the tensor cores and the memory need at a precision, "bf16" or "TF32"."""
        return self.flops / PEAK[precision], self.bytes(precision) / BANDWIDTH


@functools.cache
def traced(model: str, batch_size: int, mode: str, size: int = SIZE) -> jax.stages.Traced:
    """Returns the traced training or evaluation step, in bfloat16 and with XLA's convolutions, as on a GPU.

    Args:
        model: Name of a preset.
        batch_size: Number of images in the batch.
        mode: Either "train" or "eval".
        size: Height and width of the images, in pixels.

    Raises:
        InputError: If there is no such preset, it is no SEANet, SENet or ResNet, or the batch has fewer than 4 images.
    """
    # Kernels have at most 3 rows, so an array whose first axis is 4 or longer can be recognized as a batch of maps.
    if batch_size < 4:
        raise InputError(f"batch size is {batch_size}; it must be at least 4, more than the rows of a kernel")
    config = _config(model, dtype="bfloat16", conv_method="lax")
    mesh, descent = sharding.make_mesh(), optimizer(TrainConfig(), 1)
    network, state = abstract_state(config, descent)
    images, labels = np.zeros((batch_size, size, size, 3), np.uint8), np.zeros(batch_size, np.int32)
    spec = ImageSpec(size, size, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
    dataset = Dataset("paper", images, labels, images, labels, spec, flip=True)
    data = jax.eval_shape(Images, images, labels)
    # The dataset consists of a single batch, so that one step is one pass over it.
    if mode == "train":
        step = make_train_step(network, descent, dataset, mesh, Recipe(batch_size=batch_size))
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.jit(step).trace(state, data, data.labels, key)
    evaluate = make_eval_step(network, dataset, mesh)
    metrics = jax.eval_shape(lambda: EvalMetrics.zero(CLASSES))
    return jax.jit(evaluate).trace(metrics, state.params, state.batch_stats, data)


def _config(model: str, **overrides: Any) -> SEANetConfig:
    config = model_config(model, num_classes=CLASSES, **overrides)
    if not isinstance(config, SEANetConfig):
        raise InputError(f"the operations of {model} cannot be counted; give a SEANet, SENet or ResNet")
    return config


def products(jaxpr: Any, batch_size: int) -> Iterator[Work]:
    """Yields the cost of every convolution and matrix product.

    Args:
        jaxpr: The jaxpr of a step.
        batch_size: Length of the first axis of feature maps. It distinguishes them from kernels, also in gradients.

    Yields:
        The cost of one operation. The part of a convolution is the size of its smaller feature map. Multiplications by
        padding are counted, as is usual. Multiplications by the zeros that JAX inserts between the pixels in the
        gradient of a strided convolution are not counted.
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
    """Returns the costs of all operations of a step; the module's docstring says what is counted.

    Args:
        model: Name of a preset.
        batch_size: Number of images in the batch.
        mode: Either "train" or "eval".

    Raises:
        InputError: If there is no such preset, it is no SEANet, SENet or ResNet, or the batch has fewer than 4 images.
    """
    network = nnx.eval_shape(lambda: SEANet(_config(model), rngs=nnx.Rngs(0)))
    done = list(products(traced(model, batch_size, mode).jaxpr.jaxpr, batch_size))
    # The evaluation step holds each convolution once; the training step also holds their gradients.
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
        done.append(Work("optimizer", float32_items=5 * parameters(_config(model))))
    return done


def seconds(done: Sequence[Work], precision: str) -> float:
    """Returns the least number of seconds that the operations take, one after the other.

    Args:
        done: Costs of the operations.
        precision: Either "TF32" or "bf16".
    """
    return sum(max(one.times(precision)) for one in done)


# CIFAR-10 and CIFAR-100 have equal numbers of images.
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000

_BATCH = 64


def hours_at_least(models: Sequence[str], *, seeds: int, epochs: int = 200, precision: str = "TF32") -> float:
    """Returns the least number of hours that one H100 needs to train and evaluate networks on all of CIFAR.

    Args:
        models: Names of presets.
        seeds: Number of runs of each network.
        epochs: Number of epochs of each run. The test images are evaluated after each epoch.
        precision: Either "TF32" or "bf16".

    Raises:
        InputError: If there is no such preset, or it is no SEANet, SENet or ResNet.
    """
    a_step = {mode: [seconds(work(model, _BATCH, mode), precision) for model in models] for mode in ("train", "eval")}
    an_epoch = (sum(a_step["train"]) * TRAIN_IMAGES + sum(a_step["eval"]) * TEST_IMAGES) / _BATCH
    return an_epoch * epochs * seeds / 3600
