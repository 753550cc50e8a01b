"""Networks come from PyTorch's files and go back, and train on: seanet convert."""

import collections
import dataclasses
import errno
import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import chex
import golden_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import TINY, made_dataset, records

from seanet_jax import InputError, SEANet, SEANetConfig
from seanet_jax.commands.convert import convert, from_state_dict, read_pytorch, state_dict, write_run
from seanet_jax.data import image_spec
from seanet_jax.errors import RunError
from seanet_jax.inference.trained import load, load_model
from seanet_jax.models import PRESETS, model_config, weights
from seanet_jax.models.scores import cross_entropy
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import parse, parse_conversion
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import create_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[convert]'")


@pytest.fixture
def opponent(torch, monkeypatch):
    """The network in PyTorch."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from pytorch_seanet import SEANet as Opponent

    return Opponent


def random_network(config, seed=0):
    """Every array random, running statistics too."""
    model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    draw = np.random.RandomState(seed)
    arrays = {name: draw.uniform(0.1, 1, shape).astype(np.float32) for name, shape in weights.shapes(model).items()}
    weights.set_arrays(model, arrays, "the test")
    model.eval()
    return model


def run(*arguments):
    """The real command."""
    command = [sys.executable, "-W", "error", "-m", "seanet_jax", "convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def converted(*arguments):
    convert(parse_conversion("", [str(argument) for argument in arguments]))
    return arguments[1]


def latest(folder):
    """The state of a run, from its config.json."""
    model = load_model(folder, "latest")
    config = TrainConfig(**json.loads((folder / "config.json").read_text())["config"])
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(create_state(model, optimizer(config, 1)))[0]


# Names, layouts, architectures: without PyTorch.


@pytest.mark.parametrize("dataset", reference.CLASSES)
def test_names_order_and_layouts_are_the_releases(dataset):
    golden = reference.load(dataset)
    published = reference.weights(golden)
    model = from_state_dict({f"module.{name}": array for name, array in published.items()})
    assert model.config == model_config("seanet20", num_classes=reference.CLASSES[dataset])
    expected = {
        ".".join(map(str, reference.path(name))): reference.to_ours(array).astype(np.float32)
        for name, array in published.items()
    }
    chex.assert_trees_all_equal(weights.to_arrays(model), expected)
    back = state_dict(model)
    assert [[name, list(array.shape)] for name, array in back.items()] == json.loads(str(golden["state_dict_order"]))
    for name, array in back.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(array, published[name].astype(np.float32))


@pytest.mark.parametrize(
    "name", ["seanet20_block", "seanet20_narrow", "seanet20_small", "senet20", "resnet32", "wide_resnet20"]
)
def test_networks_of_the_family_are_recognised(name):
    config = model_config(name, num_classes=100)
    model = random_network(config)
    arrays = state_dict(model)
    again = from_state_dict(arrays)
    assert again.config == config
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    for key, array in arrays.items():
        ours = weights.to_arrays(model)[".".join(map(str, reference.path(key)))]
        np.testing.assert_array_equal(ours, reference.to_ours(array))


@st.composite
def configs(draw):
    stages = draw(st.integers(1, 3))
    factor, placement = draw(st.integers(2, 4)), draw(st.sampled_from(["stage", "block", "none"]))
    widths = draw(st.lists(st.integers(1, 5).map(lambda n: n * factor), min_size=stages, max_size=stages))
    return SEANetConfig(
        stage_sizes=tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))),
        widths=tuple(widths),
        stem_width=draw(st.integers(1, 8)),
        squeeze_excite=draw(st.booleans()),
        reduction=draw(st.integers(1, min(widths))),
        aggregate_placement=placement,
        aggregate_factor=factor,
        num_classes=draw(st.integers(1, 4)),
        in_channels=draw(st.integers(1, 4)),
    )


@settings(max_examples=30)
@given(configs())
def test_any_architecture_is_found_in_names_and_shapes(config):
    model = random_network(config)
    again = from_state_dict(state_dict(model))
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    free = {"reduction": config.reduction}  # what leaves the same hidden units is the same
    if config.aggregate_placement == "none":
        free["aggregate_factor"] = config.aggregate_factor
    assert dataclasses.replace(again.config, **free) == config


def test_every_wrong_array_is_named_at_once_as_pytorch_does():
    arrays = state_dict(random_network(TINY))
    del arrays["layer2.0.se.fc.0.bias"], arrays["fc.bias"]
    arrays["layer1.0.bn1.weight"] = np.ones(9, np.float32)
    arrays["layer2.0.conv2.weight"] = arrays["layer2.0.conv2.weight"][..., 0]
    arrays["conv1.weight"] = arrays["conv1.weight"].astype(np.int64)
    arrays["layer1.9999.conv1.weight"] = arrays["extra"] = np.ones(3, np.float32)
    with pytest.raises(InputError) as caught:
        from_state_dict(arrays, where="best.pth")
    assert str(caught.value) == (
        "best.pth does not fit the network: layer2.0.se.fc.0.bias is missing; fc.bias is missing; "
        "layer1.9999.conv1.weight is no array of this network; extra is no array of this network; "
        "conv1.weight is int64 and must be floating point; layer1.0.bn1.weight has shape (9,) and must have (8,); "
        "layer2.0.conv2.weight has shape (16, 16, 3) and must have (16, 16, 3, 3)"
    )


def changed(name, value):
    return lambda arrays: arrays | {name: value}


@pytest.mark.parametrize(
    ("change", "operation", "message"),
    [
        (lambda arrays: {}, "sum", "no SEANet, SENet or ResNet as published: .* and there are none"),
        (lambda arrays: {"features.0": arrays["fc.weight"]}, "sum", "and there are features.0$"),
        (
            lambda arrays: {n: a for n, a in arrays.items() if "layer1" not in n},
            "sum",
            "there must be arrays of layer1,",
        ),
        (
            lambda arrays: {n: a for n, a in arrays.items() if not re.search(r"^bn1|downsample\.1", n)},
            "sum",
            "is of a pre-activated network, without BatchNorm after the stem and in shortcuts, and those are not",
        ),
        (changed("fc.bias", np.full(10, np.nan)), "sum", "NaN, infinite or too large for float32 in fc.bias$"),
        (changed("fc.bias", np.full(10, 1e300)), "sum", "NaN, infinite or too large for float32 in fc.bias$"),
        (lambda arrays: arrays, "median", "cannot be: aggregate_op is 'median'; it must be one of sum, mean, max"),
        (
            lambda arrays: state_dict(random_network(dataclasses.replace(TINY, aggregate_placement="none"))),
            "max",
            "aggregates nothing, and aggregate_op is 'max'",
        ),
    ],
)
def test_what_is_no_network_is_refused_in_one_sentence(change, operation, message):
    with pytest.raises(InputError, match=message) as caught:
        from_state_dict(change(state_dict(random_network(TINY))), operation)
    assert "\n" not in str(caught.value)


def test_the_operation_is_told():
    arrays = state_dict(random_network(TINY))
    x = np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    logits = {op: np.asarray(from_state_dict(arrays, op)(x)) for op in ("sum", "mean")}
    assert not np.allclose(logits["sum"], logits["mean"])
    assert from_state_dict(arrays).config.aggregate_op == "sum"


# Folders: without PyTorch.


@pytest.mark.slow
def test_pretrained_weights_become_a_run_and_come_back(tmp_path):
    config = model_config("senet20", num_classes=100, reduction=16)
    model = random_network(config)
    model.save_pretrained(tmp_path / "weights")
    done = run(tmp_path / "weights", tmp_path / "new" / "run", "--epochs", "3", "--batch-size", "32")
    assert (done.returncode, done.stderr) == (0, "")
    command = "python experiments/cifar100.py --resume --model senet20 --reduction 16 --epochs 3 --batch-size 32 --out "
    assert done.stdout == (
        f"{tmp_path}/new/run: senet20 reduction=16 on cifar100, 280,697 parameters, step 0, momentum zero\n"
        f"to train on: {command}{tmp_path}/new/run\n"
    )
    about = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    RunFolder(tmp_path / "new" / "run").check(parse(TrainConfig(), "", shlex.split(done.stdout)[-11:]).config)
    assert about["data_sha256"] is None and about["config"]["epochs"] == 3
    for which in ("best", "latest"):
        of_run = load(tmp_path / "new" / "run", which)
        assert of_run.images == image_spec("cifar100")
        chex.assert_trees_all_equal(weights.to_arrays(of_run.model), weights.to_arrays(model))
    back = run(tmp_path / "new" / "run", tmp_path / "back", "--which", "latest")
    assert (back.returncode, back.stderr, back.stdout) == (0, "", f"{tmp_path}/back: 280,697 parameters\n")
    assert weights.read_about(tmp_path / "back").images == image_spec("cifar100")
    chex.assert_trees_all_equal(weights.to_arrays(SEANet.from_pretrained(tmp_path / "back")), weights.to_arrays(model))
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "new", "back"}


def test_the_data_set_is_that_of_the_images_or_of_the_number_of_classes(tmp_path):
    model = random_network(model_config("resnet20", num_classes=10))

    def dataset_of(images, *flags):
        model.save_pretrained(tmp_path / "weights", images)
        folder = converted(tmp_path / "weights", tmp_path / f"run{len(list(tmp_path.iterdir()))}", *flags)
        assert load(folder).images == image_spec(json.loads((folder / "config.json").read_text())["config"]["dataset"])
        return json.loads((folder / "config.json").read_text())["config"]["dataset"]

    assert dataset_of(None) == dataset_of(image_spec("cifar10")) == "cifar10"
    assert dataset_of(image_spec("digits")) == dataset_of(None, "--dataset", "digits") == "digits"
    with pytest.raises(
        InputError, match="10 classes of images of 3 channels, and a run for the images of cifar100; in"
    ):
        dataset_of(None, "--dataset", "cifar100")
    other = dataclasses.replace(image_spec("cifar10"), class_names=tuple("abcdefghij"))
    with pytest.raises(
        InputError, match=r"as its config\.json says, and a run for .* cifar10 or cifar100 or digits; in"
    ):
        dataset_of(other)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if isinstance(preset, SEANetConfig)])
def test_a_preset_is_found_under_its_own_name(name):
    from seanet_jax.commands.convert import _preset

    assert _preset(PRESETS[name], Path("x")) == {"model": name}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("senet20", {"reduction": 16}),
        ("seanet20", {"squeeze_excite": False}),
        ("seanet20_narrow", {"aggregate_op": "max", "aggregate_factor": 2}),
        ("senet20", {"aggregate_placement": "stage", "aggregate_op": "mean"}),
    ],
)
def test_the_fewest_fields_of_a_preset_are_replaced(name, overrides):
    from seanet_jax.commands.convert import _preset

    assert _preset(model_config(name, **overrides), Path("x")) == {"model": name} | overrides


def test_a_network_without_a_preset_cannot_be_a_run(tmp_path):
    random_network(dataclasses.replace(TINY, num_classes=10)).save_pretrained(tmp_path / "weights")
    with pytest.raises(
        InputError, match=r"stages of \(1, 1\) blocks of widths \(8, 16\) after a stem of 4; .*seanet20,"
    ):
        converted(tmp_path / "weights", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.slow
def test_an_imported_run_goes_on_exactly_where_it_was(tiny):
    """What was trained here for two epochs and is made a run anew ends as the run that was never touched."""
    # The limits tell the length of an epoch without the images.
    two = tiny("two", epochs=2, limit_train=40, limit_test=20)
    images = made_dataset().image_spec
    write_run(two.out, two, random_network(dataclasses.replace(TINY, num_classes=2)), images)
    fit(dataclasses.replace(two, resume=True))
    state = latest(two.out)
    assert state.step == 10 and np.isfinite(records(two.out)[1]["test_loss"])
    momentum = {
        ".".join(str(entry.key) for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(optax.tree_utils.tree_get(state.opt_state, "trace"))
    }
    model = load_model(two.out, "latest")
    imported = dataclasses.replace(two, out=two.out.with_name("imported"), epochs=3)
    assert write_run(imported.out, imported, model, images, epoch=2, momentum=momentum) == 10
    for out in (two.out, imported.out):
        fit(dataclasses.replace(imported, out=out, resume=True))
    chex.assert_trees_all_equal(latest(imported.out), latest(two.out))

    of_two = records(two.out)
    first = {name: value for name, value in of_two[1].items() if not name.startswith("train_")}
    assert records(imported.out) == [first, of_two[2]]
    about = json.loads((imported.out / "config.json").read_text())
    assert about["data_sha256"] == made_dataset().limit(40, 20).sha256()

    with pytest.raises(InputError, match=r"the momentum does not fit the network: .* is missing"):
        write_run(imported.out, imported, model, images, momentum={})
    for fields, message in (
        ({"limit_train": 2000}, "limit_train is 2000 and batch_size 8; digits has 1438 training images"),
        ({"limit_train": 7}, "limit_train is 7 and batch_size 8"),
    ):
        with pytest.raises(InputError, match=message):
            write_run(imported.out, dataclasses.replace(imported, **fields), model, images)
    with pytest.raises(InputError, match="999999999 epochs of 5 steps are too many"):
        write_run(imported.out, imported, model, images, epoch=999999999)


@pytest.mark.parametrize("name", ["save_best", "save_latest"])
def test_if_writing_fails_nothing_is_left(tmp_path, monkeypatch, name):
    random_network(model_config("resnet20", num_classes=10)).save_pretrained(tmp_path / "weights")

    def full(*_):
        raise RunError("a long story; the earlier ones stay") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, name, full)
    with pytest.raises(RunError) as caught:
        converted(tmp_path / "weights", tmp_path / "run")
    message = f"{tmp_path}/run could not be written (No space left on device); nothing is left of it"
    assert str(caught.value) == message
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_what_cannot_be_done_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["seanet convert"])
    Path("full").mkdir()
    for damaged in ("full/model.safetensors", "full/config.json", "file.pth", "file"):
        Path(damaged).write_bytes(b"damaged")
    Path("run").mkdir()
    Path("run/config.json").write_bytes(b"damaged")
    for arguments, message in {
        "file.pth full": "full is a folder and not empty; name another target",
        "file.pth file": "file is a file already; name another target",
        "full file.pth": "file.pth is a file already; name another target",
        "file.pth file/run": r"file/run cannot be written: \S+/file is a file; name another target$",
        "nothing run2": "there is no nothing; name a PyTorch checkpoint, a run or a folder of pretrained weights",
        "file.pth other.pt": "file.pth and other.pt would both be PyTorch's; name a folder",
        "file.pth new --which best": "--which: of no use but for a run that is read, and here is none; leave it out",
        "full new --aggregate-op sum": "--aggregate-op: of no use but for a PyTorch checkpoint that is read",
        "full new.pth --epochs 3 --no-augment": "--epochs, --no-augment: of no use but for a run that is written",
        "run new --dataset digits": "--dataset: of no use but for a run that is written",
        "file.pth": "Missing from seanet convert: TARGET",
        "file.pth new --model resnet20": "Unrecognized options: --model, resnet20; --help lists the flags",
        "file.pth new --epochs 0": "epochs is 0; it must be a positive integer",
    }.items():
        with pytest.raises(InputError, match=f"^{message}") as caught:
            converted(*arguments.split())
        assert "\n" not in str(caught.value), arguments
    assert {str(path) for path in Path().rglob("*")} == {
        *("full", "full/model.safetensors", "full/config.json", "file.pth", "file", "run", "run/config.json")
    }


def test_without_pytorch_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "file.pth").write_bytes(b"anything")
    (tmp_path / "folder").mkdir()
    commands = [
        parse_conversion("", [str(tmp_path / name) for name in names])
        for names in (("file.pth", "run"), ("folder", "new.pth"))
    ]
    monkeypatch.setitem(sys.modules, "torch", None)  # after tyro looked whether it is there
    for command in commands:
        with pytest.raises(InputError, match=r"^PyTorch, .* is not installed: pip install -e '\.\[convert\]'$"):
            convert(command)
    assert {path.name for path in tmp_path.iterdir()} == {"file.pth", "folder"}


# PyTorch's files.


def published(torch, dataset):
    """A checkpoint as the release saved it on this data set, and its state dict, float32."""
    arrays = reference.weights(reference.load(dataset))
    saved = collections.OrderedDict((name, torch.tensor(array).float()) for name, array in arrays.items())
    parameters = [name for name in saved if "running" not in name]
    # In 2019 a parameter was known by its address.
    keys = (
        list(range(len(parameters)))
        if dataset == "cifar100"
        else [139_000_000_000 - 72 * n for n, _ in enumerate(parameters)]
    )
    sgd = {
        "state": {key: {"momentum_buffer": -saved[name]} for key, name in zip(keys, parameters, strict=True)},
        "param_groups": [{"lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4, "params": keys}],
    }
    counted = saved | {"bn1.num_batches_tracked": torch.tensor(146047)}
    if dataset == "cifar10":
        return {"epoch": 150, "weight": counted, "optimizer_state_dict": sgd}, saved
    parallel = {f"module.{name}": array for name, array in counted.items()}
    return {"epoch": 187, "state_dict": parallel, "optimizer": sgd, "best_acc1": torch.tensor(78.67)}, saved


@pytest.mark.parametrize("dataset", reference.CLASSES)
def test_a_published_checkpoint_gives_the_published_logits_and_comes_back(dataset, torch, opponent, tmp_path, capsys):
    checkpoint, saved = published(torch, dataset)
    old = {"_use_new_zipfile_serialization": dataset == "cifar100"}
    torch.save(checkpoint, tmp_path / "best_model.pth", **old)
    converted(tmp_path / "best_model.pth", tmp_path / "run")
    step = checkpoint["epoch"] * 781
    said = capsys.readouterr().out
    assert f"run: seanet20 on {dataset}, " in said and f"step {step}, momentum the checkpoint's\n" in said

    trained, golden = load(tmp_path / "run"), reference.load(dataset)
    assert trained.images == image_spec(dataset)
    x, _ = reference.images_and_labels(reference.CLASSES[dataset])
    logits = np.asarray(trained.model(jnp.asarray(x, jnp.float32)))
    assert np.abs(logits - golden["eval_logits"]).max() / np.abs(golden["eval_logits"]).max() < 1e-5
    state = latest(tmp_path / "run")
    assert state.step == optax.tree_utils.tree_get(state.opt_state, "count") == step
    trace = optax.tree_utils.tree_get(state.opt_state, "trace")
    chex.assert_trees_all_equal(trace, jax.tree.map(jnp.negative, state.params))

    again = torch.load(converted(tmp_path / "run", tmp_path / "back.pth"), weights_only=True)
    assert list(again) == list(saved)
    assert all(torch.equal(again[name], array) for name, array in saved.items())
    opponent(model_config("seanet20", num_classes=reference.CLASSES[dataset])).load_state_dict(again, strict=True)


def test_networks_of_the_family_come_and_go_bit_for_bit(torch, tmp_path):
    network = random_network(model_config("senet20", num_classes=100), 1)
    saved = {name: torch.tensor(array) for name, array in state_dict(network).items()}
    torch.save(saved, tmp_path / "one.pt")
    run_folder = tmp_path / "run"
    done = run(tmp_path / "one.pt", run_folder)
    assert (done.returncode, done.stderr) == (0, "")
    about = json.loads((run_folder / "config.json").read_text())
    assert (about["config"]["model"], about["config"]["dataset"]) == ("senet20", "cifar100")
    again = torch.load(converted(run_folder, tmp_path / "two.pt", "--which", "latest"), weights_only=True)
    assert list(again) == list(saved) and all(torch.equal(again[key], saved[key]) for key in saved)
    # And from pretrained weights.
    converted(run_folder, tmp_path / "weights")
    converted(tmp_path / "weights", tmp_path / "three.pth")
    third = torch.load(tmp_path / "three.pth", weights_only=True)
    assert all(torch.equal(third[key], saved[key]) for key in saved)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype, torch, tmp_path):
    saved = {n: torch.tensor(a).to(getattr(torch, dtype)) for n, a in state_dict(random_network(TINY)).items()}
    torch.save({"state_dict": saved}, tmp_path / "half.pth")
    found = read_pytorch(tmp_path / "half.pth")
    assert found.epoch is None and found.momentum is None
    for name, array in state_dict(found.model).items():
        np.testing.assert_array_equal(array, saved[name].float().numpy())


def test_pre_activated_networks_are_not_pytorchs(torch, tmp_path):
    random_network(model_config("preact_resnet20")).save_pretrained(tmp_path / "weights")
    with pytest.raises(InputError, match="a pre-activated network cannot be written for PyTorch"):
        converted(tmp_path / "weights", tmp_path / "new.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    converted(tmp_path / "weights", tmp_path / "run")  # but a run they can be


class Malicious:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_files_that_hold_code_are_refused_and_run_nothing(torch, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "model.pth"
    saved = {n: torch.tensor(a) for n, a in state_dict(random_network(TINY)).items()} | {"extra": Malicious(touched)}

    def saves(**options):
        return lambda: torch.save(saved, path, **options)

    for write in (
        saves(),
        saves(_use_new_zipfile_serialization=False),
        *(lambda p=protocol: path.write_bytes(pickle.dumps(Malicious(touched), p)) for protocol in range(6)),
    ):
        write()
        # PyTorch does not know later protocols than its own.
        with pytest.raises(InputError, match=r"(holds \w+\.system, which could run code|is no PyTorch checkpoint)"):
            read_pytorch(path)
        assert not touched.exists()
    torch.save(torch.nn.Linear(2, 2), path)
    done = run(path, tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+ holds torch\.nn\.modules\.linear\.Linear, which [^\n]+\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_damaged_and_other_files_are_refused_in_one_sentence(torch, tmp_path):
    path = tmp_path / "model.pth"

    def of(content, **options):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    good = of({name: torch.tensor(array) for name, array in state_dict(random_network(TINY)).items()})
    old = of({"conv1.weight": torch.ones(9999)}, _use_new_zipfile_serialization=False)
    damaged = "is no PyTorch checkpoint, or damaged; fetch it again, or name another"
    for content, message in (
        *((part, damaged) for part in (b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", good[:-100], good[:99])),
        *((part, damaged) for part in (old[:-100], old[:99], old[:9])),
        (of(torch.ones(3)), "holds a Tensor; it must hold a state dict, or a dict with one as weight or state_dict"),
        (of({"model": {}, "epoch": 3}), "holds a dict of model, epoch; it must hold a state dict"),
        (of({"epoch": 3, "weight": torch.ones(3)}), "holds a dict of epoch, weight; it must"),
        (of({0: torch.ones(3)}), "is no SEANet, SENet or ResNet as published: .* there are 0$"),
        (of({"state_dict": {"fc.weight": 3}}), "fc.weight is no dense array of numbers"),
        (of({"state_dict": {"fc.weight": torch.ones(3, 3).to_sparse()}}), "fc.weight is no dense array of numbers"),
        (of({"state_dict": {}, "epoch": -1}), "epoch is -1; it must be an integer from 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_pytorch(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)$"):
        read_pytorch(path)


def random_batch(seed):
    draw = np.random.RandomState(seed)
    return draw.standard_normal((8, 8, 8, 3)).astype(np.float32), draw.randint(0, 10, 8)


def step_of_torch(torch, network, sgd, seed):
    x, y = random_batch(seed)
    sgd.zero_grad()
    torch.nn.functional.cross_entropy(network(torch.tensor(x).permute(0, 3, 1, 2)), torch.tensor(y)).backward()
    sgd.step()


@pytest.mark.parametrize("by_address", [False, True])
def test_the_step_after_an_import_is_pytorchs_next(by_address, torch, opponent, tiny, tmp_path):
    torch.manual_seed(0)
    network = opponent(model_config("tiny", num_classes=10)).train()
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for seed in (0, 1):
        step_of_torch(torch, network, sgd, seed)
    saved = sgd.state_dict()
    if by_address:  # which says nothing of the order
        (group,) = saved["param_groups"]
        address = {index: 10**12 - 72 * index for index in group["params"]}
        saved = {
            "state": {address[index]: saved["state"][index] for index in reversed(group["params"])},
            "param_groups": [group | {"params": list(address.values())}],
        }
    torch.save({"epoch": 4, "state_dict": network.state_dict(), "optimizer": saved}, tmp_path / "model.pth")
    step_of_torch(torch, network, sgd, 2)

    # Its learning rate after four epochs is PyTorch's.
    recipe = ("--learning-rate", "0.2", "--decay-every", "2", "--decay-factor", "0.5", "--weight-decay", "0.01")
    folder = converted(tmp_path / "model.pth", tmp_path / "run", "--dataset", "digits", *recipe)
    state, model = latest(folder), load_model(folder, "latest")
    assert state.step == 4 * (1438 // 64)
    model.train()
    x, y = map(jnp.asarray, random_batch(2))
    gradients = nnx.jit(nnx.grad(lambda model: cross_entropy(model(x), y).mean()))(model)
    config = TrainConfig(**json.loads((folder / "config.json").read_text())["config"])
    update = optimizer(config, 1438 // 64).update
    updates, _ = update(nnx.to_pure_dict(gradients), state.opt_state, state.params)
    nnx.update(model, optax.apply_updates(state.params, updates))
    expected = {name: array.numpy() for name, array in network.state_dict().items() if "num_batches" not in name}
    chex.assert_trees_all_close(state_dict(model), expected, rtol=1e-5, atol=1e-6)


def test_momentum_that_is_not_the_networks_is_refused(torch, tmp_path):
    arrays = {name: torch.tensor(array) for name, array in state_dict(random_network(TINY)).items()}
    keys = list(range(sum("running" not in name for name in arrays)))
    state = {key: {"momentum_buffer": torch.ones(3)} for key in keys[1:]}
    group = {"params": keys}
    for optimizer_state, message in (
        ("adam", "the optimizer is not one of a single group of parameters; save the network's state dict alone"),
        ({"state": state, "param_groups": [group, group]}, "the optimizer is not one of a single group"),
        (
            {"state": state, "param_groups": [{"params": keys[1:]}]},
            r"the optimizer has \d+ parameters, and the network",
        ),
        (
            {"state": state, "param_groups": [group]},
            r"the optimizer's momentum does not fit the network: conv1\.weight is missing; bn1\.weight has shape",
        ),
    ):
        torch.save({"weight": arrays, "optimizer_state_dict": optimizer_state}, tmp_path / "model.pth")
        with pytest.raises(InputError, match=message) as caught:
            read_pytorch(tmp_path / "model.pth")
        assert "\n" not in str(caught.value)
    torch.save({"weight": arrays, "optimizer": {"state": {}, "param_groups": [group]}}, tmp_path / "model.pth")
    assert read_pytorch(tmp_path / "model.pth").momentum is None
