"""How fast could one NVIDIA H100 train a network at best? A roofline on paper; nothing is measured.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --model resnet110 --batch-size 64 256

Prints Markdown. The docstring of seanet_jax/studies/roofline.py says what is counted and what is left out.
"""

import argparse
from collections.abc import Sequence

from seanet_jax.errors import InputError
from seanet_jax.studies.roofline import BANDWIDTH, PEAK, Work, seconds, work

SOURCE = (
    "NVIDIA, [H100 Tensor Core GPU datasheet]"
    "(https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet) and [H100 Tensor Core GPU "
    "Architecture](https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper), H100 SXM5"
)


def markdown(model: str, batch_sizes: Sequence[int]) -> str:
    """Returns the tables as a section of a page.

    Args:
        model: Name of a preset.
        batch_sizes: Numbers of images per step. Each has a table, whose column "bound by" names the side, computation
            or memory, that takes most of the time.

    Raises:
        InputError: If there is no such preset, or a batch is too small.
    """
    peaks = " and ".join(f"{peak / 1e12:g} TFLOP/s ({name})" for name, peak in PEAK.items())
    ridges = " and ".join(f"{peak / BANDWIDTH:.0f} ({name})" for name, peak in PEAK.items())
    lines = [
        f"An upper bound on paper for {model} on one H100 SXM, not a measurement: {peaks} without sparsity, "
        f"{BANDWIDTH / 1e12:g} TB/s ({SOURCE}). bf16 is `--dtype bfloat16`; in TF32 a GPU multiplies float32. Tensor "
        f"cores and memory take equally long where there are {ridges} FLOP/byte.",
        "",
        "| batch | training, bf16 | training, TF32 | evaluation, bf16 | evaluation, TF32 |",
        "|---:|---:|---:|---:|---:|",
    ]
    tables = []
    for batch_size in batch_sizes:
        rates = []
        for mode in ("train", "eval"):
            done = work(model, batch_size, mode)
            rates += [f"{batch_size / seconds(done, precision):,.0f} images/s" for precision in PEAK]
            if mode == "train":
                tables += ["", f"A training step of {batch_size} images:", "", *_table(done)]
        lines.append(" | ".join([f"| {batch_size}", *rates]) + " |")
    return "\n".join([*lines, *tables]) + "\n"


def _table(done: Sequence[Work]) -> list[str]:
    columns = [f"{precision}: {column}" for precision in PEAK for column in ("GB", "FLOP/byte", "bound by", "ms")]
    lines = ["| | GFLOP | " + " | ".join(columns) + " |", "|---|---:" + "|---:|---:|---|---:" * len(PEAK) + "|"]
    for part in [*sorted({one.part for one in done}, key=_position), "all"]:
        chosen = [one for one in done if part in (one.part, "all")]
        flops = sum(one.flops for one in chosen)
        cells = [part, f"{flops / 1e9:,.2f}"]
        for precision in PEAK:
            moved = sum(one.bytes(precision) for one in chosen)
            total = seconds(chosen, precision)
            compute = seconds([one for one in chosen if one.times(precision)[0] > one.times(precision)[1]], precision)
            side, share = ("compute", compute) if compute > total / 2 else ("memory", total - compute)
            cells += [f"{moved / 1e9:.3f}", f"{flops / moved:.1f}", f"{side} {share / total:.0%}", f"{total * 1e3:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _position(part: str) -> tuple[int, str]:
    """Sorts parts by map size, the largest first, and those that are not maps to the end."""
    return (-int(part.split("x")[0]) if part.endswith("maps") else 0), part


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seanet20", help="preset of the network")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256, 1024], help="images per step")
    arguments = parser.parse_args()
    try:
        print(markdown(arguments.model, arguments.batch_size), end="")
    except InputError as error:
        parser.error(str(error))
