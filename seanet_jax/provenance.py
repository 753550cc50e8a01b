"""Where a run comes from: when, by which command, with which code and on which machine it was made.

Nothing private is recorded: no environment variables, and the home folder in a path is written as ``~``.
"""

import contextlib
import datetime
import functools
import os
import platform
import re
import socket
import subprocess
from pathlib import Path
from typing import TypedDict

from seanet_jax.paths import exists, home_folder
from seanet_jax.printable import printable

_CHECKOUT = Path(__file__).resolve().parents[1]

# git answers in milliseconds, unless the checkout is on a network file system that does not.
_SECONDS_FOR_GIT = 10


class Provenance(TypedDict):
    """Where a run comes from.

    ``started`` and ``ended`` are times in UTC, as in ``2026-05-31T14:03:07Z``; ``started`` is None if an earlier
    version started the run. ``command`` is the command line that ended the run; it is empty if none did. ``commit`` is
    the commit of the package's checkout, and ``clean`` whether its files are those of the commit; both are None if the
    package is installed otherwise. ``processor`` is the name of the processor.
    """

    started: str | None
    ended: str
    command: str
    commit: str | None
    clean: bool | None
    host: str
    processor: str


def collect(started: str | None, command: str) -> Provenance:
    """Returns where a run that ends now comes from.

    Args:
        started: When the run was started, as ``now`` returned it.
        command: The command line.
    """
    commit, clean = checkout()
    return {
        "started": started,
        "ended": now(),
        "command": printable(without_home(command)),
        "commit": commit,
        "clean": clean,
        "host": printable(socket.gethostname()),
        "processor": printable(processor()),
    }


def now() -> str:
    """Returns the time in UTC, to the second, as in ``2026-05-31T14:03:07Z``."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def without_home(text: str) -> str:
    """Returns a text in which each path in the user's home folder begins with ``~``."""
    home = home_folder()
    if home is None or len(home.parts) < 2:  # every path is in the folder /
        return text
    return re.sub(rf"(?<![\w./~-]){re.escape(str(home))}(?![\w.-])", "~", text)


@functools.cache
def checkout(folder: Path = _CHECKOUT) -> tuple[str | None, bool | None]:
    """Returns the commit of a checkout, and whether its files are those of the commit. Both are None if it is none.

    It is asked once in each process: later changes are not of the code that runs.

    Args:
        folder: The folder of the checkout.
    """
    # Files of git's own variables, such as GIT_DIR in a hook, may be of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS_FOR_GIT,
            stdin=subprocess.DEVNULL,
        ).stdout.strip()

    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        # The package may be installed inside of another project's repository.
        if exists(folder / ".git"):
            return git("rev-parse", "--verify", "HEAD"), not git("status", "--porcelain", "--untracked-files=no")
    return None, None


def processor() -> str:
    """Returns the name of the processor, for example ``AMD EPYC 7B13``, or that of its kind if it has no other."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.M):
            return found[1].strip()
    return platform.processor() or platform.machine()
