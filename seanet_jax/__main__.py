"""The command line: ``seanet COMMAND``, or ``python -m seanet_jax COMMAND``."""

import importlib
import sys
from typing import NoReturn

from seanet_jax import console
from seanet_jax.errors import did_you_mean
from seanet_jax.version import __version__

# Each command is a module of seanet_jax.commands with a function main().
COMMANDS = {
    "train": "train one network on one data set",
    "evaluate": "evaluate a run on its test images and write a report",
    "predict": "classify image files with a trained network",
    "show": "show what happens inside a trained network for one image",
    "compare-runs": "compare finished runs: settings, results and curves",
    "summary": "list the layers of a network, with their parameters and multiply-adds",
    "export": "export a trained network as a StableHLO artifact",
    "convert": "convert PyTorch checkpoints of the published release into runs, and back",
    "compare": "train several networks under one recipe and compare them",
    "ablate": "change one design choice of SEANet at a time and compare",
    "analyze": "measure the published claims about aggregation on two trained networks",
}


def main() -> NoReturn:
    """Runs the command that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        # The command's --help and errors show this as the name of the program.
        sys.argv = [f"seanet {name}", *sys.argv[2:]]
        importlib.import_module(f"seanet_jax.commands.{name.replace('-', '_')}").main()
        raise AssertionError(f"{name} did not exit")
    console.prepare()  # a command does so itself
    if name in ("-h", "--help", "--version"):
        text = f"seanet_jax {__version__}" if name == "--version" else _help()
        print(text, file=console.stdout)
        sys.exit(0)
    hint = did_you_mean(name, COMMANDS) or f"the commands are {', '.join(COMMANDS)}"
    print(f"error: there is no command {name!r}; {hint}", file=console.stderr)
    sys.exit(2)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: seanet COMMAND [arguments]",
            "",
            "Train, evaluate and use SEANet, a residual network with squeeze-excitation and aggregation, in JAX.",
            "",
            "commands:",
            *lines,
            "",
            "seanet COMMAND --help describes a command. seanet --version prints the version.",
            "Exit status: 0 after success, 1 if the command failed while running, 2 if an argument or input is wrong,",
            "129, 130 or 143 if SIGHUP, SIGINT or SIGTERM stopped it.",
        ]
    )


if __name__ == "__main__":
    main()
