"""``jax.jit`` for modules of tests that use the fixture ``optimized``: XLA optimizes as it does for a user."""

import functools

import jax

# The defaults; conftest.py chooses others for the process.
_OPTIONS = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT", "xla_cpu_use_fusion_emitters": True}
optimized_jit = functools.partial(jax.jit, compiler_options=_OPTIONS)
