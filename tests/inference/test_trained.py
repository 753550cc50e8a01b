"""Loading a trained network and its image specification, from a run or from pretrained weights."""

import json

import chex
import pytest
from training_fixtures import made_dataset

from seanet_jax import InputError
from seanet_jax.inference.trained import load, load_model
from seanet_jax.models import weights
from seanet_jax.training.run import fit


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
