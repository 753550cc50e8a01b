"""The command line: ``seanet COMMAND``, or ``python -m seanet_jax COMMAND``."""

import importlib
import sys
from typing import NoReturn

from seanet_jax import __version__

# Each is a module of seanet_jax.commands with a function main().
COMMANDS = {
    "train": "train one network on one data set",
    "evaluate": "measure a trained network on its test images and write a report",
    "predict": "name what image files show",
    "export": "write a trained network as a StableHLO artifact",
    "convert": "carry networks over from the published PyTorch release, and back",
    "compare": "train networks under one recipe and compare them",
    "ablate": "change SEANet's choices one at a time and compare",
    "analyze": "measure the talk's claims on two trained networks",
}


def main() -> NoReturn:
    """Runs the command that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        print(f"seanet_jax {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    # The name of the program in the command's own --help.
    sys.argv = [f"seanet {name}", *sys.argv[2:]]
    importlib.import_module(f"seanet_jax.commands.{name}").main()
    raise AssertionError(f"{name} did not exit")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: seanet COMMAND [arguments]",
            "",
            "SEANet (squeeze-excitation and aggregation) in JAX: train, evaluate and use it.",
            "",
            *lines,
            "",
            "seanet COMMAND --help describes a command; seanet --version prints the version.",
        ]
    )


if __name__ == "__main__":
    main()
