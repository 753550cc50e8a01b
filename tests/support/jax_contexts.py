"""Settings of JAX under which a function must give the same numbers as under the default ones."""

import jax
import pytest

under_other_settings = pytest.mark.parametrize(
    "context",
    [jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")],
    ids=["x64", "strict dtype promotion", "no rank promotion"],
)
