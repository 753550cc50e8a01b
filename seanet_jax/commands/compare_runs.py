"""Compare finished runs: what differs in their settings, what they reach, and their curves.

    seanet compare-runs runs/a runs/b runs/c
    seanet compare-runs runs/a-seed0 runs/a-seed1 runs/b-seed0 runs/b-seed1 --out comparison.html

RUNS are folders of finished runs of any origin: of seanet train, of a study, of another version, or converted from
PyTorch and trained further. Runs that differ in nothing but their seeds are one row, with the mean and the standard
deviation over the seeds.

Prints the settings that differ, and a table of the results. Writes one HTML page with both and with the curves, which
needs no other file.

Exit status: 0 if the page was written, 1 if writing failed, 2 if an argument or a folder is wrong.
"""

from typing import NoReturn

from seanet_jax.commands.cli import Arguments, command, command_line, page_path, write_named
from seanet_jax.console import print_result
from seanet_jax.printable import printable


def run() -> None:
    """Reads the arguments, prints the comparison and writes the page."""
    parser = Arguments(__doc__)
    parser.add_argument("runs", nargs="+", help="folders of two or more finished runs")
    parser.add_argument("--out", default="comparison.html", help="page to write (default: comparison.html)")
    arguments = parser.parse_args()
    out = page_path(arguments.out)
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    from seanet_jax.provenance import without_home
    from seanet_jax.studies.run_comparison import page, read_groups, text

    groups = read_groups(arguments.runs)
    write_named(out, "--out", page(groups, without_home(command_line())))
    print_result(f"{text(groups)}\n\nthe curves are in {printable(out)}")


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
