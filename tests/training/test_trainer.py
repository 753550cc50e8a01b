import numpy as np
import pytest

from seanet_jax.training.run import fit
from seanet_jax.training.trainer import Trainer


@pytest.mark.slow
def test_every_epoch_has_an_order_of_its_own_also_after_a_stop(tiny, monkeypatch):
    seen = []

    def order(trainer, epoch):
        seen.append((epoch, tuple(np.asarray(real(trainer, epoch)))))
        return real(trainer, epoch)

    real = Trainer.order
    monkeypatch.setattr(Trainer, "order", order)
    fit(tiny(max_steps=7))
    fit(tiny(resume=True))
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert len({order for _, order in seen}) == 3
    assert len(set(seen)) == 3  # epoch 1, begun before the stop, keeps its order after it
