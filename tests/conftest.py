"""Every test runs on the CPU, whatever else the machine has, and compiles what another test compiled only once."""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import pytest
from garbage import collect_rarely
from hypothesis import HealthCheck, settings
from xla_options import fast_flags

os.environ["JAX_PLATFORMS"] = "cpu"
# The processes of pytest share what they compiled, and the steps of .ci/run do, which sets the variable. JAX writes an
# entry in place, where another process could read half of it: each process has a folder of its own in the shared one.
_temporary = tempfile.TemporaryDirectory(prefix="seanet-jax-tests-", dir=os.environ.get("SEANET_JAX_TESTS_COMPILED"))
_shared = Path(os.environ.setdefault("SEANET_JAX_TESTS_COMPILED", _temporary.name))
_own = Path(_temporary.name) / "own"
_own.mkdir()
# Inherited by the commands that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_own)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Most of the time would go into making programs fast that run a few steps. What XLA makes of a network is the same, but
# for the machine code; where that is the question, a module asks for ``optimized``.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A process reads XLA's flags once, so that ``optimized`` needs ``optimized_jit`` beside it.
os.environ.setdefault("XLA_FLAGS", fast_flags())


def pytest_unconfigure(config):
    _temporary.cleanup()


def _link_entries(source, target):
    for path in source.glob("*-cache"):
        with contextlib.suppress(FileExistsError):
            os.link(path, target / path.name)


@pytest.fixture(scope="module", autouse=True)
def shared_compilations():
    """The module finds what others compiled before, and leaves to others what it compiles."""
    _link_entries(_shared, _own)
    yield
    _link_entries(_own, _shared)


# Longest first, so that no process is left with one of these when the others have nothing to do any more.
_LONGEST = (
    *("documentation", "transforms", "golden", "processes", "run", "encapnet_training", "crash_states", "fuzz"),
    *("cifar", "golden_encapnet", "kill_and_resume", "sharding", "wheel", "jax_settings", "convert", "loop"),
    *("recipes_matrix", "study", "convolution", "cpu_tuning", "page", "own_images", "image_formats", "power_cut"),
    *("scripts_and_streams", "foreign_folders", "interrupt", "trivial_augment", "step", "evaluation", "pytorch"),
    *("meshes_and_transforms", "augment", "two_writers", "claims", "widths", "weights", "quickstart", "benchmarks"),
)


# Modules with tests that are skipped without an extra.
_WITH_EXTRAS = (
    *("benchmarks", "convert", "conversion", "converted_checkpoints", "onnx", "optimizer", "pytorch", "schedule"),
    *("documentation", "search", "serve", "site", "track"),
)


@pytest.hookimpl(tryfirst=True)  # before the tests of other marks are left out
def pytest_collection_modifyitems(items):
    """Orders modules, each of which one process runs: it makes their fixtures and compiles their programs once."""
    order = {f"test_{name}": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if item.path.stem.removeprefix("test_") in _WITH_EXTRAS:
            item.add_marker("extra")


@pytest.fixture(scope="module")
def optimized():
    """Inside, programs are as fast as a user's, and rounded alike.

    They are those of processes that a test starts, and those of this process that ``optimized_jit`` compiles.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        patch.delenv("XLA_FLAGS")
        _disable_optimizations(False)
        yield
    _disable_optimizations(before)


def _disable_optimizations(disable):
    jax.config.update("jax_disable_most_optimizations", disable)
    jax.clear_caches()


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

# After the environment is set: these import jax.
import jax  # noqa: E402
from networks import pytorch_network, torch  # noqa: E402, F401
from path_fixtures import no_home  # noqa: E402, F401
from training_fixtures import evaluated, in_peace, tiny  # noqa: E402, F401

# Nothing of what was imported is garbage.
collect_rarely()
