"""Puts a trained network into the package, as float16 weights with a model card.

    python experiments/bundle.py runs/digits-seanet20_narrow-seed0 runs/digits-seanet20_narrow-seed1

RUNS are finished runs of one recipe from several seeds. The network of the first one at its last epoch is written, so
that no test image chooses it. The model card has the test accuracies of all runs, and that of the written weights.

Cost: seconds on two CPU cores, for the evaluation.

Result: seanet_jax/models/bundled/PRESET-DATASET, with model.safetensors, config.json and README.md.
"""

import dataclasses
import hashlib
import statistics
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seanet_jax.commands.cli import Arguments, command
from seanet_jax.console import print_result
from seanet_jax.errors import InputError
from seanet_jax.paths import user_path

if TYPE_CHECKING:
    from seanet_jax.training.run_folder import RunFolder

# What the images are, who gave them, and on which terms.
_DATA = {
    "cifar100": "CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009): 50,000 "
    "training and 10,000 test images of 32x32 pixels in 100 classes. Its author states no license.",
    "digits": "the handwritten digits that scikit-learn bundles: 1,797 images of 8x8 pixels in 10 classes, from E. "
    "Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, under "
    "CC BY 4.0. Four fifths are training images.",
}
_LIMITS = {
    "cifar100": "It knows the 100 classes of CIFAR-100 and answers with one of them whatever the image shows. It sees "
    "32x32 pixels, to which a photograph is cropped and reduced.",
    "digits": "It knows single digits, white on black, of 8x8 pixels, written by 43 people, and answers with a digit "
    "whatever the image shows.",
}


def run() -> None:
    """Reads the arguments, and writes the weights and the card."""
    parser = Arguments(__doc__)
    parser.add_argument("runs", nargs="+", help="folders of finished runs, which differ in their seeds alone")
    parser.add_argument("--which", default="latest", choices=("latest", "ema"), help="network of the runs")
    parser.add_argument("--into", help="folder of all networks (default: that of the package)")
    arguments = parser.parse_args()
    print_result(bundle([user_path(run) for run in arguments.runs], arguments.which, arguments.into))


def bundle(folders: list[Path], which: str, into: str | None = None) -> str:
    """Writes the network of the first run and its card, and returns the folder of both as a text."""
    from seanet_jax.durable import write_whole
    from seanet_jax.inference.evaluation import evaluate
    from seanet_jax.inference.trained import load
    from seanet_jax.models import bundled
    from seanet_jax.training.run_folder import RunFolder

    runs = [RunFolder(folder) for folder in folders]
    config = runs[0].read_config()
    for run in runs:
        summary = run.read_summary()
        if summary is None or not summary["finished"]:
            raise InputError(f"{run.path} is not finished; finish it, or leave it out")
        own = dataclasses.replace(run.read_config(), seed=config.seed, out=config.out)
        if differences := own.differences(config.to_json()):
            raise InputError(f"{run.path} is another run than {runs[0].path} ({'; '.join(differences)})")
    if config.dataset not in _DATA:
        raise InputError(f"{config.dataset} has no line in this script; add what it is, and on which terms it is given")
    trained = load(folders[0], which)
    target = Path(bundled.__file__).parent if into is None else user_path(into)
    target /= f"{config.model}-{config.dataset}"
    trained.model.save_pretrained(target, trained.images, dtype="float16")
    data_dir = runs[0].read_config().data_dir
    with tempfile.TemporaryDirectory() as scratch:
        found = evaluate(target, dataset=config.dataset, data_dir=data_dir, out=scratch)
    write_whole(target / "README.md", _card(target, runs, which, found))
    return str(target)


def _card(target: Path, runs: list["RunFolder"], which: str, found: dict[str, Any]) -> str:
    from seanet_jax.models.weights import WEIGHTS
    from seanet_jax.studies.recipe_words import describe_recipe
    from seanet_jax.studies.statistics import format_summary, summarize
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.flags import as_flags

    config, summary = runs[0].read_config(), runs[0].read_summary()
    name = "ema_test_accuracy" if which == "ema" else "test_accuracy"
    accuracies = [100 * run.read_records()[-1][name] for run in runs]
    # The median, because another program may have slowed a run.
    seconds = statistics.median(sum(record["seconds"] for record in run.read_records()) for run in runs)
    kept = dataclasses.replace(config, out=None, data_dir=None, resume=False)
    flags = " ".join(as_flags(kept, TrainConfig()))
    versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
    recipe = describe_recipe(config, [config.learning_rate])
    listed = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    digest = hashlib.sha256((target / WEIGHTS).read_bytes()).hexdigest()
    size = (target / WEIGHTS).stat().st_size
    mean = format_summary(summarize(accuracies))
    items = {
        "Test accuracy": f"{100 * found['top_1_accuracy']:.2f} % of {found['images']:,} test images, for these "
        f"weights: `seanet evaluate {target.name}`.",
        "All seeds": f"{listed} % at the last epoch, mean {mean} %. These weights are those of the first one, which "
        "was not chosen by its result.",
        "Data": _DATA[config.dataset],
        "Recipe": f"{config.epochs} epochs with a batch size of {config.batch_size}; {recipe}.",
        "Command": f"`seanet train {flags}`",
        "Cost": f"{seconds / 60:.0f} minutes of training for a seed (median), without evaluation, on "
        f"{summary['device']}; {versions}.",
        "Limits": _LIMITS[config.dataset],
        "File": f"{size:,} bytes, SHA-256 `{digest}`.",
    }
    lines = [f"# {target.name}", "", f"`{config.model}`, trained on {config.dataset}, as float16 weights.", ""]
    for name, words in items.items():
        lines += textwrap.wrap(f"- **{name}:** {words}", 120, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    command(run)
