import types

import pytest

from seanet_jax.training.stopwatch import Stopwatch, describe_time, spent_seconds, time_spent


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr("seanet_jax.training.stopwatch.time", fake)
    return clock


def test_a_record_gets_the_time_since_the_one_before_and_its_parts(clock):
    stopwatch = Stopwatch()
    clock.now += 3
    with stopwatch.part("compiling"):
        clock.now += 20
    with stopwatch.part("evaluation"):
        clock.now += 4
        assert stopwatch.so_far() == {"compiling_seconds": 20, "total_seconds": 27}
    assert stopwatch.lap() == {"evaluation_seconds": 4, "compiling_seconds": 20, "total_seconds": 27}
    clock.now += 1
    assert stopwatch.lap() == {"total_seconds": 1}


def test_the_time_of_a_process_that_was_stopped_is_carried_on(clock):
    stopwatch = Stopwatch()
    clock.now += 2
    stopwatch.carry({"step": 7, "seconds": 5.0, "saving_seconds": 1.0, "total_seconds": 30.0})
    with stopwatch.part("saving"):
        clock.now += 1
    assert stopwatch.lap() == {"saving_seconds": 2, "total_seconds": 33}


def test_a_part_that_fails_counts(clock):
    stopwatch = Stopwatch()
    with pytest.raises(ValueError, match="full"), stopwatch.part("saving"):
        clock.now += 1
        raise ValueError("full")
    assert stopwatch.lap() == {"saving_seconds": 1, "total_seconds": 1}


def test_the_time_of_a_run_is_all_that_passed():
    records = [
        {"seconds": 10.0, "evaluation_seconds": 5.0, "compiling_seconds": 20.0, "total_seconds": 40.0},
        {"seconds": 10.0, "saving_seconds": 1.0, "total_seconds": 12.0},
    ]
    spent = time_spent(records, {"saving_seconds": 2.0, "total_seconds": 3.0})
    parts = {"training": 20, "evaluation": 5, "compiling": 20, "saving": 3, "other": 7}
    assert spent == {**parts, "total": 55} and sum(parts.values()) == 55
    assert describe_time(spent) == (
        "55 s: 20 s of training, 5 s of evaluation, 20 s of compiling, 3 s of saving, 7 s of the rest"
    )
    # Version 0.1.0 knew of the training steps alone.
    spent = time_spent([{"seconds": 286.0}], {})
    assert (spent["total"], spent["other"]) == (286, 0)
    assert describe_time(spent) == "4 min 46 s: 4 min 46 s of training"
    assert describe_time(time_spent([{"seconds": 0.1}], {})) == "0 s"


def test_the_summary_of_an_earlier_version_tells_the_training_steps_alone():
    assert spent_seconds({"training_seconds": 7}) == 7
    assert spent_seconds({"training_seconds": 7, "time": {"total": 9.0}}) == 9
