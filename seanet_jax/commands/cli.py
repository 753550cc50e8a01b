"""What all commands share: argument parsing, one-line errors, exit statuses and the compilation cache.

The exit status is 0 after success, 1 if the command failed while running, 2 if the input is wrong and nothing was
written, and 129, 130 or 143 if SIGHUP, SIGINT or SIGTERM stopped it.
"""

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from seanet_jax import console
from seanet_jax.commands.cpu_tuning import restart_tuned
from seanet_jax.durable import make_folders, write_whole
from seanet_jax.errors import InputError, RunError, did_you_mean
from seanet_jax.paths import exists, is_folder, user_path
from seanet_jax.printable import printable

if TYPE_CHECKING:
    from seanet_jax.data.image_file import ImageSource


class Arguments(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence.

    Args:
        description: Text that --help shows above the flags, with its line breaks.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raises the error, in place of printing the usage and exiting.

        Raises:
            InputError: Always.
        """
        unknown = re.findall(r"--[\w-]+", message.partition("unrecognized arguments:")[2])
        hints = [hint for flag in unknown if (hint := did_you_mean(flag, self._option_string_actions))]
        raise InputError(f"{message}; {' '.join([*hints, '--help lists the arguments'])}")


def add_which(parser: argparse.ArgumentParser) -> None:
    """Adds the flag --which, which chooses a network of a run.

    Args:
        parser: The parser of a command that reads the folder of a run.
    """
    parser.add_argument(
        "--which",
        choices=("best", "latest", "ema"),
        default="best",
        help="a run's network: of the best epoch (default), of the latest checkpoint, or its moving average (ema)",
    )


def image_sources(given: str) -> "list[ImageSource]":
    """Returns the images of an argument: a file, those of a folder, or the one on standard input.

    Args:
        given: The path of a file or a folder, or - for standard input.

    Raises:
        InputError: If there is no such file, or the folder holds no image.
    """
    from seanet_jax.data.image_file import ImageSource, find_images
    from seanet_jax.data.image_formats import MOST_MEMORY

    path = user_path(given)
    if given == "-":
        return [ImageSource(path, sys.stdin.buffer.read(MOST_MEMORY + 1))]
    if not exists(path):
        raise InputError(f"{printable(path)}: there is no such file; name image files or folders of image files")
    return [ImageSource(found) for found in (find_images(path) if is_folder(path) else [path])]


def page_path(given: str) -> Path:
    """Returns the path of the page that --out names.

    Args:
        given: The value of the flag.

    Raises:
        InputError: If it is no name of a page.
    """
    out = user_path(given, name="--out")
    if out.suffix != ".html" or is_folder(out):
        raise InputError(f"--out: {printable(out)} is no name of a page; give one that ends in .html")
    return out


def write_named(path: Path, flag: str, content: str | bytes) -> None:
    """Writes the file that a flag names, and the folders above it.

    Args:
        path: The file.
        flag: The flag, with which an error begins.
        content: The content of the file.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        make_folders(path.parent)
        write_whole(path, content)
    except OSError as error:
        raise RunError(f"{flag}: {printable(path)} could not be written ({error.strerror})") from None


def command(action: Callable[[], None]) -> NoReturn:
    """Runs a command that trains nothing, and exits.

    If the reader of the output closes it, as ``head`` does, the exit status is that of SIGPIPE, as in other programs.

    Args:
        action: Function that parses ``sys.argv`` and does the work.
    """

    def act(process: Process) -> None:
        try:
            action()
            sys.stdout.flush()
        except BrokenPipeError:
            sys.exit(128 + signal.SIGPIPE)

    run_and_exit(act, "", trains=False)


class Process:
    """This process as its command knows it.

    Args:
        again: Description of the command that continues the work, for the message after an interruption.

    Attributes:
        again: The same. An action that finds a shorter command puts it here.
        together: Whether it trains together with other processes.
    """

    def __init__(self, again: str):
        self.again = again
        self.together = False


def program() -> list[str]:
    """Returns the words by which a user starts this program, such as ``seanet train`` or ``python script.py``."""
    return sys.argv[0].split() if sys.argv[0].startswith("seanet ") else ["python", sys.argv[0]]


def command_line() -> str:
    """Returns the command line of this process, as a shell reads it."""
    return shlex.join([*program(), *sys.argv[1:]])


def run_and_exit(action: Callable[[Process], None], again: str, *, trains: bool = True) -> NoReturn:
    """Runs an action, turns every outcome into an exit status, and exits.

    Args:
        action: Function that parses ``sys.argv`` and does the work.
        again: Description of the command that continues the work, for the message after an interruption.
        trains: Whether the action trains, and may restart the process with settings that make that faster.
    """
    console.prepare()
    # A restart imports everything again, so it comes before the slow imports. The parser, which is imported later,
    # accepts both spellings of the flag.
    if trains and not {"--no-tune-cpu", "--no-tune_cpu"} & set(sys.argv):
        restart_tuned()
    # Without a home folder that it can write, matplotlib works too, but warns in two long lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    process = Process(again)
    try:
        action(process)
    except InputError as error:
        _exit(2, f"error: {error}", process)
    except RunError as error:
        _exit(1, f"error: {error}", process)
    except KeyboardInterrupt:
        hint = f"; {process.again} continues from the last checkpoint, if one was saved" if trains else ""
        _exit(130, f"interrupted{hint}", process)
    except Exception as error:
        # Looked up in place of imported, which is slow: if the module is not loaded, it cannot have raised the error.
        interrupt = sys.modules.get("seanet_jax.training.interrupt")
        if interrupt is not None and isinstance(error, interrupt.StoppedError):
            _exit(128 + error.signal, f"{error}; {process.again} continues from there", process)
        if sentence := _missing_package(error):
            _exit(2, f"error: {sentence}", process)
        if not process.together:
            raise
        _exit(1, traceback.format_exc(), process)
    sys.exit(0)


# Extras with everything that a command needs; what is not here needs "train".
_EXTRAS = {"seanet predict": "predict", "seanet export": "predict", "seanet convert": "convert"}


def _missing_package(error: Exception) -> str | None:
    """Returns what to install, if the error is the absence of a package that one of the extras brings."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    from seanet_jax.extras import explain

    user = Path(sys.argv[0]).name  # "seanet train", or the name of a script
    return explain(error, user, _EXTRAS.get(user, "train"))


def keep_what_is_compiled() -> None:
    """Turns JAX's persistent compilation cache on, unless the user has set its folder or nothing can be cached."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    import jax

    from seanet_jax.data.cache import writable_cache_dir

    # In a folder that cannot be written, JAX would warn of each program.
    if (folder := writable_cache_dir()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    # By default JAX does not keep programs that compile in under a second, of which a start compiles a dozen.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _exit(status: int, message: str, process: Process) -> NoReturn:
    """Prints the message and ends the process. It does not wait for other processes of the same run."""
    console.print_error(message)
    if process.together:
        from seanet_jax.training.processes import exit_now

        exit_now(status)
    sys.exit(status)
