"""Every test runs on the CPU, whatever else the machine has, and compiles what another test compiled only once."""

import os
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings

os.environ["JAX_PLATFORMS"] = "cpu"
_cache = tempfile.TemporaryDirectory(prefix="seanet-jax-tests-")
# Inherited by the commands that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config):
    _cache.cleanup()


@pytest.fixture(autouse=True)
def interruptible():
    """Though the tests may run in the background, where SIGINT is ignored, and programs they start inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


_fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("short", _fuzz, max_examples=60, derandomize=True)
settings.register_profile("long", _fuzz, max_examples=3000)
settings.load_profile("short")

# After the environment is set: this imports jax.
from training_fixtures import evaluated, tiny  # noqa: E402, F401
