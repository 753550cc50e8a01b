"""What does training on many devices cost: the mesh, the communication between devices, and 1,024 GPUs on paper?

    python benchmarks/scaling.py overhead       # the step on a mesh of one device, and the step without a mesh
    python benchmarks/scaling.py collectives    # the communication of the compiled step
    python benchmarks/scaling.py paper          # computation and communication on 8, 64 and 1,024 GPUs

Prints Markdown. The last two measure no time. "collectives" reads the program that XLA compiled for eight devices, and
"paper" combines its counts with published speeds:

* Computation is the roofline of seanet_jax/studies/roofline.py for the images of each GPU. This is a lower bound: a
  real step takes longer, so that communication is a smaller share of it than the table says.
* All-reducing B bytes among N GPUs sends 2 (N - 1) / N * B through each GPU's links. Inside a node of eight GPUs the
  links are NVLink, 450 GB/s in each direction. Between nodes each GPU has a network adapter of 400 Gb/s, 50 GB/s in
  each direction, and all eight adapters of a node share the traffic.
* Each all-reduce also has a latency. It is the one with which NCCL chooses its algorithms: for a short message by a
  tree over n nodes of g GPUs, 4.4 + 2 ((g - 1) * 0.52 * (1.8 if n > 1 else 1) + 5.0 log2(n)) microseconds.
* Gradients can be exchanged during the backward pass. Batch statistics cannot: the next layer needs them.
"""

import collections
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from implementations import Task
from interleaved import compare
from train_step import OURS, ratios, spread

from seanet_jax.models import model_config
from seanet_jax.models.multiply_adds import parameters
from seanet_jax.studies import roofline

DEVICES, CLASSES, IMAGES = 8, 100, 50_000
GPUS = (8, 64, 1024)
PER_NODE = 8
# Bytes per second of one GPU in one direction.
NVLINK, NETWORK = 450e9, 50e9
SOURCE = (
    "NVLink and network: NVIDIA, [DGX H100 User Guide](https://docs.nvidia.com/dgx/dgxh100-user-guide/"
    "introduction-to-dgxh100.html) (900 GB/s of NVLink for each GPU in both directions together; eight ConnectX-7 of "
    "400 Gb/s); latencies: NCCL, [src/graph/tuning.cc](https://github.com/NVIDIA/nccl/blob/"
    "01afd20a77b5804e0ecf1042509dd9d20ebf9e93/src/graph/tuning.cc)"
)
ITEM_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "u8": 1, "pred": 1}


class Exchange(NamedTuple):
    """One collective of a compiled step.

    Attributes:
        operation: XLA's name of the operation, such as "all-reduce".
        item: Dtype of the results, as XLA names it.
        bytes: Size of all results on one device.
    """

    operation: str
    item: str
    bytes: int


def found(hlo: str) -> list[Exchange]:
    """Finds the collectives in the text of a compiled program."""
    operations = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    exchanges = []
    for result, operation in re.findall(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.+?) ({operations})(?:-start)?\(", hlo, re.M):
        shapes = re.findall(r"(\w+)\[([\d,]*)\]", result)
        sizes = [ITEM_BYTES[item] * math.prod(int(n) for n in shape.split(",") if n) for item, shape in shapes]
        exchanges.append(Exchange(operation, shapes[0][0], sum(sizes)))
    return exchanges


def count(model: str, conv_method: str, dtype: str, statistics: str, per_device: int) -> None:
    """Compiles the training step for this process's devices and prints its collectives as JSON."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from seanet_jax.data import Dataset
    from seanet_jax.image_spec import ImageSpec
    from seanet_jax.models import model_config
    from seanet_jax.training import sharding
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.optimizer import optimizer
    from seanet_jax.training.recipe import Recipe
    from seanet_jax.training.step import Images, abstract_state, make_train_step

    mesh = sharding.make_mesh()
    size = per_device * mesh.size
    groups = mesh.size if statistics == "device" else 1
    config = model_config(model, num_classes=CLASSES, dtype=dtype, conv_method=conv_method, batch_groups=groups)

    def shaped(shape: Sequence[int], dtype: object, *, split: bool = False) -> jax.ShapeDtypeStruct:
        placement = sharding.batch_sharding(mesh) if split else sharding.replicated(mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placement)

    descent = optimizer(TrainConfig(), 1)
    network, state = abstract_state(config, descent)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, key = jax.tree.map(lambda leaf: shaped(leaf.shape, leaf.dtype), (state, key))
    images, labels = np.zeros((size, 32, 32, 3), np.uint8), np.zeros(size, np.int32)
    spec = ImageSpec(32, 32, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
    dataset = Dataset("paper", images, labels, images, labels, spec, flip=True)
    data = Images(shaped((IMAGES, 32, 32, 3), jnp.uint8, split=True), shaped((IMAGES,), jnp.int32, split=True))
    step = make_train_step(network, descent, dataset, mesh, Recipe(batch_size=size))
    jitted = jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    program = jitted.lower(state, data, shaped((IMAGES,), jnp.int32), key).compile()
    print(json.dumps(found(program.as_text())))


def exchanges(
    model: str, *, conv_method: str = "lax", dtype: str = "float32", statistics: str = "global", per_device: int = 8
) -> list[Exchange]:
    """Returns the collectives of a training step on eight devices. Another process, which has them, compiles it.

    Args:
        model: Name of a preset.
        conv_method: Algorithm of the convolutions; "lax" is a GPU's.
        dtype: Dtype in which the network computes.
        statistics: ``TrainConfig.batch_statistics``, "global" or "device".
        per_device: Images per device.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    done = subprocess.run(
        [sys.executable, __file__, "count", model, conv_method, dtype, statistics, str(per_device)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Exchange(*one) for one in json.loads(done.stdout)]


def collectives(model: str = "seanet20") -> str:
    """Returns the table of a step's collectives."""
    size = parameters(model_config(model, num_classes=CLASSES))
    lines = [
        f"{model} on {DEVICES} devices, 8 images each, as XLA compiled it for a CPU. The parameters are "
        f"{4 * size:,} bytes, the images of a batch {8 * DEVICES * 32 * 32 * 3:,}.",
        "",
        "| convolutions | batch statistics | all-reduces | bytes all-reduced | other collectives |",
        "|---|---|---:|---:|---|",
    ]
    for name, method in (("XLA's, as on a GPU", "lax"), ("a CPU's default", "auto")):
        for statistics in ("global", "device"):
            every = exchanges(model, conv_method=method, statistics=statistics)
            reduced = [one.bytes for one in every if one.operation == "all-reduce"]
            others = collections.Counter(one.operation for one in every if one.operation != "all-reduce")
            sizes = f"{sum(one.bytes for one in every if one.operation != 'all-reduce'):,} bytes"
            rest = ", ".join(f"{number} {operation}" for operation, number in others.items())
            cells = [name, statistics, str(len(reduced)), f"{sum(reduced):,}", f"{rest} ({sizes})" if rest else "none"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def latency(gpus: int) -> float:
    """Returns the seconds of an all-reduce of a few bytes, by NCCL's model."""
    nodes = gpus // PER_NODE
    inside = (PER_NODE - 1) * 0.52 * (1.8 if nodes > 1 else 1)
    return (4.4 + 2 * (inside + 5.0 * math.log2(nodes))) * 1e-6


def transfer(gpus: int, size: int) -> float:
    """Returns the seconds for which an all-reduce of ``size`` bytes occupies the slowest links."""
    link = NVLINK if gpus <= PER_NODE else min(NVLINK, PER_NODE * NETWORK)
    return 2 * (gpus - 1) / gpus * size / link


class Estimate(NamedTuple):
    """The estimated times of one step, in seconds.

    Attributes:
        compute: Computation for the images of one GPU.
        waiting: Communication that cannot be hidden: batch statistics and the images of the batch.
        gradients: All-reduce of the gradients.
    """

    compute: float
    waiting: float
    gradients: float

    @property
    def efficiencies(self) -> tuple[float, float]:
        """The share of computation in the step, with gradients exchanged after and during the backward pass."""
        compute, waiting, gradients = self
        # The backward pass is two thirds of the computation.
        hidden = max(0.0, gradients - compute * 2 / 3)
        return compute / (compute + waiting + gradients), compute / (compute + waiting + hidden)


def estimate(gpus: int, found: Sequence[Exchange], compute: float) -> Estimate:
    """Estimates the times of a step.

    Args:
        gpus: Number of GPUs.
        found: Collectives of a step on ``DEVICES`` devices with as many images per device.
        compute: Seconds of computation for the images of one GPU.
    """
    images = sum(one.bytes for one in found if one.item == "u8") * gpus / DEVICES
    gradients = [one.bytes for one in found if one.item != "u8" and one.bytes > 100_000]
    others = [one.bytes for one in found if one.item != "u8" and one.bytes <= 100_000]
    waiting = (1 + len(others)) * latency(gpus) + transfer(gpus, sum(others)) + transfer(gpus, images)
    return Estimate(compute, waiting, len(gradients) * latency(gpus) + transfer(gpus, sum(gradients)))


def paper(model: str = "seanet20") -> str:
    """Returns the table of estimates."""
    lines = [
        f"{model} in bf16 on H100 SXM, nodes of {PER_NODE}. Times in ms; the efficiency is the share of a step in "
        "which the GPUs compute, first with gradients exchanged after the backward pass, then with as much of that as "
        f"possible hidden behind it. {SOURCE}; computation: `benchmarks/roofline.py`.",
        "",
        "| images per GPU | batch statistics | GPUs | global batch | computation | waiting | gradients | efficiency |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for per_gpu in (64, 8):
        compute = roofline.seconds(roofline.work(model, per_gpu, "train"), "bf16")
        for statistics in ("global", "device"):
            every = exchanges(model, dtype="bfloat16", statistics=statistics, per_device=per_gpu)
            for gpus in GPUS:
                step = estimate(gpus, every, compute)
                cells = [
                    *(str(per_gpu), statistics, f"{gpus:,}", f"{gpus * per_gpu:,}"),
                    *(f"{seconds * 1e3:.2f}" for seconds in step),
                    " - ".join(f"{share:.0%}" for share in step.efficiencies),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def overhead(rounds: int = 10) -> str:
    """Returns the table of the cost of a mesh of one device."""
    plain = f"{OURS} without a mesh"
    lines = ["| | over a mesh, images/s | without, images/s | over a mesh / without |", "|---|---|---|---|"]
    for model, steps in (("seanet20", 2), ("seanet20_narrow", 8), ("resnet20", 20)):
        task = Task(model, 64)
        results = compare(task, (OURS, plain), rounds=rounds, steps=steps, do=("train",))
        rates = [spread([task.batch_size / s for s in result.seconds["train"]], 1) for result in results.values()]
        lines.append(f"| {' | '.join([str(task), *rates, spread(ratios(results, OURS, plain, 'train'), 3)])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or [""]
    tables = {"overhead": overhead, "collectives": collectives, "paper": paper}
    if name == "count":
        count(*arguments[:4], per_device=int(arguments[4]))
    elif name in tables and not arguments:
        print(tables[name]())
    else:
        raise SystemExit(f"error: name one of {', '.join(tables)}")
