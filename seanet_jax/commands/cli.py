"""What every command shares: argument errors and run errors in one line, exit statuses, the compilation cache.

Exit status 0: done; 1: the run failed; 2: the input cannot work and nothing was written; 130 and 143: stopped by SIGINT
and SIGTERM.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from seanet_jax.commands.cpu_tuning import restart_tuned
from seanet_jax.errors import InputError, RunError


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, like those of the experiments' flags.

    Args:
        description: shown above the flags by --help, as it is wrapped.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Instead of the usage, which --help shows.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; --help lists the arguments")


def command(action: Callable[[], None]) -> NoReturn:
    """Does what a command that trains nothing is for, and exits.

    Args:
        action: parses ``sys.argv`` and does it. Where nobody reads what it prints any more, as under ``head``, it
            ends as other programs do, by the status of SIGPIPE.
    """

    def act(process: Process) -> None:
        try:
            action()
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left in the buffer would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    run_and_exit(act, "", trains=False)


class Process:
    """Whether it trains together with others."""

    together = False


def run_and_exit(action: Callable[[Process], None], again: str, *, trains: bool = True) -> NoReturn:
    """Does it; whatever happens becomes an exit status. Told to stop, it says that ``again`` goes on."""
    # Before anything is imported that takes long, since all of it would be imported again. The parser, imported later,
    # takes either spelling.
    if trains and not {"--no-tune-cpu", "--no-tune_cpu"} & set(sys.argv):
        restart_tuned()
    process = Process()
    try:
        action(process)
    except InputError as error:
        _exit(2, f"error: {error}", process)
    except RunError as error:
        _exit(1, f"error: {error}", process)
    except KeyboardInterrupt:
        goes_on = f"; {again} goes on from the last checkpoint, if one was saved" if trains else ""
        _exit(130, f"interrupted{goes_on}", process)
    except Exception as error:
        # Looked up rather than imported: where it is not loaded yet, nothing can have been stopped by it.
        interrupt = sys.modules.get("seanet_jax.training.interrupt")
        if interrupt is not None and isinstance(error, interrupt.StoppedError):
            _exit(128 + error.signal, f"{error}; {again} goes on from there", process)
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
    """Switches JAX's persistent compilation cache on, unless the user has."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    import jax

    from seanet_jax.data.cache import cache_dir

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    # By default what compiles in less than a second is not kept; a start has a dozen of those.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _exit(status: int, message: str, process: Process) -> NoReturn:
    """Ends the process; where it trains together with others, without waiting for them."""
    print(message, file=sys.stderr, flush=True)
    if process.together:
        from seanet_jax.training.processes import exit_now

        exit_now(status)
    sys.exit(status)
