"""Every test runs on the CPU, whatever else the machine has, and compiles what another test compiled only once."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
_cache = tempfile.TemporaryDirectory(prefix="seanet-jax-tests-")
# Inherited by the commands that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config):
    _cache.cleanup()


# After the environment is set: this imports jax.
from training_fixtures import tiny  # noqa: E402, F401
