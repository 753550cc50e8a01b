"""How fast is a training step, beside PyTorch on the same card, and what do flags of XLA change?"""

import statistics
from typing import TYPE_CHECKING

from implementations import STEPS_PER_CALL, Task
from interleaved import Result, WorkerError, compare
from report import Report
from train_step import ratios, spread

from seanet_jax.studies.roofline import work

if TYPE_CHECKING:
    from measure import Options

# In this order, so that the most important ones are measured if the time does not suffice for all.
NAMES = (
    "seanet_jax",
    "seanet_jax bfloat16",
    "torch compile bfloat16",
    "torch bfloat16",
    "seanet_jax bfloat16 scan",
    "seanet_jax scan",
    "torch channels_last",
    "torch compile",
    "torch graphs bfloat16",
    "torch",
    "seanet_jax exact",
    "torch exact",
)
QUICK_NAMES = ("seanet_jax", "seanet_jax bfloat16", "seanet_jax scan", "torch channels_last", "torch bfloat16")

# A flag that this XLA does not know ends its process at once, which is a line of the table.
FLAGS = (
    "xla_gpu_deterministic_ops=true",
    "xla_gpu_exclude_nondeterministic_ops=true",
    "xla_gpu_autotune_level=0",
    "xla_gpu_enable_command_buffer=",
    "xla_gpu_graph_min_graph_size=1",
    "xla_gpu_enable_triton_gemm=false",
    "xla_gpu_triton_gemm_any=true",
    "xla_gpu_enable_latency_hiding_scheduler=true",
    "xla_gpu_cudnn_gemm_fusion_level=2",
    "xla_gpu_strict_conv_algorithm_picker=false",
    "xla_gpu_experimental_enable_fusion_autotuner=false",
    "xla_gpu_exhaustive_tiling_search=true",
    "xla_allow_excess_precision=false",
)
QUICK_FLAGS = ("xla_gpu_deterministic_ops=true", "xla_gpu_no_such_flag=true")


def throughput(options: "Options") -> int:
    """Writes a table for each batch size. Returns the exit status."""
    failed = False
    for index, size in enumerate(options.batch_sizes):
        report = Report(options.out, f"Throughput, batch {size}")
        task = Task(options.model, size)
        seconds = options.seconds / (len(options.batch_sizes) - index)
        names = QUICK_NAMES if options.quick else NAMES
        with report.attempt(str(task)):
            results = _measured(report, task, names, seconds, quick=options.quick, do=("train", "evaluate"))
            _throughput_table(report, task, results)
        failed |= bool(report.failures)
    return failed


def flags(options: "Options") -> int:
    """Writes the table of XLA's flags, in bfloat16 at the first batch size. Returns the exit status."""
    report = Report(options.out, "Flags of XLA")
    base = "seanet_jax bfloat16"
    names = [base, *(f"{base} --{flag}" for flag in (QUICK_FLAGS if options.quick else FLAGS))]
    task = Task(options.model, options.batch_sizes[0])
    with report.attempt("the flags of XLA"):
        results = _measured(report, task, names, options.seconds, quick=options.quick, do=("train",))
        report.text(f"{base}, {task}: medians over the rounds, in parentheses their range.")
        rows = []
        for name, result in results.items():
            rates = [task.batch_size / seconds for seconds in result.seconds["train"]]
            times = spread(ratios(results, name, base, "train")) if base in results else "-"
            label = name.partition(" --")[2] or "none"
            rows.append((f"`{label}`", spread(rates, 0), times, f"{result.compile_seconds:.0f}"))
        report.table(("flag", "training, images/s", "x times as fast as without", "compilation, s"), rows)
    return bool(report.failures)


def _measured(
    report: Report, task: Task, names: tuple[str, ...] | list[str], seconds: float, *, quick: bool, do: tuple[str, ...]
) -> dict[str, Result]:
    """Measures implementations. One that fails is a failure of the report, and is left out of what is returned."""

    def failed(name: str, error: WorkerError) -> None:
        report.failure(error.line, error.log)

    rounds, steps = (2, 1) if quick else (5, 4 * STEPS_PER_CALL)
    results = compare(task, names, rounds=rounds, steps=steps, do=do, on_error=failed, seconds=seconds)
    for name in [name for name, result in results.items() if not all(result.seconds.values())]:
        report.failure(f"{name} was not measured: the time was over")
        results.pop(name)
    # A round that the end of the time cut short has no value of the implementations that were to come last.
    for what in do:
        shortest = min((len(result.seconds[what]) for result in results.values()), default=0)
        for result in results.values():
            del result.seconds[what][shortest:]
    report.data(
        task=str(task),
        seconds={name: result.seconds for name, result in results.items()},
        memory={name: result.memory for name, result in results.items()},
        compile_seconds={name: result.compile_seconds for name, result in results.items()},
    )
    return results


def _throughput_table(report: Report, task: Task, results: dict[str, Result]) -> None:
    # Operations of direct convolutions. The batch is 61, as the roofline tells images from channels by their number.
    operations = sum(one.flops for one in work(task.model, 61, "train")) / 61
    report.text(
        f"{task}: medians over the rounds, in parentheses their range. float32 is TF32 on a GPU, except in exact. "
        f"A scan takes {STEPS_PER_CALL} steps in a call. TFLOP/s count {operations / 1e9:.2f} GFLOP for an image. "
        "The ratios are to seanet_jax in the same dtype, one step in a call."
    )
    rows = []
    for name, result in results.items():
        ours = "seanet_jax bfloat16" if "bfloat16" in name else "seanet_jax"
        rates = {what: [task.batch_size / s for s in result.seconds[what]] for what in ("train", "evaluate")}
        cells = [name]
        for what, values in rates.items():
            cells.append(spread(values, 0))
            cells.append(spread(ratios(results, ours, name, what)) if ours in results else "-")
        cells += [f"{statistics.median(rates['train']) * operations / 1e12:.1f}", f"{result.memory / 2**30:.2f}"]
        rows.append([*cells, f"{result.compile_seconds:.0f}"])
    head = (
        "training, images/s",
        "seanet_jax is x times as fast",
        "evaluation, images/s",
        "seanet_jax is x times as fast",
    )
    report.table(("", *head, "training, TFLOP/s", "memory, GiB", "compilation, s"), rows)
