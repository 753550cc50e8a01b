"""``jax.jit`` for modules of tests that use the fixture ``optimized``: XLA optimizes as it does for a user."""

import functools

import jax
from xla_options import default_options

optimized_jit = functools.partial(jax.jit, compiler_options=default_options())
