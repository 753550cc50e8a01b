"""Folding batch normalization into convolutions gives the same numbers by fewer operations."""

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import settled

from seanet_jax import PRESETS, InputError, SEANetConfig
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import weights
from seanet_jax.models.fold import fold_batch_norm

# A small network of every kind among the presets. The stem is as wide as the first stage, so that the first shortcut
# can be the identity. What aggregates is the same, as no normalization of a preset follows a convolution of it.
_SMALL = {
    **{"stage_sizes": (2, 1), "widths": (8, 16), "stem_width": 8, "reduction": 4, "aggregate_factor": 2},
    **{"aggregate_op": "sum", "aggregate_stages": None, "aggregate_norm": False},
}
_SEANETS = [config for config in PRESETS.values() if isinstance(config, SEANetConfig)]
KINDS = list(dict.fromkeys(dataclasses.replace(config, **_SMALL) for config in _SEANETS))
X = jnp.asarray(np.random.RandomState(0).standard_normal((3, 8, 8, 3)), jnp.float32)


def normalizations(model):
    return [path for path, module in nnx.iter_modules(model) if isinstance(module, BatchNorm)]


def test_the_kinds_are_those_of_the_presets():
    kinds = {(k.squeeze_excite, k.aggregate_placement, k.preactivation) for k in KINDS}
    assert len(KINDS) == len(kinds) == 5


@pytest.mark.parametrize("config", KINDS, ids=lambda k: f"{k.squeeze_excite}-{k.aggregate_placement}-{k.preactivation}")
def test_the_folded_network_is_the_network(config):
    model = settled(config)
    before = weights.to_arrays(model)
    folded = fold_batch_norm(model)
    # In a pre-activated block the first normalization follows an addition, and so does the one before the classifier.
    kept = [path for path in normalizations(model) if config.preactivation and path[-1] in ("bn1", "head_bn")]
    assert normalizations(folded) == kept
    expected, found = model.features(X) | {"logits": model(X)}, folded.features(X) | {"logits": folded(X)}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * float(jnp.abs(array).max()), err_msg=name)
    chex.assert_trees_all_equal(weights.to_arrays(model), before)
    chex.assert_trees_all_equal(model(X), expected["logits"])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"aggregate_op": "sum"}, [("stages", index, "aggregate", "norm") for index in (0, 1)]),
        ({"aggregate_op": "dense"}, []),
        pytest.param({"aggregate_op": "learned", "aggregate_placement": "block"}, [], marks=pytest.mark.slow),
    ],
    ids=lambda value: value.get("aggregate_op") if isinstance(value, dict) else "",
)
def test_the_normalization_of_an_aggregate_is_folded_if_that_is_a_convolution(changes, kept):
    model = settled(dataclasses.replace(KINDS[0], **changes, squeeze_excite=False, aggregate_norm=True))
    folded = fold_batch_norm(model)
    assert normalizations(folded) == kept
    np.testing.assert_allclose(folded(X), model(X), rtol=0, atol=1e-5 * float(jnp.abs(model(X)).max()))


def test_half_precision_stays_half_precision():
    model = settled(dataclasses.replace(KINDS[0], dtype="bfloat16"))
    maps, folded = model.features(X), fold_batch_norm(model).features(X)
    assert {name: array.dtype for name, array in folded.items()} == {name: a.dtype for name, a in maps.items()}
    np.testing.assert_allclose(folded["pooled"], maps["pooled"], rtol=0, atol=0.05 * float(maps["pooled"].max()))


def test_a_network_in_training_mode_is_refused():
    model = settled(KINDS[0])
    model.stages[0].blocks[1].bn2.use_running_average = False
    with pytest.raises(InputError, match=r"stages\.0\.blocks\.1\.bn2 is in training mode; call model\.eval\(\)"):
        fold_batch_norm(model)
