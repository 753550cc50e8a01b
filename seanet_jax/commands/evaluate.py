"""Evaluate a network on test images and write a report.

    seanet evaluate runs/cifar100-seanet20-seed0
    seanet evaluate weights/seanet20 --dataset cifar100
    seanet evaluate seanet20_narrow-digits

FOLDER is the folder of a run, also of one that was converted from a PyTorch checkpoint, or of pretrained weights, or
the name of a network that comes with the package. The network classifies each test image: the whole test set, or the
part to which the run was limited. Prints top-1 and top-5 accuracy, the mean accuracy per class, loss, expected
calibration error (Guo et al., 2017), the best and worst classes, and the pairs of classes confused most often. The mean
accuracy per class counts every class equally, however many images it has. It leaves out classes without test images.
If the data set has superclasses, as CIFAR-100 has, the superclass accuracy is the share of images whose predicted class
is in the right superclass.

--mirror-tta also measures test-time augmentation, apart from the other metrics: a prediction is the average of the
probabilities for an image and its mirror image. It is refused for a data set whose classes are not kept by mirroring,
such as digits.

A run is tested on its own test images. For pretrained weights, --dataset and --data-dir name the images, and
--test-fraction and --skip-broken say how a folder of images is read, as in seanet train. Of a folder without test
images, give the fraction with which the network was trained: with another one, it has seen some of the test images.

Writes into FOLDER, or into the folder that --out names. A network that comes with the package is written about in
runs/NAME.
  evaluation/evaluation.json  all numbers
  evaluation/confusion.png    confusion matrix, also as .svg
  evaluation/superclass_confusion.png
                              that of the superclasses, if there are any, also as .svg
  evaluation/reliability.png  reliability diagram, also as .svg
  evaluation/mistakes.png     the most confident mistakes
  report.html                 one page with all of this, and the learning curves and every epoch of a run; it needs
                              no other file

Exit status: 0 if the evaluation was written, 1 if writing failed, 2 if an argument, the folder or its images are wrong.
"""

from typing import NoReturn

from seanet_jax.commands.cli import Arguments, add_which, command, command_line, keep_what_is_compiled
from seanet_jax.console import print_result
from seanet_jax.printable import printable


def run() -> None:
    """Reads the arguments and evaluates."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights, or a name")
    add_which(parser)
    parser.add_argument("--dataset", help="dataset on which to test pretrained weights; a run has its own")
    parser.add_argument(
        "--data-dir", help="folder with CIFAR, as in seanet train (default: the run's own, if it is here)"
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        help="for weights and a folder of images: fraction that are test images (default: 0.2)",
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="for weights and a folder of images: leave out files that are none"
    )
    parser.add_argument("--out", help="folder to write into (default: FOLDER, or runs/NAME)")
    parser.add_argument(
        "--mirror-tta",
        action="store_true",
        help="also measure the average of the predictions for each image and its mirror image",
    )
    arguments = parser.parse_args()
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax.inference.evaluation import evaluate, target_folder, text
    from seanet_jax.provenance import without_home

    about = evaluate(**vars(arguments), command=without_home(command_line()))
    report = target_folder(arguments.folder, arguments.out) / "report.html"
    print_result(f"{text(about)}\nthe report is {printable(report)}")


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
