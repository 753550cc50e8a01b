"""How many requests does examples/serve.py answer, and how long does a client wait?

    python benchmarks/serving.py seanet20_narrow.stablehlo --clients 50 --seconds 60

Starts the server on this machine and asks it from as many threads as there are clients, each with a connection of its
own, without a pause. The image is a JPEG of 640x480 pixels, whose decoding is part of the time.

Cost: a minute and the server's start.

Result: requests a second, the median and the 99th percentile of the time to an answer, and the number of requests that
got no answer.
"""

import argparse
import contextlib
import http.client
import io
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

_SERVER = Path(__file__).parent.parent / "examples" / "serve.py"


def ask(port: int, image: bytes, end: float, times: list[float], lost: list[str]) -> None:
    """Asks until a time, and appends what each answer took, in seconds, or why there was none."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                connection.request("POST", "/classify", image)
                with connection.getresponse() as answer:
                    body = answer.read()
                if answer.status != 200 or b"predictions" not in body:
                    lost.append(f"{answer.status}: {body[:80]!r}")
            except (OSError, http.client.HTTPException) as error:
                lost.append(repr(error))
                connection.close()
            times.append(time.perf_counter() - start)


def measure(port: int, clients: int, seconds: float) -> str:
    """Returns a line that says what was measured."""
    waves = np.sin(np.arange(640 * 480 * 3).reshape(480, 640, 3) / 500)
    file = io.BytesIO()
    Image.fromarray((128 + 100 * waves).astype(np.uint8)).save(file, "JPEG")
    times: list[float] = []
    lost: list[str] = []
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=ask, args=(port, file.getvalue(), end, times, lost)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(times, n=100)
    return (
        f"{clients} clients, {seconds:g} s: {len(times):,} requests, {len(times) / seconds:.0f} a second, median "
        f"{1000 * cuts[49]:.0f} ms, 99th percentile {1000 * cuts[98]:.0f} ms, {len(lost)} without an answer"
        + (f", the first {lost[0]}" if lost else "")
    )


def main() -> None:
    """Reads the arguments, starts the server and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="file that seanet export wrote, *.stablehlo")
    parser.add_argument("--clients", type=int, default=50, help="number of clients (default: 50)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds to measure (default: 60)")
    arguments = parser.parse_args()
    command = [sys.executable, str(_SERVER), arguments.artifact, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = None
        while port is None and (line := process.stderr.readline()):
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
        if port is None:
            parser.exit(2, "error: the server did not start\n")
        print(measure(port, arguments.clients, arguments.seconds))
        process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
