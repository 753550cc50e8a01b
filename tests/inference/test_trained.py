"""Loading a trained network and its image specification, from a run or from pretrained weights."""

import json

import chex
import numpy as np
import pytest
from training_fixtures import latest_state, made_dataset

from seanet_jax import InputError
from seanet_jax.inference.trained import load, load_model
from seanet_jax.models import weights
from seanet_jax.models.network import split_model
from seanet_jax.training.run import fit


@pytest.mark.slow
def test_the_moving_average_is_that_of_the_latest_checkpoint(tiny, in_peace):
    config = in_peace(ema_decay=0.9)
    state = latest_state(config.out)
    model = load_model(config.out, "ema")
    _, params, batch_stats = split_model(model)
    chex.assert_trees_all_equal((params, batch_stats), tuple(state.ema))
    assert not np.allclose(state.ema.params["classifier"]["kernel"], state.params["classifier"]["kernel"])
    found = load(config.out, "ema")
    assert found.step == 15 and found.images == made_dataset().image_spec
    chex.assert_trees_all_equal(weights.to_arrays(found.model), weights.to_arrays(model))
    # The other networks are those of the training steps.
    chex.assert_trees_all_equal(split_model(load_model(config.out, "latest"))[1], state.params)


def test_a_run_without_a_moving_average_says_how_to_get_one(tiny, in_peace):
    config = in_peace()
    for function in (load, load_model):
        with pytest.raises(InputError, match=r"keeps no moving average of its network; .* with --ema-decay, for ex"):
            function(config.out, "ema")
        with pytest.raises(InputError, match="which is 'mean'; it must be best, latest or ema"):
            function(config.out, "mean")


def test_a_run_and_its_pretrained_weights_are_one_network(tiny, tmp_path):
    config = tiny(epochs=2)
    fit(config)
    of_run = load(config.out)
    assert of_run.images == made_dataset().image_spec
    assert (of_run.step, load(config.out, "latest").step) == (5, 10)
    chex.assert_trees_all_equal(weights.to_arrays(of_run.model), weights.to_arrays(load_model(config.out)))
    of_run.model.save_pretrained(tmp_path / "weights", of_run.images)
    pretrained = load(tmp_path / "weights")
    assert pretrained.images == of_run.images and pretrained.step is None
    chex.assert_trees_all_equal(weights.to_arrays(pretrained.model), weights.to_arrays(of_run.model))

    of_run.model.save_pretrained(tmp_path / "weights")
    with pytest.raises(InputError, match="does not say how images are normalized"):
        load(tmp_path / "weights")

    about = json.loads((config.out / "config.json").read_text())
    del about["images"]
    (config.out / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="an earlier version wrote it"):
        load(config.out)
    with pytest.raises(InputError, match="holds no run"):
        load(tmp_path)
