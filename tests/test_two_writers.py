"""Processes that write the same files at once get no error, and leave no files that do not belong together."""

import pytest
from hammer import KINDS, hammer, writing


def check(counts):
    # A write may leave nothing under a temporary name, and each kind of file is written and read some times.
    assert {name: counts[name] for name in ("errors", "torn", "stays_torn", "left")} == {
        "errors": [],
        "torn": [],
        "stays_torn": [],
        "left": [],
    }
    assert counts["writes"] > 1 and counts["reads"] > 1


@pytest.mark.slow
def test_two_evaluations_of_one_run_are_read_whole(tmp_path):
    with writing(2) as processes:
        check(hammer("Evaluation", tmp_path, processes, seconds=1.5))


@pytest.fixture(scope="module")
def four():
    with writing(4) as processes:
        yield processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_write_the_same_files_for_a_while(kind, tmp_path, four):
    check(hammer(kind, tmp_path, four, seconds=2))
