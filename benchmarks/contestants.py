"""One contestant of a comparison, in a process of its own: its threads, memory and compiler are nobody else's.

Started by ``duel.py``; reads one JSON request a line from its input and answers with one JSON line:

    {"do": "train", "steps": 3}   {"seconds": [one number per step]}
    {"do": "evaluate", "steps": 3}   likewise
    {"do": "matmul", "steps": 3}   likewise, for one product of two float32 matrices of 2,048 x 2,048
    {"do": "memory"}   {"bytes": the largest resident set so far}

Its first line says how long the training step took to trace and compile: {"compile_seconds": 12.3}.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

MATMUL_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant of a comparison computes.

    Attributes:
        model: name of a preset.
        batch_size: images per step, for training and for evaluation.
        widths: instead of the preset's.
    """

    model: str
    batch_size: int
    widths: tuple[int, ...] | None = None

    def __str__(self) -> str:
        widths = f" with widths {'/'.join(map(str, self.widths))}" if self.widths else ""
        return f"{self.model}{widths}, batch {self.batch_size}"

    def model_config(self, **overrides: Any) -> Any:
        """The network, for ten classes; overrides are fields of ``SEANetConfig``."""
        from seanet_jax.models import model_config

        widths = {"widths": self.widths} if self.widths else {}
        return model_config(self.model, num_classes=10, **widths, **overrides)


class Contestant(Protocol):
    """Built with everything compiled but not yet run."""

    compile_seconds: float

    def train(self, steps: int) -> list[float]:
        """Seconds of each of some training steps."""

    def evaluate(self, steps: int) -> list[float]:
        """Seconds of each of some evaluations of one batch."""

    def matmul(self, steps: int) -> list[float]:
        """Seconds of each of some products of two square matrices of ``MATMUL_SIZE``."""


def timed(function: Callable[[], object], steps: int) -> list[float]:
    """Seconds of each of some calls."""
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


class SeanetJax:
    """The training and the evaluation step of ``fit``, without the loop around them.

    Args:
        task: what to compute.
        conv_method: of the network.
        dtype: compute dtype of the network.
        tuned: whether it is compiled with the experiments' options.
        mesh: whether arrays are placed on a mesh; otherwise the same step is jitted for a single device, as if there
            were nothing else in the world.
    """

    def __init__(
        self,
        task: Task,
        *,
        conv_method: str = "auto",
        dtype: str = "float32",
        tuned: bool = True,
        mesh: bool = True,
    ):
        import jax
        import numpy as np
        from flax import nnx

        from seanet_jax.commands import cpu_tuning
        from seanet_jax.data import load
        from seanet_jax.models import SEANet
        from seanet_jax.training import sharding, step
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.optimizer import optimizer

        dataset = load("digits")
        devices = sharding.make_mesh()
        placement = sharding.replicated(devices) if mesh else None
        self._put = functools.partial(jax.device_put, device=placement)
        model = SEANet(task.model_config(conv_method=conv_method, dtype=dtype), rngs=nnx.Rngs(0))
        sgd = optimizer(TrainConfig(), steps_per_epoch=len(dataset.train_images) // task.batch_size)
        self._zero = step.Metrics.zero
        self._batch = step.Images(
            *self._put((dataset.train_images[: task.batch_size], dataset.train_labels[: task.batch_size]))
        )
        order = np.arange(len(dataset.train_images), dtype=np.int32)
        data = step.Images(*self._put((dataset.train_images, dataset.train_labels)))
        self._inputs = data, *self._put((order, jax.random.key(0)))
        train_step = step.make_train_step(
            model, sgd, dataset, devices, batch_size=task.batch_size, use_augmentation=False
        )
        self._state = self._put(step.create_state(model, sgd))

        options = cpu_tuning.compiler_options(os.environ) if tuned else {}
        jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=placement, compiler_options=options)
        started = time.perf_counter()
        with contextlib.nullcontext() if mesh else mock.patch("jax.lax.with_sharding_constraint", lambda x, _: x):
            lowered = jit(train_step).lower(self._state, *self._inputs)
        assert ("sharding" in lowered.as_text()) == mesh
        self._train = lowered.compile()
        self.compile_seconds = time.perf_counter() - started
        self._eval = jit(step.make_eval_step(model, dataset, devices))

    def train(self, steps: int) -> list[float]:
        """Seconds of each training step, the loss read after each."""

        def one() -> None:
            self._state, metrics = self._train(self._state, *self._inputs)
            float(metrics.loss_sum)

        return timed(one, steps)

    def evaluate(self, steps: int) -> list[float]:
        """Seconds of each evaluation step."""

        def one() -> None:
            zero = self._put(self._zero())
            float(self._eval(zero, self._state.params, self._state.batch_stats, self._batch).loss_sum)

        return timed(one, steps)

    def matmul(self, steps: int) -> list[float]:
        """Seconds of each product, by XLA."""
        import jax.numpy as jnp

        matrix = jnp.ones((MATMUL_SIZE, MATMUL_SIZE))
        return timed(lambda: (matrix @ matrix).block_until_ready(), steps)


class Fit:
    """All of ``fit``: run folder, progress, augmentation, and what it does between steps.

    Args:
        task: what to compute.
    """

    def __init__(self, task: Task):
        import jax

        self._task = task
        self.compile_seconds = 0.0
        # Every round is a run of its own; only the first of them needs to compile.
        self._cache = tempfile.TemporaryDirectory()
        jax.config.update("jax_compilation_cache_dir", self._cache.name)

    def train(self, steps: int) -> list[float]:
        """The mean of the steps of a run's second epoch, but for the first, which waits for memory and a checkpoint."""
        from seanet_jax.commands import cpu_tuning
        from seanet_jax.training import loop, run
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.progress import Progress

        seen: list[tuple[int, float]] = []

        class WatchedProgress(Progress):
            def step(self, step: int, loss: float, accuracy: float) -> None:
                seen.append((step, time.perf_counter()))
                super().step(step, loss, accuracy)

        loop.Progress = WatchedProgress  # type: ignore[misc]

        config = TrainConfig(
            dataset="digits",
            model=self._task.model,
            batch_size=self._task.batch_size,
            limit_train=steps * self._task.batch_size,
            limit_test=1,
            eval_batch_size=1,
            epochs=2,
            log_every=max(1, steps // 4),  # at least two readings an epoch, however quick the steps are
        )
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(config, out=Path(folder) / "run")
            run.fit(config, compiler_options=cpu_tuning.compiler_options(os.environ))
        (first, began), *_, (last, ended) = [(step, when) for step, when in seen if step > steps]
        return [(ended - began) / (last - first)] * steps

    def evaluate(self, steps: int) -> list[float]:
        """Not asked of it."""
        raise NotImplementedError

    matmul = evaluate


class PyTorch:
    """The same network in PyTorch, with a training loop as short as they come.

    Args:
        task: what to compute.
        channels_last: memory format of images and kernels.
        compiled: whether ``torch.compile`` is used.
        bfloat16: whether autocast is used.
    """

    def __init__(self, task: Task, *, channels_last: bool = False, compiled: bool = False, bfloat16: bool = False):
        import torch
        from pytorch_seanet import SEANet

        from seanet_jax.data import load

        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dataset = load("digits")
        spec = dataset.image_spec
        images = torch.from_numpy(dataset.train_images[: task.batch_size]).permute(0, 3, 1, 2)
        self._images = ((images / 255 - spec.mean[0]) / spec.std[0]).to(memory_format=layout)
        self._labels = torch.from_numpy(dataset.train_labels[: task.batch_size]).long()
        self._module = SEANet(task.model_config()).to(memory_format=layout)
        self._sgd = torch.optim.SGD(self._module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self._network = torch.compile(self._module) if compiled else self._module
        self._autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=bfloat16)

        # torch.compile compiles when first called: what the first step takes longer than the second.
        first, second = self.train(2) if compiled else (0.0, 0.0)
        self.compile_seconds = first - second

    def train(self, steps: int) -> list[float]:
        """Seconds of each training step, the loss read after each."""
        import torch

        def one() -> None:
            self._sgd.zero_grad(set_to_none=True)
            with self._autocast():
                loss = torch.nn.functional.cross_entropy(self._network(self._images), self._labels)
            loss.backward()
            self._sgd.step()
            loss.item()

        self._module.train()
        return timed(one, steps)

    def evaluate(self, steps: int) -> list[float]:
        """Seconds of each forward pass in evaluation mode."""
        import torch

        def one() -> None:
            with torch.inference_mode(), self._autocast():
                self._network(self._images)

        self._module.eval()
        return timed(one, steps)

    def matmul(self, steps: int) -> list[float]:
        """Seconds of each product, by PyTorch."""
        import torch

        matrix = torch.ones(MATMUL_SIZE, MATMUL_SIZE)
        return timed(lambda: matrix @ matrix, steps)


CONTESTANTS: dict[str, Callable[[Task], Contestant]] = {
    "seanet_jax": SeanetJax,
    "seanet_jax lax": functools.partial(SeanetJax, conv_method="lax"),
    "seanet_jax bfloat16": functools.partial(SeanetJax, dtype="bfloat16"),
    "seanet_jax without a mesh": functools.partial(SeanetJax, mesh=False),
    "fit": Fit,
    "torch": PyTorch,
    "torch channels_last": functools.partial(PyTorch, channels_last=True),
    "torch compile": functools.partial(PyTorch, channels_last=True, compiled=True),
    "torch bfloat16": functools.partial(PyTorch, channels_last=True, bfloat16=True),
    # duel.py starts these without tuning their processes.
    "seanet_jax untuned": functools.partial(SeanetJax, tuned=False),
    "torch untuned": PyTorch,
}


def peak_resident_bytes() -> int:
    """The largest resident set this process has had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Serves requests until the input ends."""
    # Whatever the contestant prints goes to stderr; stdout is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, task = sys.argv[1], json.loads(sys.argv[2])
    widths = task.pop("widths")
    contestant = CONTESTANTS[name](Task(**task, widths=widths and tuple(widths)))
    print(json.dumps({"compile_seconds": contestant.compile_seconds}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "memory":
            answer: dict[str, Any] = {"bytes": peak_resident_bytes()}
        else:
            answer = {"seconds": getattr(contestant, request["do"])(request["steps"])}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
