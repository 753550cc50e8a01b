"""``jax.jit`` for modules of tests that use the fixture ``optimized``: XLA optimizes as it does for a user."""

import functools

import jax

# The default; conftest.py chooses another preset for the process.
optimized_jit = functools.partial(jax.jit, compiler_options={"xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT"})
