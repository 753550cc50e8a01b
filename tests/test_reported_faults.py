"""Faults that users of such projects report: for each, its smallest input and the right value.

One test stands for one report. Tests of the same kind of fault elsewhere are beside the tests of the module concerned;
``tests/test_transforms.py`` holds what transforms and flags of JAX must not change.
"""

import contextlib
import dataclasses
import fcntl
import importlib.util
import json
import logging
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from command_fixtures import run_here
from cpu_devices import on_devices
from flax import nnx
from networks import random_network
from path_fixtures import obeying_permissions
from PIL import Image, PngImagePlugin
from training_fixtures import TINY, TINY_RUN, one_second_per_step, raise_at, records, settled

import seanet_jax
from seanet_jax import (
    Aggregate,
    ImageSpec,
    InputError,
    SEANet,
    SEANetConfig,
    SqueezeExcite,
    TrainConfig,
    create_model,
    fit,
    load,
)
from seanet_jax.commands import convert, evaluate
from seanet_jax.data import image_spec
from seanet_jax.data import load as load_dataset
from seanet_jax.data.augment import augment
from seanet_jax.errors import RunError
from seanet_jax.inference import evaluation, stablehlo
from seanet_jax.layers.functional import aggregate
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import PRESETS, EncapNet, EncapNetConfig, build, model_config
from seanet_jax.models.fold import fold_batch_norm
from seanet_jax.models.network import split_model
from seanet_jax.models.pytorch import read_pytorch, state_dict
from seanet_jax.training import images as training_images
from seanet_jax.training.interrupt import StoppedError
from seanet_jax.training.loop import Loop
from seanet_jax.training.run_folder import RunFolder

SMALL = SEANetConfig(stage_sizes=(1, 1), widths=(8, 16), stem_width=4, reduction=4)

# Together they start dozens of processes.
pytestmark = pytest.mark.slow


# ---- Nothing changes a training silently -----------------------------------------------------------------------------


def train_in_a_process(folder, *flags, **variables):
    """Trains on 16 digits, two steps an epoch, in a process of its own. Returns the records without the times."""
    command = "train --dataset digits --model resnet20 --epochs 2 --limit-train 16 --limit-test 10 --batch-size 8"
    subprocess.run(
        [sys.executable, "-m", "seanet_jax", *command.split(), "--out", folder, *flags],
        env=os.environ | variables,
        check=True,
    )
    return records(folder)


@pytest.fixture(scope="module")
def records_by_default(tmp_path_factory):
    """The records of two epochs under JAX's default settings."""
    return train_in_a_process(tmp_path_factory.mktemp("default") / "run")


# Together, because a process is expensive. If a run fixed all but one, its numbers would change, or it would fail.
SET_OTHERWISE = {
    **{"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
    "JAX_NUMPY_RANK_PROMOTION": "raise",
}


@pytest.mark.parametrize("variables", [SET_OTHERWISE, {"JAX_DISABLE_JIT": "1"}], ids=["most settings", "no jit"])
def test_the_same_seed_has_the_same_numbers_whatever_the_process_sets(tmp_path, records_by_default, variables):
    assert train_in_a_process(tmp_path / "run", **variables) == records_by_default


def test_a_run_resumed_in_a_process_set_otherwise_stays_the_same_run(tmp_path, records_by_default):
    train_in_a_process(tmp_path / "run", "--max-steps", "3")
    assert train_in_a_process(tmp_path / "run", "--resume", **SET_OTHERWISE) == records_by_default


def test_augmentation_is_the_same_with_64_bits():
    images, key = np.arange(64 * 32 * 32 * 3, dtype=np.uint8).reshape(64, 32, 32, 3), jax.random.key(0)
    expected = augment(key, jnp.asarray(images), flip=True)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(augment(key, jnp.asarray(images), flip=True), expected)


# ---- Scripts, interpreters and streams -------------------------------------------------------------------------------


SUPPORT = Path(__file__).parent / "support"


def in_a_shell(folder, script, **variables):
    """Runs a shell script in which $PYTHON is Python, and $TRAIN a program that trains a tiny network."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "PYTHONUNBUFFERED")
    }
    environment |= {"PYTHON": sys.executable, "TRAIN": str(SUPPORT / "tiny_experiment.py"), "PYTHONPATH": str(SUPPORT)}
    return subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def check_trained(run):
    assert json.loads((run / "summary.json").read_text())["finished"]


@pytest.mark.parametrize(
    "script", ['cat "$TRAIN" | "$PYTHON" - --out run', '"$PYTHON" - --out run <<END\n$(cat "$TRAIN")\nEND']
)
def test_a_program_that_python_reads_from_a_pipe_trains(script, tmp_path):
    done = in_a_shell(tmp_path, script)
    assert done.returncode == 0, done.stderr
    check_trained(tmp_path / "run")


def test_a_prompt_that_trains_keeps_its_variables(tmp_path):
    done = in_a_shell(
        tmp_path,
        """"$PYTHON" -i - --out run <<END
mine = 6 * 7
import runpy
try:
    runpy.run_path("$TRAIN", run_name="__main__")
except SystemExit as exit:
    print("status", exit.code)

print("mine is", mine)
END""",
    )
    assert "status 0\n" in done.stdout and "mine is 42\n" in done.stdout
    check_trained(tmp_path / "run")


def test_a_driver_that_trains_runs_once(tmp_path):
    driver = "print('prepared'); import os, runpy; runpy.run_path(os.environ['TRAIN'], run_name='__main__')"
    (tmp_path / "driver.py").write_text(driver)
    done = in_a_shell(tmp_path, '"$PYTHON" driver.py --out run')
    assert (done.returncode, done.stdout.count("prepared")) == (0, 1), done.stderr
    check_trained(tmp_path / "run")


@pytest.mark.parametrize("missing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_missing_stream_ends_no_training(missing, tmp_path):
    done = in_a_shell(tmp_path, f'"$PYTHON" "$TRAIN" --out run {missing}')
    assert (done.returncode, done.stderr) == (0, "")
    assert ("test accuracy" in done.stdout) == (missing == "2>&-")
    check_trained(tmp_path / "run")


@pytest.mark.parametrize("platform", ["cuda", "gpu", "nonsense"])
def test_a_platform_that_jax_lacks_is_one_sentence_before_anything_is_written(platform, tmp_path):
    if platform != "nonsense" and importlib.util.find_spec("jax_plugins"):
        pytest.skip("JAX has this platform here")
    done = in_a_shell(tmp_path, '"$PYTHON" "$TRAIN" --out run --require-gpu', JAX_PLATFORMS=platform)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: JAX_PLATFORMS is '{platform}', and JAX finds no such device here")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("encoding", "second"), [("cp1252", "café.png"), ("ascii", r"caf\xe9.png"), ("utf-8", "café.png")]
)
def test_a_name_is_printed_in_an_encoding_that_lacks_its_letters(encoding, second, tmp_path):
    model = settled(dataclasses.replace(SMALL, num_classes=2))
    model.save_pretrained(tmp_path / "weights", ImageSpec(8, 8, (0.5,) * 3, (0.2,) * 3, ("Käse", "猫")))
    (tmp_path / "pictures").mkdir()
    for name in ("café", "猫"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-m", "seanet_jax", "predict", "weights", "pictures"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    cat = "猫" if encoding == "utf-8" else r"\u732b"
    assert f"pictures/{second}\n" in shown and f"pictures/{cat}.png\n" in shown and f"  {cat}\n" in shown


def test_a_training_outlives_the_reader_of_its_output(tmp_path):
    done = in_a_shell(tmp_path, '{ "$PYTHON" "$TRAIN" --log-every 1 --out run; echo $? > status; } | head -n 1')
    assert (done.stdout.count("\n"), (tmp_path / "status").read_text()) == (1, "0\n")
    assert done.stderr == "warning: stdout cannot be written (Broken pipe); the work continues\n"
    check_trained(tmp_path / "run")


def test_a_training_outlives_a_full_disk_of_its_log(tmp_path):
    done = in_a_shell(tmp_path, '"$PYTHON" "$TRAIN" --log-every 1 --out run > /dev/full')
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: stdout cannot be written (No space left on device); the work continues\n"
    check_trained(tmp_path / "run")


def test_an_interrupt_removes_the_bar_before_anything_is_printed(tmp_path):
    ours, terminal = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "tiny_experiment.py", "--epochs", "2000", "--out", tmp_path / "run"],
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
    )
    os.close(terminal)
    shown, is_interrupted = b"", False
    with contextlib.suppress(OSError):  # Linux raises it where the output ends
        while part := os.read(ours, 65536):
            shown += part
            if not is_interrupted and b"epoch 3/2000:" in shown:
                is_interrupted = True
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(60) == 130
    *_, last = re.split(r"[\r\n]", shown.decode().rstrip())
    assert re.fullmatch(r"stopped by SIGINT at step \d+, of which a checkpoint is saved; .* continues from there", last)


# ---- Paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder in which the test works, in a home folder that is empty too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def network(tmp_path):
    """A folder of weights and an image for it."""
    names = tuple(map(str, range(TINY.num_classes)))
    settled(TINY).save_pretrained(tmp_path / "weights", ImageSpec(8, 8, (0.4,) * 3, (0.3,) * 3, names))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path / "weights", tmp_path / "red.png"


def _without_home(*arguments, **environment):
    """Runs ``seanet`` in a process of a user whom the system does not know, with no home folder."""
    code = (
        "import pwd, runpy\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
        "runpy.run_module('seanet_jax', run_name='__main__', alter_sys=True)"
    )
    hidden = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=300, check=False)


def test_without_a_home_folder_nothing_is_cached_and_one_line_says_so(network, place):
    done = _without_home("predict", *network)
    assert done.returncode == 0 and done.stdout.startswith(str(network[1]))
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("there is no home folder; name a folder with XDG_")
    assert not any(place.iterdir())


def test_without_a_home_folder_the_folder_of_the_data_is_asked_for(place):
    done = _without_home("train", "--max-steps", "1", "--no-compilation-cache", "--no-tune-cpu")
    assert done.returncode == 2
    assert done.stderr == (
        "error: there is no home folder that could hold the data set; name its folder with --data-dir\n"
    )
    assert not any(place.iterdir())


@pytest.fixture
def forbidden(place, network, in_peace, monkeypatch):
    """Files and folders that may not be read."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    weights, picture = network
    for name in ("weights of a closed config", "weights that are closed"):
        shutil.copytree(weights, name)
    for name in ("run", "run of closed checkpoints"):
        shutil.copytree(in_peace().out, name)
    shutil.copy(picture, "closed.png")
    shutil.copytree("run", "closed/run")
    closed = [Path("weights of a closed config/config.json"), Path("weights that are closed/model.safetensors")]
    closed += [Path("run/config.json"), Path("closed.png"), Path("closed")]
    closed += [path for path in Path("run of closed checkpoints/checkpoints").rglob("*") if path.is_file()]
    for path in closed:
        path.chmod(0)
    yield {"weights": weights, "picture": picture, "long": "a" * 300}
    for path in closed:
        path.chmod(0o700)


@pytest.mark.parametrize(
    "arguments",
    [
        "predict closed/run {picture}",
        "predict run {picture}",
        "predict {long} {picture}",
        "predict|weights of a closed config|{picture}",
        "predict|weights that are closed|{picture}",
        "predict|run of closed checkpoints|{picture}",
        "predict {weights} closed/x.png",
        "predict {weights} closed.png",
        "predict {weights} closed",
        "predict {weights} {long}.png",
        "predict {weights} {picture} --sheet closed/x.png",
        "predict {weights} {picture} --sheet {long}.png",
        "evaluate closed/run",
        "evaluate run",
        "evaluate {long}",
        "export closed/run x.stablehlo",
        "export {weights} closed/x.stablehlo",
        "export {weights} {long}.stablehlo",
        "convert closed/x.pth x",
        "convert {long} x",
        "convert {weights} closed/x.pth",
        "convert|run of closed checkpoints|x",
        "train --dataset digits --out closed/run",
        "train --dataset digits --out {long}",
        "train --dataset digits --resume --out run",
        "train --data-dir closed/data --out new",
        "train --data-dir {long} --out new",
        "compare --dataset digits --out closed/study",
        "ablate --dataset digits --out {long}",
        "analyze closed/run run",
        "analyze {long} run",
    ],
)
def test_what_may_not_be_read_is_refused_in_one_sentence(arguments, forbidden, place, monkeypatch, capsys):
    command, *flags = arguments.split("|") if "|" in arguments else arguments.split()
    before = sorted(place.rglob("*"))
    with obeying_permissions():
        status, out, error = run_here(command, [flag.format(**forbidden) for flag in flags], monkeypatch, capsys)
    assert status == 2 and (not out or out.startswith("device: "))
    why = "File name too long" if "long" in arguments else "Permission denied"
    assert re.fullmatch(rf"error: .* cannot be read (as an image )?\({why}\)[^\n]*\n", error)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "train --dataset digits --out gs://bucket/run",
        "train --out run --data-dir s3://bucket/data",
        "convert {weights} s3://bucket/w.pth",
        "convert hf://owner/name run",
        "predict gs://bucket/run {picture}",
        "predict {weights} https://example.org/cat.png",
        "predict {weights} {picture} --sheet gs://bucket/x.png",
        "evaluate gs://bucket/run",
        "export {weights} gs://bucket/x.stablehlo",
        "export gs://bucket/run x.stablehlo",
        "compare --out gs://bucket/study",
        "ablate --out gs://bucket/study",
        "analyze gs://bucket/one gs://bucket/two",
    ],
)
def test_a_url_is_refused_before_anything_is_written(arguments, network, place, monkeypatch, capsys):
    command, *flags = arguments.format(weights=network[0], picture=network[1]).split()
    status, out, error = run_here(command, flags, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: (\w+: )?\w+:/\S+ is a URL; only local folders and files can be used\n", error)
    assert not any(place.iterdir())


def test_a_url_in_the_environment_is_refused_before_anything_is_written(place, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    status, _, error = run_here("train", ["--out", "run"], monkeypatch, capsys)
    assert status == 2
    assert error == "error: TFDS_DATA_DIR: gs://bucket/data is a URL; only local folders and files can be used\n"
    assert not any(place.iterdir())


def test_the_home_folder_is_expanded_and_a_string_is_a_path(tiny, place, monkeypatch, capsys):
    flags = ["--dataset", "digits", "--model", "tiny", "--batch-size", "8", "--epochs", "1", "--out=~/runs/x"]
    status, _, _ = run_here("train", flags, monkeypatch, capsys)
    assert status == 0 and (Path.home() / "runs/x/summary.json").is_file()
    assert not any(place.iterdir())
    assert load("~/runs/x", "latest").step == 5
    fit(TrainConfig(out="runs/y", **(TINY_RUN | {"epochs": 1})))
    assert (place / "runs/y/summary.json").is_file() and load("runs/y", "latest").step == 5


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there is no /dev/fd")
def test_an_image_is_read_from_a_pipe(network, monkeypatch, capsys):
    weights, picture = network
    reader, writer = os.pipe()
    os.write(writer, picture.read_bytes())
    os.close(writer)
    status, piped, _ = run_here("predict", [weights, f"/dev/fd/{reader}"], monkeypatch, capsys)
    os.close(reader)
    assert status == 0
    _, named, _ = run_here("predict", [weights, picture], monkeypatch, capsys)
    assert piped.splitlines()[1:] == named.splitlines()[1:]


# ---- Modules in other people's projects ------------------------------------------------------------------------------


def images(count, size=8, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


def test_an_evaluation_view_of_flax_equals_eval():
    model, x = SEANet(SMALL, rngs=nnx.Rngs(0)), images(8)
    model(x)
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    view = nnx.view(model, use_running_average=True)
    found = view(x)
    chex.assert_trees_all_close(view(x[:2]), found[:2], rtol=1e-5)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), before)
    model.eval()
    chex.assert_trees_all_equal(model(x), found)


def test_a_saved_backbone_gets_a_classifier_and_trains(tmp_path):
    SEANet(SMALL, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "trained")
    SEANet.from_pretrained(tmp_path / "trained", num_classes=0).save_pretrained(tmp_path / "backbone")
    backbone = SEANet.from_pretrained(tmp_path / "backbone")
    backbone.classifier = nnx.Linear(backbone.num_features, 5, rngs=nnx.Rngs(1))
    backbone.train()
    optimizer = nnx.Optimizer(backbone, optax.sgd(0.1), wrt=nnx.Param)
    labels = jnp.arange(8) % 5

    @nnx.jit
    def step(model, optimizer, x):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    before = np.asarray(backbone.classifier.kernel[...])
    losses = [float(step(backbone, optimizer, images(8))) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0] and (backbone.classifier.kernel[...] != before).all()
    backbone.eval()
    expected = backbone(images(3))
    chex.assert_shape(expected, (3, 5))
    backbone.save_pretrained(tmp_path / "new")
    for again in (nnx.merge(*nnx.split(backbone)), nnx.clone(backbone), SEANet.from_pretrained(tmp_path / "new")):
        chex.assert_trees_all_equal(again(images(3)), expected)


@pytest.mark.parametrize(
    ("network", "config"),
    [(SEANet, SMALL), (EncapNet, EncapNetConfig(widths=(8, 8, 16, 16), stem_width=8, groups=4, image_size=8))],
    ids=["SEANet", "EncapNet"],
)
def test_the_two_largest_scores_of_a_bfloat16_network_do_not_tie(network, config):
    def changed(dtype):
        model = network(dataclasses.replace(config, num_classes=100, dtype=dtype), rngs=nnx.Rngs(0))
        model.eval()
        return model

    model, x = changed("bfloat16"), images(400)
    eager = model(x)
    ties = {dtype: ties_of_the_largest(changed(dtype)(x)) for dtype in ("float32", "bfloat16")}
    assert eager.dtype == jnp.float32 and ties["bfloat16"] <= ties["float32"]
    # The classifier adds no rounding of its own: on the same features, eager and jit agree on every image.
    graphdef, state = nnx.split(model.classifier)
    key = "pooled" if network is SEANet else "capsules"
    features = model.features(x)[key]
    compiled = jax.jit(lambda state, features: nnx.merge(graphdef, state)(features))(state, features)
    np.testing.assert_array_equal(compiled.argmax(-1), eager.argmax(-1))
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def ties_of_the_largest(scores):
    """Returns the number of images whose two largest scores are equal."""
    largest = jnp.sort(scores, axis=-1)
    return int((largest[:, -1] == largest[:, -2]).sum())


def test_a_float64_batch_leaves_running_statistics_in_float32():
    with jax.enable_x64(True):
        norm = BatchNorm(4)
        assert norm(jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)))).dtype == jnp.float64
        chex.assert_type([norm.mean[...], norm.var[...]], jnp.float32)


def test_statistics_are_averaged_over_a_named_axis_as_flax_does():
    x = images(8).reshape(2, 4, 8, 8, 3)
    found = []
    for norm in (BatchNorm(3, axis_name="data"), nnx.BatchNorm(3, axis_name="data", rngs=nnx.Rngs(0))):
        graphdef, state = nnx.split(norm)
        apply = jax.vmap(lambda x, g=graphdef, s=state: nnx.merge(g, s, copy=True)(x), axis_name="data")
        found.append(apply(x))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
    whole = BatchNorm(3)(x.reshape(8, 8, 8, 3)).reshape(x.shape)
    np.testing.assert_allclose(found[0], whole, rtol=1e-5, atol=1e-5)


def test_numpys_numbers_are_sizes_and_rates():
    model = create_model("resnet20", num_classes=np.int64(10), rngs=nnx.Rngs(0))
    assert type(model.config.num_classes) is int
    assert Aggregate(np.int64(4)).factor == 4 and aggregate(jnp.ones((1, 8)), np.int32(4)).shape == (1, 2)
    SqueezeExcite(np.int64(8), np.int64(2), rngs=nnx.Rngs(0))
    spec = ImageSpec(np.int64(8), np.int32(8), (np.float32(0.5),), (np.float64(0.25),), ("a",))
    assert [type(value) for value in (spec.height, spec.width, *spec.mean, *spec.std)] == [int, int, float, float]
    config = TrainConfig(learning_rate=np.float32(0.5), seed=np.int64(3), decay_every=None, decay_at=(np.int64(2),))
    plain = TrainConfig(learning_rate=0.5, seed=3, decay_every=None, decay_at=(2,))
    assert json.dumps(config.to_json()) == json.dumps(plain.to_json())


def test_the_saved_number_of_classes_keeps_a_trained_classifier(tmp_path):
    model = SEANet(SMALL, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path)
    again = seanet_jax.models.from_pretrained(tmp_path, num_classes=SMALL.num_classes)
    chex.assert_trees_all_equal(again.classifier.kernel[...], model.classifier.kernel[...])


# ---- Operations under transforms, flags and meshes -------------------------------------------------------------------


def on_two_devices(how):
    """Returns how much operations and networks on two CPU devices differ from one device, relative, by name."""
    done = on_devices(2, "operations_on_two_devices.py", how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gradients_inside_shard_map_are_those_of_one_device():
    found = on_two_devices("shard_map")
    assert {"conv2d winograd", "preactivated", "transport_divergence"} <= found.keys()
    assert max(found.values()) < 1e-4, found


def test_operations_and_networks_run_under_an_explicit_mesh():
    found = on_two_devices("explicit")
    assert {"conv2d winograd", "preactivated", "train", "augment"} <= found.keys()
    assert max(found.values()) < 1e-4, found


@pytest.mark.parametrize("name", ["seanet", "encapnet"])
def test_training_needs_no_promotion_of_ranks_or_dtypes(name):
    configs = {
        "seanet": SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=4),
        "encapnet": EncapNetConfig(
            widths=(8, 8, 8, 8), stem_width=8, groups=4, image_size=8, aide=True, agreement=True, conv_method="patches"
        ),
    }
    graphdef, params, stats = split_model(build(configs[name], rngs=nnx.Rngs(0)))
    key, labels = jax.random.key(0), jnp.arange(4)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        network = nnx.merge(graphdef, params, stats)
        pixels = augment(key, images, flip=True).astype(jnp.float32) / 255
        scores, agreement = network.training_scores(pixels)
        return network.config.scores.loss(scores, labels).mean() + agreement

    expected = loss(params)
    loss.clear_cache()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = loss(params)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_an_exported_network_is_that_of_the_platform_asked_for(platform):
    model = create_model("seanet20", stage_sizes=(1,), widths=(16,), stem_width=16, reduction=4, rngs=nnx.Rngs(0))
    model.eval()
    artifact = jax.export.export(jax.jit(lambda x: model(x)), platforms=[platform])(jnp.ones((4, 16, 16, 3)))
    text = artifact.mlir_module()
    # The stem's and, on CUDA, the block's two, which are of one shape and lowered once. On a CPU they are Winograd's.
    assert text.count("stablehlo.convolution") == {"cpu": 1, "cuda": 2}[platform]


def test_a_network_is_exported_for_images_of_any_size():
    model = create_model("seanet20", stage_sizes=(1, 1), widths=(16, 32), stem_width=16, reduction=4, rngs=nnx.Rngs(0))
    model.eval()
    batch, height, width = jax.export.symbolic_shape("batch, height, width")
    shape = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    artifact = jax.export.export(jax.jit(lambda x: model(x)))(shape)
    for size in ((2, 16, 16, 3), (1, 9, 14, 3)):
        x = jax.random.normal(jax.random.key(0), size)
        np.testing.assert_allclose(artifact.call(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_network_evaluates_outside_jit_without_transfers_to_the_device():
    model = create_model("seanet20", stage_sizes=(1, 1), widths=(8, 8), stem_width=4, reduction=2, rngs=nnx.Rngs(0))
    model.eval()
    x = jnp.ones((2, 8, 8, 3))
    with jax.transfer_guard("disallow"):
        scores = jax.block_until_ready(model(x))
    np.testing.assert_allclose(scores, jax.jit(lambda x: model(x))(x), rtol=1e-4, atol=1e-4)


def test_squeeze_excitation_of_one_map_is_that_of_a_batch():
    module = SqueezeExcite(8, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 8))
    batched = module(x)
    np.testing.assert_allclose(module(x[0]), batched[0], rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(module)(x), batched, rtol=1e-5)


# ---- Converted checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def saved_by_torch(torch):
    """PyTorch, and the state dict of a network as arrays and as tensors."""
    arrays = state_dict(random_network(TINY))
    return torch, arrays, {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model.module._orig_mod."]
)
@pytest.mark.parametrize("averaged", [False, True])
def test_a_wrapped_network_is_read(saved_by_torch, prefix, averaged, tmp_path):
    torch, arrays, saved = saved_by_torch
    content = {prefix + name: tensor for name, tensor in saved.items()}
    if averaged:  # as torch.optim.swa_utils.AveragedModel saves it
        content = {"n_averaged": torch.tensor(3)} | {f"module.{name}": tensor for name, tensor in content.items()}
    torch.save(content, tmp_path / "model.pth")
    chex.assert_trees_all_equal(state_dict(read_pytorch(tmp_path / "model.pth").model), arrays)


def test_parameters_are_read_bit_for_bit(saved_by_torch, tmp_path):
    torch, arrays, saved = saved_by_torch
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in saved.items()}, tmp_path / "model.pth")
    chex.assert_trees_all_equal(state_dict(read_pytorch(tmp_path / "model.pth").model), arrays)


def test_a_pre_activated_network_is_called_so(saved_by_torch, tmp_path):
    torch, _, saved = saved_by_torch
    content = {name: tensor for name, tensor in saved.items() if "downsample.1" not in name}
    for layer in ("layer1.0", "layer2.0"):
        channels = saved[f"{layer}.conv1.weight"].shape[1]
        content |= {f"{layer}.bn1.{name}": torch.ones(channels) for name in _NORMALIZATION}
    content |= {f"bn1.{name}": torch.ones(4) for name in _NORMALIZATION}  # after the last stage
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match="is of a pre-activated network, and those cannot be converted"):
        read_pytorch(tmp_path / "model.pth")


_NORMALIZATION = ("weight", "bias", "running_mean", "running_var")


def test_a_published_checkpoint_tells_its_accuracy(torch, pytorch_network, tmp_path, monkeypatch, capsys):
    """A checkpoint like the release's is converted and evaluated. The accuracy is the one that PyTorch measures."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    torch.manual_seed(0)
    network = pytorch_network(model_config("tiny", num_classes=10))
    dataset = load_dataset("digits")
    images = torch.tensor(np.asarray(dataset.image_spec.normalize(dataset.test_images))).permute(0, 3, 1, 2)
    network.train()(images)  # so that the running statistics are those of such images
    network.eval()
    with torch.no_grad():
        accuracy = (network(images).argmax(1).numpy() == dataset.test_labels).mean()
    saved = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).state_dict()
    checkpoint = {"epoch": 2, "state_dict": saved, "optimizer": sgd, "best_acc1": torch.tensor(100 * accuracy)}
    torch.save(checkpoint, tmp_path / "best_model.pth")

    monkeypatch.chdir(tmp_path)
    words = "tiny on digits, converted from best_model.pth, not trained here (step 44), 359 test images\n"
    for arguments, printed in (
        ("convert best_model.pth runs/published --dataset digits", "to evaluate: seanet evaluate runs/published\n"),
        ("evaluate runs/published", words),
        ("convert runs/published weights/published", "weights/published: "),
        ("evaluate weights/published --dataset digits", "tiny on digits, pretrained weights, 359 test images\n"),
    ):
        command, *rest = arguments.split()
        monkeypatch.setattr(sys, "argv", [f"seanet {command}", *rest])
        {"convert": convert, "evaluate": evaluate}[command].run()
        assert printed in capsys.readouterr().out
    for folder in ("runs", "weights"):
        about = json.loads((tmp_path / folder / "published" / "evaluation" / "evaluation.json").read_text())
        assert about["top_1_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert "converted from best_model.pth, not trained here" in (tmp_path / "runs/published/report.html").read_text()


def test_the_evaluation_of_one_image_has_no_empty_rows(tmp_path):
    random_network(dataclasses.replace(TINY, num_classes=10)).save_pretrained(tmp_path, image_spec("digits"))
    one = load_dataset("digits").limit(10, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seanet_jax.training.images.load", lambda name, data_dir, mapped: one)
        printed = evaluation.text(evaluation.evaluate(tmp_path, dataset="digits"))
    assert ", 1 test image\n" in printed and "most confused" in printed
    assert all(len(line.split("  ")) > 2 for line in printed.splitlines()[1:]), printed
    assert "best classes" not in printed and "worst classes" not in printed


@pytest.mark.parametrize("is_wrong", [False, True])
def test_an_exported_network_with_saturated_probabilities_is_checked(is_wrong, tmp_path, monkeypatch):
    config = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=2, num_classes=3)
    network, images = settled(config), ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ("cat", "dog", "cow"))
    network.classifier.kernel[...] *= 1e4
    network.save_pretrained(tmp_path / "weights", images)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert set(np.unique(stablehlo.probabilities(network, images)(pixels))) <= {0, 1}, "not saturated"

    def changed(model):
        folded = fold_batch_norm(model)
        folded.classifier.kernel[...] *= 1.01 if is_wrong else 1
        return folded

    monkeypatch.setattr(stablehlo, "fold_batch_norm", changed)
    out = tmp_path / "net.stablehlo"
    if is_wrong:
        with pytest.raises(RunError, match=r"logits and probabilities differ from the network's by up to 1\.0e-02"):
            stablehlo.write(tmp_path / "weights", out)
        assert not out.exists()
    else:
        stablehlo.write(tmp_path / "weights", out)
        about = json.loads((tmp_path / "net.stablehlo.json").read_text())
        assert 0 < about["verified"]["largest_relative_difference"] < 1e-4


# ---- Files under several hands ---------------------------------------------------------------------------------------


def _refuse(word):
    raise AssertionError(f"{word} is not JSON")


def test_files_of_a_run_that_diverged_are_json_and_its_evaluation_is_one_sentence(tiny):
    config = tiny(learning_rate=1e30, on_nan="continue", epochs=1)
    fit(config)
    line = json.loads((config.out / "metrics.jsonl").read_text(), parse_constant=_refuse)
    summary = json.loads((config.out / "summary.json").read_text(), parse_constant=_refuse)
    assert line["test_loss"] is None and summary["last"]["test_loss"] is None
    (record,) = RunFolder(config.out).read_records()
    assert math.isnan(record["test_loss"]) and record["test_accuracy"] == line["test_accuracy"]
    assert fit(dataclasses.replace(config, resume=True)) == summary
    with pytest.raises(InputError, match="the network's logits are NaN or infinite"):
        evaluation.evaluate(config.out)


def test_two_processes_write_one_file_and_a_third_reads_only_whole_ones(tmp_path):
    path, size = tmp_path / "evaluation.json", 20_000
    path.write_text("a" * size)
    write = (
        "import pathlib, sys; from seanet_jax.durable import write_whole\n"
        f"for _ in range(50): write_whole(pathlib.Path(sys.argv[1]), sys.argv[2] * {size})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", write, path, letter]) for letter in "bc"]
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == size and len(set(text)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_starts_while_others_ask_whether_its_folder_is_in_use(tmp_path):
    config, folder = TrainConfig(dataset="digits", out=tmp_path), RunFolder(tmp_path)
    with folder.locked(config):
        pass
    ask = (
        "import sys; from seanet_jax.training.run_folder import RunFolder; print(flush=True)\n"
        "while True: RunFolder(sys.argv[1]).in_use()"
    )
    asking = [subprocess.Popen([sys.executable, "-c", ask, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in asking:
            process.stdout.readline()
        for _ in range(100):
            with folder.locked(config):
                assert folder.in_use()
        assert [process.poll() for process in asking] == [None, None]
    finally:
        for process in asking:
            process.kill()
            process.communicate()


def test_the_training_time_of_a_run_stopped_inside_an_epoch_is_that_of_both_processes(tiny, monkeypatch):
    one_second_per_step(monkeypatch)
    config = tiny(checkpoint_steps=2)
    with monkeypatch.context() as patch:
        raise_at(patch, (Loop, "_report"), 2, signal.SIGTERM)
        with pytest.raises(StoppedError):
            fit(config)
    (stop,) = [int(path.name) for path in (config.out / "checkpoints").iterdir()]
    assert 0 < stop < 5
    assert fit(dataclasses.replace(config, resume=True))["training_seconds"] == 15


def test_evaluation_reads_the_images_from_where_the_run_read_them(tiny, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    config = tiny(epochs=1, data_dir=tmp_path / "data")
    fit(config)
    asked, real = [], training_images.load
    monkeypatch.setattr(
        training_images, "load", lambda name, data_dir, mapped: asked.append(data_dir) or real(name, data_dir, mapped)
    )
    evaluation.evaluate(config.out)
    evaluation.evaluate(config.out, data_dir=tmp_path)
    assert asked == [tmp_path / "data", tmp_path]


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("config", {"mixout": 0.2}, "has the field mixout, which seanet_jax"),
        ("model_config", {"depth": 3}, "has the field depth, which seanet_jax"),
        (
            "model_config",
            {"model_type": "vit"},
            "is of the model_type 'vit'; it must be seanet or encapnet, or one of a plugin",
        ),
    ],
)
def test_a_run_of_a_newer_version_or_a_plugin_is_one_sentence(tiny, in_peace, tmp_path, part, fields, words):
    shutil.copy(in_peace().out / "config.json", tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about[part] |= fields
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert f"{tmp_path}/config.json {words}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_of_the_package_without_metadata_trains_evaluates_and_exports(tmp_path):
    shutil.copytree(
        Path(seanet_jax.__file__).parent, tmp_path / "seanet_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "program.py").write_text(
        """
import importlib.metadata

def find(name, real=importlib.metadata.distribution):
    if name in ("seanet-jax", "optax"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.distribution = find

if __name__ == "__main__":
    from pathlib import Path
    from seanet_jax import PRESETS, SEANetConfig, TrainConfig, fit
    from seanet_jax.inference import evaluation, stablehlo

    PRESETS["tiny"] = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=4, aggregate_factor=2)
    limits = dict(max_steps=1, limit_train=16, limit_test=10, batch_size=8)
    versions = fit(TrainConfig(dataset="digits", model="tiny", out="run", **limits))["versions"]
    assert versions["seanet-jax"] == "VERSION" and "optax" not in versions and "jax" in versions, versions
    evaluation.evaluate("run")
    stablehlo.write("run", Path("run.stablehlo"))
""".replace("VERSION", seanet_jax.__version__)
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run.stablehlo").exists()


def test_loading_a_run_leaves_a_program_its_log_of_orbax_and_its_hooks(tiny):
    config = tiny(epochs=1)
    fit(config)
    before = _process_settings()
    load(config.out)
    assert _process_settings() == before
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        path = str(Path(orbax.checkpoint.__file__).with_name("checkpoint_manager.py"))
        logger.handle(logging.LogRecord("absl", logging.ERROR, path, 1, "the program's own save failed", None, None))
    finally:
        logger.removeHandler(handler)
    assert heard == ["the program's own save failed"]


def _process_settings():
    filters = [list(logging.getLogger(name).filters) for name in ("absl", "asyncio")]
    return filters, list(warnings.filters), sys.unraisablehook


# ---- Pictures and weights of others ----------------------------------------------------------------------------------


def _weights(folder):
    """A folder of the weights of a small network for images of 8x8 pixels."""
    config = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, num_classes=2)
    images = ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ("dark", "bright"))
    SEANet(config, rngs=nnx.Rngs(0)).save_pretrained(folder, images)
    return folder


def _predict(*arguments):
    command = [sys.executable, "-m", "seanet_jax", "predict", *map(str, arguments), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_with_files_that_pillow_only_identifies_is_classified(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    for name, content in [
        ("clip.mpg", b"\0\0\1\xb3\x14\0\xf0" + bytes(99)),
        ("data.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)),
        ("data.grib", b"GRIB\0\0\0\1" + bytes(99)),
        ("data.bufr", b"BUFR" + bytes(99)),
        ("old.wmf", b"\xd7\xcd\xc6\x9a\0\0" + bytes(99)),
    ]:
        (pictures / name).write_bytes(content)
    done = _predict(_weights(tmp_path / "weights"), pictures)
    assert (done.returncode, done.stderr) == (0, "")
    assert [entry["path"] for entry in json.loads(done.stdout)] == [str(pictures / "a.png")]
    done = _predict(tmp_path / "weights", pictures / "clip.mpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "clip.mpg cannot be read as an image (its format is none of AVIF, BMP, GIF, JPEG," in done.stderr


def test_one_broken_image_does_not_end_a_hundred(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(99):
        Image.new("RGB", (8, 8), (number, number, number)).save(pictures / f"{number:02}.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG")
    done = _predict(_weights(tmp_path / "weights"), pictures)
    entries = json.loads(done.stdout)
    assert done.returncode == 1 and len(entries) == 100
    assert [entry["path"] for entry in entries if "error" in entry] == [str(pictures / "broken.png")]
    assert all(len(entry["predictions"]) == 2 for entry in entries if "error" not in entry)
    first, last = done.stderr.splitlines()
    assert first == f"error: {entries[-1]['error']}"
    assert last == "error: 1 of 100 images could not be read; the others were classified"


def test_an_image_is_not_refused_for_its_comment(tmp_path):
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", "x" * 1_500_000, zip=True)
    for name, options in [("with.png", {"pnginfo": comment}), ("without.png", {})]:
        Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / name, **options)
    done = _predict(_weights(tmp_path / "weights"), tmp_path / "with.png", tmp_path / "without.png")
    assert (done.returncode, done.stderr) == (0, "")
    one, other = json.loads(done.stdout)
    assert one["predictions"] == other["predictions"]


def _change_config(folder, **fields):
    about = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stage_sizes": [10**4]}, "stages.0.blocks.1.conv1.kernel is missing"),
        ({"stage_sizes": [1] * 10**6, "widths": [8] * 10**6}, "stage_sizes has 1,000,000 blocks"),
        ({"widths": [10**9]}, "more than 2,147,483,647"),
        ({"model_type": "vit"}, "is of the model_type 'vit'; it must be seanet or encapnet"),
        ({"hidden_size": 768}, "has the field hidden_size, which seanet_jax"),
    ],
)
def test_a_hostile_config_of_weights_is_one_sentence(tmp_path, fields, words):
    _change_config(_weights(tmp_path / "weights"), **fields)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "weights")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_json_nested_a_thousand_deep_is_one_sentence(tmp_path):
    (_weights(tmp_path / "weights") / "config.json").write_text('{"a":' * 1000 + "1" + "}" * 1000)
    with pytest.raises(InputError, match=r"config\.json is damaged \(it is nested more than 50 levels deep\)"):
        load(tmp_path / "weights")


def test_weights_of_eight_bits_are_one_sentence(tmp_path):
    path = _weights(tmp_path / "weights") / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = 0
    for name in header.keys() - {"__metadata__"}:
        start, end = end, end + math.prod(header[name]["shape"])
        header[name] |= {"dtype": "F8_E4M3", "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    with pytest.raises(InputError, match=r"model\.safetensors has numbers of fewer than 16 bits: .* is F8_E4M3"):
        load(tmp_path / "weights")


def test_a_large_image_takes_memory_for_itself_and_no_copies(tmp_path):
    # 16-bit gray of 36 megapixels: 72 MB in memory. Integers and floats of 64 bits took 576 MB more.
    Image.fromarray(np.full((6000, 6000), 0x8080, np.uint16)).save(tmp_path / "gray.png")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from seanet_jax import ImageSpec\n"
        "from seanet_jax.data.image_file import open_image, to_pixels\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_image(Path(sys.argv[1])) as image:\n"
        "    pixels = to_pixels(image, ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ('a',)))\n"
        "assert (pixels == 128).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "gray.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 140_000
