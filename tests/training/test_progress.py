import errno
import io
import sys
import time

import pytest
from training_fixtures import made_record

from seanet_jax.training.progress import Progress, format_duration, print_once


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations_read_like_speech(seconds, text):
    assert format_duration(seconds) == text


def test_plain_lines_come_every_so_many_steps(capsys, monkeypatch):
    clock = iter(range(1000))
    # A second passes between two looks at it: three lines.
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress(step=0, last_step=8, steps_per_epoch=4, batch_size=10, log_every=2)
    progress.begin_epoch(4)
    for step in range(1, 5):
        progress.step(step, 1.5, 0.25)
    timing = progress.end_steps()
    progress.end_epoch(made_record(1) | timing)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith(" 10 images/s")  # the first tells at once how fast it is
    assert lines[1].startswith("  epoch 1/2, step 2/4: loss 1.500, accuracy 25.00%, ")
    assert lines[2].startswith("  epoch 1/2, step 4/4: ")
    assert lines[3].startswith("epoch 1/2, lr 0.1, train loss 2.000 accuracy 50.00%, test loss 3.000 accuracy 40.00%, ")
    assert lines[3].endswith(", 10 images/s, 5 s left")
    assert timing == {"seconds": 4, "images_per_second": 10.0}


def test_a_line_that_cannot_be_printed_is_dropped(monkeypatch):
    for stdout in (None, io.TextIOWrapper(full := Full())):
        monkeypatch.setattr(sys, "stdout", stdout)
        print_once("a line")
        progress = Progress(step=0, last_step=1, steps_per_epoch=1, batch_size=10, log_every=1)
        progress.begin_epoch(1)
        progress.step(1, 1.5, 0.25)
        progress.end_epoch(made_record(1) | progress.end_steps())
    assert full.attempts > 1


class Full(io.RawIOBase):
    attempts = 0

    def writable(self):
        return True

    def write(self, data):
        self.attempts += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_closed_bar_leaves_nothing_on_its_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(step=0, last_step=8, steps_per_epoch=8, batch_size=10, log_every=1)
    progress.begin_epoch(8)
    progress.step(3, 1.5, 0.25)
    progress.close()
    progress.close()
    bar, *last = capsys.readouterr().out.rsplit("\r", 2)
    assert "0/8" in bar
    assert [part.strip() for part in last] == ["", ""]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(step=4, last_step=8, steps_per_epoch=4, batch_size=10, log_every=1)
    progress.begin_epoch(8)
    assert not any(progress.is_due(step) for step in range(5, 9))
    progress.step(7, 1.5, 0.25)
    assert progress._bar.n == 3
    progress.end_steps()
    shown = capsys.readouterr().out
    assert "\r" in shown and "epoch 2/2" in shown
    assert "step 1/4" not in shown
