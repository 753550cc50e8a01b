"""Processes that write the same files at once get no error, and leave no files that do not belong together."""

import pytest
from hammer import KINDS, hammer


def check(counts):
    # A write may leave nothing under a temporary name, and each kind of file is written and read some times.
    assert {name: counts[name] for name in ("errors", "torn", "stays_torn", "left")} == {
        "errors": [],
        "torn": [],
        "stays_torn": [],
        "left": [],
    }
    assert counts["writes"] > 1 and counts["reads"] > 1


def test_two_evaluations_of_one_run_are_read_whole(tmp_path):
    check(hammer("Evaluation", tmp_path, seconds=1.5))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_write_the_same_files_for_a_while(kind, tmp_path):
    check(hammer(kind, tmp_path, seconds=4, writers=4))
