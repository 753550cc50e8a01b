"""Every call of a module goes through a function, and only inside the context."""

import jax.numpy as jnp
import pytest
from training_fixtures import TINIEST, settled

from seanet_jax.layers.modules import Conv
from seanet_jax.models.module_calls import calls_go_through

IMAGES = jnp.full((1, 8, 8, 3), 0.5)


def test_a_function_sees_every_call_and_may_change_its_result():
    model, other, seen = settled(TINIEST), settled(TINIEST), []

    def around(path, module, call, *arguments, **keywords):
        seen.append((path, type(module).__name__, arguments[0].shape[-1]))
        found = call(*arguments, **keywords)
        return found + 1 if path == "classifier" else found

    before = Conv.__call__
    expected = model(IMAGES)
    with calls_go_through(around, model):
        assert (other(IMAGES) == expected).all() and not seen
        assert (model(IMAGES) == expected + 1).all()
    assert seen[:3] == [
        ("stem", "Conv", 3),
        ("stem_bn", "BatchNorm", 4),
        ("stages.0.blocks.0", "ResidualBlock", 4),
    ]
    assert ("stages.0.aggregate", "Aggregate", 8) in seen and seen[-1] == ("classifier", "Linear", 4)
    count = len(seen)
    assert (model(IMAGES) == expected).all() and len(seen) == count and Conv.__call__ is before


def test_an_error_leaves_the_modules_as_they_were():
    model, before = settled(TINIEST), Conv.__call__

    def around(path, module, call, *arguments, **keywords):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), calls_go_through(around, model):
        model(IMAGES)
    assert Conv.__call__ is before
