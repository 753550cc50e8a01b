"""One implementation of a comparison. It has its own process, so that it shares no threads, memory or compiler.

``interleaved.py`` starts it. It reads one JSON request per line of its input, and replies with one line of JSON:

    {"do": "train", "steps": 3}      {"seconds": [one number per training step]}
    {"do": "evaluate", "steps": 3}   {"seconds": [one number per evaluation of one batch]}
    {"do": "matmul", "steps": 3}     {"seconds": [one number per product of two float32 matrices of 2,048 x 2,048]}
    {"do": "memory"}                 {"bytes": the largest resident set so far, on a GPU the most memory of the GPU}
    {"do": "losses", "steps": 3}     {"losses": [the mean loss of the batch of each training step]}

Before the first request it writes how long the training step took to trace and compile: {"compile_seconds": 12.3}.

Everything runs on the device that JAX and PyTorch choose: a GPU if there is one, else the CPU. On a CPU each step is
timed by itself. A GPU computes while Python goes on, so there the steps are timed together, without waiting between
them: all but the first, which is not measured, have their mean.
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
STEPS_PER_CALL = 16  # of the implementations that take several steps in one call


@dataclasses.dataclass(frozen=True)
class Task:
    """What every implementation of a comparison computes.

    Attributes:
        model: Name of a preset.
        batch_size: Images per step, for training and for evaluation.
        widths: Widths of the stages that replace the preset's, or None.
    """

    model: str
    batch_size: int
    widths: tuple[int, ...] | None = None

    def __str__(self) -> str:
        widths = f" with widths {'/'.join(map(str, self.widths))}" if self.widths else ""
        return f"{self.model}{widths}, batch {self.batch_size}"

    def model_config(self, **overrides: Any) -> Any:
        """Returns the network's configuration for ten classes, with fields of ``SEANetConfig`` overridden."""
        from seanet_jax.models import model_config

        widths = {"widths": self.widths} if self.widths else {}
        return model_config(self.model, num_classes=10, **widths, **overrides)


class Implementation(Protocol):
    """What is measured. Its training step is compiled when it is created."""

    compile_seconds: float

    def losses(self, steps: int) -> list[float]:
        """Takes training steps. Returns the mean loss of the batch of each."""

    def memory(self) -> int:
        """Returns the most memory of the GPU that was in use, in bytes, or on a CPU the largest resident set."""

    def train(self, steps: int) -> list[float]:
        """Takes training steps. Returns the seconds of each."""

    def evaluate(self, steps: int) -> list[float]:
        """Evaluates one batch again and again. Returns the seconds of each evaluation."""

    def matmul(self, steps: int) -> list[float]:
        """Multiplies two square matrices of ``MATMUL_SIZE``. Returns the seconds of each product."""


def timed(function: Callable[[], object], steps: int, wait: Callable[[], object] | None = None) -> list[float]:
    """Calls a function ``steps`` times. Returns the seconds of each call.

    Args:
        function: What to time.
        steps: Number of calls.
        wait: If given, what waits until the device has computed all calls so far. It is called after the first call and
            after the last one, and all calls but the first have their mean.
    """
    seconds = []
    if wait is not None and steps > 1:
        first = timed(lambda: (function(), wait()), 1)
        started = time.perf_counter()
        for _ in range(steps - 1):
            function()
        wait()
        return [*first, *[(time.perf_counter() - started) / (steps - 1)] * (steps - 1)]
    for _ in range(steps):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


class SeanetJax:
    """The training and the evaluation step of ``fit``, without the loop around them.

    Args:
        task: What to compute.
        conv_method: Algorithm of the network's convolutions.
        dtype: Dtype in which the network computes.
        tuned: Whether to compile with the options that the commands use.
        exact: Whether to multiply float32 in full precision, where a GPU would multiply in TF32.
        steps_per_call: Training steps that one call takes. A measured step is one of them.
        mesh: Whether to place arrays on a mesh. Otherwise the same step is jitted for a single device, without
            shardings.
    """

    def __init__(
        self,
        task: Task,
        *,
        conv_method: str = "auto",
        dtype: str = "float32",
        tuned: bool = True,
        exact: bool = False,
        steps_per_call: int = 1,
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
        from seanet_jax.training.recipe import Recipe

        if exact:
            jax.config.update("jax_default_matmul_precision", "highest")
        dataset = load("digits")
        self._on_cpu = jax.default_backend() == "cpu"
        self._steps_per_call = steps_per_call
        devices = sharding.make_mesh()
        placement = sharding.replicated(devices) if mesh else None
        self._put = functools.partial(jax.device_put, device=placement)
        model = SEANet(task.model_config(conv_method=conv_method, dtype=dtype), rngs=nnx.Rngs(0))
        sgd = optimizer(TrainConfig(), steps_per_epoch=len(dataset.train_images) // task.batch_size)
        self._zero = functools.partial(step.EvalMetrics.zero, dataset.image_spec.num_classes)
        self._batch = step.Images(
            *self._put((dataset.train_images[: task.batch_size], dataset.train_labels[: task.batch_size]))
        )
        order = np.arange(len(dataset.train_images), dtype=np.int32)
        data = step.Images(*self._put((dataset.train_images, dataset.train_labels)))
        self._inputs = data, *self._put((order, jax.random.key(0)))
        train_step = step.make_train_step(
            model, sgd, dataset, devices, Recipe(batch_size=task.batch_size, augment=False)
        )
        if steps_per_call > 1:
            train_step = step.several_steps(train_step, steps_per_call)
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
        """Takes training steps. On a CPU, reads the loss after each. Returns the seconds of each."""
        sums: list[Any] = []

        def one() -> None:
            self._state, metrics = self._train(self._state, *self._inputs)
            sums[:] = [metrics.loss_sum]

        def wait() -> None:
            sums[0].block_until_ready()

        calls = max(2, steps // self._steps_per_call) if self._steps_per_call > 1 else steps
        seconds = timed(lambda: (one(), wait()), calls) if self._on_cpu else timed(one, calls, wait)
        return [second / self._steps_per_call for second in seconds]

    def losses(self, steps: int) -> list[float]:
        """Takes training steps. Returns the mean loss of the batch of each."""
        import jax
        import numpy as np

        found: list[float] = []
        before = 0.0, 0
        while len(found) < steps:
            self._state, metrics = self._train(self._state, *self._inputs)
            sums, _, counts = (np.atleast_1d(total) for total in jax.device_get(metrics))
            for total, images in zip(sums.tolist(), counts.tolist(), strict=True):
                begun = before if images > before[1] else (0.0, 0)  # the metrics start anew in each epoch
                found.append((total - begun[0]) / (images - begun[1]))
                before = total, images
        return found[:steps]

    def evaluate(self, steps: int) -> list[float]:
        """Takes evaluation steps. Returns the seconds of each."""
        metrics: list[Any] = []

        def one() -> None:
            zero = self._put(self._zero())
            metrics[:] = [self._eval(zero, self._state.params, self._state.batch_stats, self._batch).total.loss_sum]

        def wait() -> None:
            metrics[0].block_until_ready()

        return timed(lambda: (one(), wait()), steps) if self._on_cpu else timed(one, steps, wait)

    def matmul(self, steps: int) -> list[float]:
        """Multiplies matrices by XLA. Returns the seconds of each product."""
        import jax.numpy as jnp

        matrix = jnp.ones((MATMUL_SIZE, MATMUL_SIZE))
        return timed(lambda: (matrix @ matrix).block_until_ready(), steps)

    def memory(self) -> int:
        """Returns the most memory of the GPU that was in use, in bytes, or on a CPU the largest resident set."""
        import jax

        return peak_resident_bytes() if self._on_cpu else int(jax.devices()[0].memory_stats()["peak_bytes_in_use"])

    def profile(self, folder: Path, calls: int) -> Any:
        """Takes training steps under JAX's profiler, after one that is not recorded.

        Args:
            folder: Where the profile is written.
            calls: Number of recorded calls of the training step.

        Returns:
            The compiled training step, a ``jax.stages.Compiled``.
        """
        import jax

        self.train(2)
        with jax.profiler.trace(folder):
            for _ in range(calls):
                self._state, metrics = self._train(self._state, *self._inputs)
            jax.block_until_ready(metrics)
        return self._train


class Fit:
    """The whole of ``fit``: run folder, progress, augmentation, and the work between steps.

    Args:
        task: What to compute.
    """

    def __init__(self, task: Task):
        import jax

        self._task = task
        self.compile_seconds = 0.0
        # Each round is a separate run. With a compilation cache, only the first of them compiles.
        self._cache = tempfile.TemporaryDirectory()
        jax.config.update("jax_compilation_cache_dir", self._cache.name)

    def train(self, steps: int) -> list[float]:
        """Returns the mean of the steps of a run's second epoch without the first, which waits for a checkpoint."""
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
        """Is not supported."""
        raise NotImplementedError

    matmul = losses = evaluate

    def memory(self) -> int:
        """Returns the largest resident set, in bytes."""
        return peak_resident_bytes()


class PyTorch:
    """The baseline: the same network in PyTorch, with a minimal training loop.

    Args:
        task: What to compute.
        channels_last: Whether images and kernels have the memory format channels_last.
        compiled: Whether to use ``torch.compile``.
        bfloat16: Whether to use autocast to bfloat16.
        exact: Whether to multiply float32 in full precision. Otherwise a GPU multiplies in TF32, as XLA does.
        mode: Mode of ``torch.compile``; "reduce-overhead" captures CUDA graphs.
    """

    def __init__(
        self,
        task: Task,
        *,
        channels_last: bool = False,
        compiled: bool = False,
        bfloat16: bool = False,
        exact: bool = False,
        mode: str | None = None,
    ):
        import torch
        from pytorch_seanet import SEANet

        from seanet_jax.data import load

        torch.manual_seed(0)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._wait = torch.cuda.synchronize if self._device == "cuda" else None
        if self._device == "cuda":
            torch.backends.cudnn.benchmark = True  # as XLA, which times the algorithms of convolutions
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not exact
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dataset = load("digits")
        spec = dataset.image_spec
        images = torch.from_numpy(dataset.train_images[: task.batch_size]).permute(0, 3, 1, 2).to(self._device)
        self._images = ((images / 255 - spec.mean[0]) / spec.std[0]).to(memory_format=layout)
        self._labels = torch.from_numpy(dataset.train_labels[: task.batch_size]).long().to(self._device)
        self._module = SEANet(task.model_config()).to(self._device, memory_format=layout)
        self._sgd = torch.optim.SGD(self._module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self._network = torch.compile(self._module, mode=mode) if compiled else self._module
        self._autocast = functools.partial(torch.autocast, self._device, torch.bfloat16, enabled=bfloat16)

        # torch.compile compiles at the first call. The difference from the second call is the time it takes.
        first, second = self.train(2) if compiled else (0.0, 0.0)
        self.compile_seconds = first - second

    def _step(self) -> Any:
        import torch

        self._sgd.zero_grad(set_to_none=True)
        with self._autocast():
            loss = torch.nn.functional.cross_entropy(self._network(self._images), self._labels)
        loss.backward()
        self._sgd.step()
        return loss.detach()

    def train(self, steps: int) -> list[float]:
        """Takes training steps. On a CPU, reads the loss after each. Returns the seconds of each."""
        self._module.train()
        return timed(lambda: self._step().item(), steps) if self._wait is None else timed(self._step, steps, self._wait)

    def losses(self, steps: int) -> list[float]:
        """Takes training steps. Returns the mean loss of the batch of each."""
        self._module.train()
        return [self._step().item() for _ in range(steps)]

    def evaluate(self, steps: int) -> list[float]:
        """Takes forward passes in evaluation mode. Returns the seconds of each."""
        import torch

        def one() -> None:
            with torch.inference_mode(), self._autocast():
                self._network(self._images)

        self._module.eval()
        return timed(one, steps, self._wait)

    def matmul(self, steps: int) -> list[float]:
        """Multiplies matrices by PyTorch. Returns the seconds of each product."""
        import torch

        matrix = torch.ones(MATMUL_SIZE, MATMUL_SIZE, device=self._device)
        return timed(lambda: matrix @ matrix, steps, self._wait)

    def memory(self) -> int:
        """Returns the most memory of the GPU that was in use, in bytes, or on a CPU the largest resident set."""
        import torch

        return torch.cuda.max_memory_allocated() if self._device == "cuda" else peak_resident_bytes()


IMPLEMENTATIONS: dict[str, Callable[[Task], Implementation]] = {
    "seanet_jax": SeanetJax,
    "seanet_jax lax": functools.partial(SeanetJax, conv_method="lax"),
    "seanet_jax bfloat16": functools.partial(SeanetJax, dtype="bfloat16"),
    "seanet_jax exact": functools.partial(SeanetJax, exact=True),
    "seanet_jax scan": functools.partial(SeanetJax, steps_per_call=STEPS_PER_CALL),
    "seanet_jax bfloat16 scan": functools.partial(SeanetJax, dtype="bfloat16", steps_per_call=STEPS_PER_CALL),
    "seanet_jax without a mesh": functools.partial(SeanetJax, mesh=False),
    "fit": Fit,
    "torch": PyTorch,
    "torch channels_last": functools.partial(PyTorch, channels_last=True),
    "torch compile": functools.partial(PyTorch, channels_last=True, compiled=True),
    "torch exact": functools.partial(PyTorch, channels_last=True, exact=True),
    "torch bfloat16": functools.partial(PyTorch, channels_last=True, bfloat16=True),
    "torch compile bfloat16": functools.partial(PyTorch, channels_last=True, compiled=True, bfloat16=True),
    "torch graphs bfloat16": functools.partial(
        PyTorch, channels_last=True, compiled=True, bfloat16=True, mode="reduce-overhead"
    ),
    # interleaved.py starts these without tuning their processes.
    "seanet_jax untuned": functools.partial(SeanetJax, tuned=False),
    "torch untuned": PyTorch,
}


def peak_resident_bytes() -> int:
    """Returns the largest resident set that this process has had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Serves requests until the input ends."""
    # stdout is for replies alone: whatever else the implementation prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, task = sys.argv[1], json.loads(sys.argv[2])
    widths = task.pop("widths")
    implementation = IMPLEMENTATIONS[name](Task(**task, widths=widths and tuple(widths)))
    print(json.dumps({"compile_seconds": implementation.compile_seconds}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        what = request["do"]
        if what == "memory":
            reply: dict[str, Any] = {"bytes": implementation.memory()}
        else:
            reply = {"losses" if what == "losses" else "seconds": getattr(implementation, what)(request["steps"])}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
