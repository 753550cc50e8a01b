"""What did the studies find? Writes docs/results.md and its figures from the records of the studies.

    python experiments/results.py
    python experiments/results.py --comparison runs/compare-cifar10 --page runs/results.md

Cost: half a minute. It reads no checkpoints and no images.
"""

from pathlib import Path

from seanet_jax.commands.cli import Arguments, command
from seanet_jax.commands.compare import MODELS
from seanet_jax.console import print_result


def main() -> None:
    """Parses the flags and writes the page."""
    parser = Arguments(__doc__)
    kept = Path("docs/results")
    parser.add_argument("--comparison", default=kept / "compare-cifar100", help="folder of compare.py")
    parser.add_argument("--ablation", default=kept / "ablate-cifar100", help="folder of ablate.py")
    parser.add_argument("--analysis", default=kept / "analysis-cifar100", help="folder of analyze.py")
    parser.add_argument("--recipes", default=kept / "recipes-cifar100", help="folder of recipes.py")
    parser.add_argument("--widths", default=kept / "widths-cifar100", help="folder of widths.py")
    parser.add_argument("--page", default="docs/results.md", help="Markdown file to write")
    arguments = parser.parse_args()
    from seanet_jax.studies.page import Results, write

    folders = (arguments.comparison, arguments.ablation, arguments.analysis)
    write(Results.read(*folders, MODELS, arguments.recipes, arguments.widths), arguments.page)
    print_result(str(arguments.page))


if __name__ == "__main__":
    command(main)
