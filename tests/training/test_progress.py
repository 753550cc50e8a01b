import errno
import io
import sys
import time
import types

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


def test_the_time_left_has_the_evaluations_that_are_left(capsys, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    progress = Progress(step=0, last_step=20, steps_per_epoch=4, batch_size=10, log_every=99, eval_every=2)
    left = []
    for epoch in (1, 2, 3, 4, 5):
        progress.begin_epoch(4 * epoch)
        clock.now += 4
        progress.step(4 * epoch, 1.5, 0.25)
        timing = progress.end_steps()
        record = made_record(epoch) | timing
        if epoch % 2 and epoch < 5:
            del record["test_loss"]
        else:
            clock.now += 10
        progress.end_epoch(record)
        left.append(capsys.readouterr().out.rpartition(", ")[2])
    # Four seconds for an epoch, ten for an evaluation: after epochs 2, 4 and, because it is the last, 5.
    assert left == ["16 s left\n", "32 s left\n", "28 s left\n", "14 s left\n", "0 s left\n"]


def test_an_evaluation_has_a_bar_on_a_terminal_alone(capsys, monkeypatch):
    progress = Progress(step=0, last_step=8, steps_per_epoch=8, batch_size=10, log_every=1)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        with progress.evaluating(30) as advance:
            advance(30)
        shown = capsys.readouterr()
        assert ("evaluating:   0%" in shown.out and "0/30" in shown.out) if terminal else not shown.out
        assert not shown.err


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
