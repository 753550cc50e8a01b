import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seanet_jax.errors import InputError
from seanet_jax.training import sharding
from seanet_jax.training.checkpoint import Checkpoints


def state(value):
    return {"weights": jnp.full((3, 2), value), "step": jnp.int32(value)}


def test_the_newest_comes_back_with_its_history(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.exist()
        for step in (1, 2, 3):
            checkpoints.save_latest(step, state(step), [{"epoch": step}])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.exist()
        restored, history = checkpoints.restore_latest(state(0))
    assert history == [{"epoch": 3}]
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))


def test_two_latest_and_one_best_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_latest(step, state(step), [])
            checkpoints.save_best(step, state(step), [])
    names = {
        kind: sorted(path.name for path in (tmp_path / "checkpoints" / kind).iterdir()) for kind in ("latest", "best")
    }
    assert names == {"latest": ["2", "3"], "best": ["3"]}


def test_best_and_latest_are_apart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, state(1), [])
        checkpoints.save_latest(2, state(2), [])
        assert checkpoints.restore_best(state(0))[0]["step"] == 1
        assert checkpoints.restore_latest(state(0))[0]["step"] == 2


def test_arrays_come_back_where_the_template_lies(tmp_path):
    placement = sharding.replicated(sharding.make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_latest(1, state(1), [])
        restored, _ = checkpoints.restore_latest(jax.device_put(state(0), placement))
    assert restored["weights"].sharding == placement


def test_a_state_may_be_donated_once_saving_returns(tmp_path):
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)
    current = {"weights": jnp.ones((2000, 1000)), "step": jnp.int32(1)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            # Writing goes on in the background while the buffers are overwritten.
            checkpoints.save_latest(step, current, [])
            current = double(current)
        restored, _ = checkpoints.restore_latest(current)
    assert restored["step"] == 4
    assert (restored["weights"] == 4).all()


def test_no_checkpoint_is_a_clear_error_and_makes_no_folder(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"latest and .*best: there is no checkpoint; train first"),
    ):
        checkpoints.restore_latest(state(0))
    assert list(tmp_path.iterdir()) == []
