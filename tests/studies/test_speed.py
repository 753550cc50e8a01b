"""Training speeds of small networks: how many there are and whose, not how large."""

import pytest
from training_fixtures import TINY, TINY_RUN, made_dataset

from seanet_jax.models import PRESETS
from seanet_jax.studies import speed
from seanet_jax.training.config import TrainConfig

pytestmark = pytest.mark.slow


def test_every_network_has_a_rate_for_each_round(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr(speed, "_ROUNDS", 2)
    monkeypatch.setattr(speed, "_SECONDS_A_TURN", 0.01)
    turns = []
    turn = speed._Stepper.turn

    def recorded(stepper):
        turns.append(stepper._trainer.config.learning_rate)
        return turn(stepper)

    monkeypatch.setattr(speed._Stepper, "turn", recorded)
    configs = {name: TrainConfig(**(TINY_RUN | {"learning_rate": rate})) for name, rate in (("a", 0.1), ("b", 0.2))}
    rates = speed.training_speeds(configs, made_dataset(), {})
    assert rates.keys() == configs.keys()
    assert all(len(of) == 2 and min(of) > 0 for of in rates.values())
    # They take turns.
    assert turns == [0.1, 0.2, 0.1, 0.2]
