import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from training_fixtures import NAMES, TINY, assert_same_run, made_dataset, small

from seanet_jax import jax_settings
from seanet_jax.commands.cpu_tuning import XLA
from seanet_jax.inference import stablehlo
from seanet_jax.inference.evaluation import evaluate
from seanet_jax.models import EncapNetConfig, build
from seanet_jax.training.run import fit

ENCAPNET = EncapNetConfig(widths=(4, 4, 8, 8), stem_width=4, groups=4, image_size=16)

# For each setting that a run fixes, a value with which JAX draws other numbers or refuses something.
OTHER_VALUES = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_softmax_custom_jvp": True,
    "jax_disable_jit": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_transfer_guard": "disallow",
}
# For each setting that a run records, a value that is not JAX's default.
RECORDED_VALUES = {
    "jax_default_matmul_precision": "highest",
    "jax_disable_most_optimizations": True,
    "jax_optimization_level": "O1",
    "jax_exec_time_optimization_effort": 0.5,
    "jax_memory_fitting_level": "O1",
    "jax_memory_fitting_effort": 0.5,
    "jax_compiler_enable_remat_pass": False,
    "jax_use_direct_linearize": False,
    "jax_use_hlo_logistic_lowering": True,
    "jax_accurate_erf_inv": True,
    "jax_error_checking_behavior_nan": "raise",
    "jax_error_checking_behavior_divide": "raise",
    "jax_error_checking_behavior_oob": "raise",
}


@contextlib.contextmanager
def setting(name, value):
    """Sets JAX for the whole process, as an environment variable does."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def settings(values):
    """Sets JAX for the whole process, as several environment variables do."""
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(setting(name, value))
        yield


def test_every_setting_of_the_list_is_tried():
    assert OTHER_VALUES.keys() == jax_settings._FIXED.keys()
    assert RECORDED_VALUES.keys() == jax_settings._RECORDED.keys()


# All at once, as each run takes seconds, but for the one that people set.
@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [["jax_enable_x64"], OTHER_VALUES.keys() - {"jax_enable_x64"}],
    ids=["64 bits", "the others"],
)
def test_a_run_under_other_settings_has_the_same_numbers_and_says_so(tiny, in_peace, capsys, names):
    expected, config = in_peace(), tiny()
    capsys.readouterr()
    with settings({name: OTHER_VALUES[name] for name in names}):
        fit(config)
        assert all(jax.config.values[name] == OTHER_VALUES[name] for name in names)
    said = capsys.readouterr().out
    assert all(f"{name} is {OTHER_VALUES[name]} in this process; every run trains with " in said for name in names)
    assert_same_run(expected, config)


@pytest.mark.slow
def test_an_evaluation_and_an_export_do_not_depend_on_settings(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    found = []
    # A loop, as an artifact holds the lines of the code that called for it.
    for values in ({}, OTHER_VALUES):
        with small(made_dataset(class_names=NAMES)), settings(values):
            stablehlo.write(tmp_path / "run", artifact := tmp_path / f"{len(values)}.stablehlo")
            found.append((evaluate(tmp_path / "run"), artifact.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_run_resumed_under_another_setting_has_the_same_numbers(tiny, in_peace):
    config = tiny(max_steps=8)
    fit(config)
    with setting("jax_enable_x64", True), setting("jax_default_prng_impl", "rbg"):
        fit(dataclasses.replace(config, max_steps=None, resume=True))
    assert_same_run(in_peace(), config)


@pytest.mark.slow
def test_a_seed_offset_of_the_process_changes_no_run(tiny, in_peace):
    config = tiny()
    with setting("jax_random_seed_offset", 3):
        fit(config)
    assert_same_run(in_peace(), config)


def test_the_settings_of_the_process_return_after_a_run_and_after_an_error():
    before = dict(jax.config.values)
    with setting("jax_enable_x64", True):
        with jax_settings.fixed():
            assert not jax.config.jax_enable_x64
        with pytest.raises(ZeroDivisionError), jax_settings.fixed():
            raise ZeroDivisionError
        assert jax.config.jax_enable_x64
    assert dict(jax.config.values) == before


def test_nothing_is_overruled_by_default():
    assert jax_settings.overruled() == {}


def test_the_pairs_are_the_value_of_the_process_and_that_of_a_run():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert jax_settings.overruled() == {
            "jax_enable_x64": (True, False),
            "jax_numpy_dtype_promotion": ("strict", "standard"),
        }


@pytest.mark.parametrize("name", RECORDED_VALUES)
def test_a_setting_that_rounds_is_recorded_where_it_is_not_the_default(name):
    if name not in jax.config.values:
        pytest.skip("this version of JAX does not have the setting")
    with setting(name, jax_settings._RECORDED[name]):
        assert name not in jax_settings.recorded()
    with setting(name, RECORDED_VALUES[name]):
        assert jax_settings.recorded()[name] == str(RECORDED_VALUES[name])


def changes(config):
    return json.loads((config.out / "config.json").read_text())["resumed"][-1]["changed"]


@pytest.mark.slow
def test_a_resume_says_which_setting_rounds_otherwise(tiny, capsys):
    config = tiny(epochs=1)
    fit(config)
    with jax.default_matmul_precision("highest"):
        fit(dataclasses.replace(config, epochs=2, resume=True))
    line = "jax_default_matmul_precision: unset was saved, highest is in use"
    assert f"results may be rounded differently from here on ({line})" in capsys.readouterr().out
    assert line in changes(config)
    fit(dataclasses.replace(config, epochs=3, resume=True), compiler_options=XLA)
    assert {
        "jax_default_matmul_precision: highest was saved, unset is in use",
        *(f"{name}: unset was saved, {value} is in use" for name, value in XLA.items()),
    } <= set(changes(config))


@pytest.mark.slow
def test_a_run_without_a_record_resumes_as_if_it_had_had_the_defaults_of_jax(tiny, capsys):
    config = tiny(epochs=1)
    fit(config)
    file = config.out / "config.json"
    file.write_text(json.dumps({n: v for n, v in json.loads(file.read_text()).items() if n != "environment"}))
    with setting("jax_disable_most_optimizations", False), jax.default_matmul_precision("highest"):
        fit(dataclasses.replace(config, epochs=2, resume=True))
    line = "jax_default_matmul_precision: unset was saved, highest is in use"
    assert f"from here on ({line})" in capsys.readouterr().out
    assert changes(config) == ["epochs: 1 was saved, 2 is asked", line]


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_the_key_of_a_seed_is_that_of_jax_by_default(seed):
    expected = jax.random.key(seed)
    with setting("jax_random_seed_offset", 3), setting("jax_default_prng_impl", "rbg"), jax.enable_x64(True):
        key = jax_settings.key_from_seed(seed)
    assert key.dtype == expected.dtype
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))


@pytest.mark.parametrize("config", [TINY, pytest.param(ENCAPNET, marks=pytest.mark.slow)], ids=["SEANet", "EncapNet"])
def test_initial_parameters_do_not_depend_on_64_bits(config):
    key = jax.random.key(0)
    expected = nnx.to_pure_dict(nnx.state(build(config, rngs=nnx.Rngs(key))))
    with jax.enable_x64(True):
        found = nnx.to_pure_dict(nnx.state(build(config, rngs=nnx.Rngs(key))))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]
