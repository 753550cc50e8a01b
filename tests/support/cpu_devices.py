"""Runs a script in a process that has several CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def on_devices(count, script, *arguments):
    """Returns the ended process. Its script finds what tests share, wherever it is.

    Args:
        count: Number of devices.
        script: A script in this folder, or the path of another.
        *arguments: Its arguments.
    """
    return subprocess.run(
        [sys.executable, "-W", "error", SUPPORT / script, *arguments],
        env=os.environ
        | {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH")))),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
