"""Networks come from PyTorch's files and go back, and train on: seanet convert."""

import collections
import dataclasses
import errno
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
from networks import random_network
from training_fixtures import TINY, made_dataset, records

from seanet_jax import InputError, SEANet, SEANetConfig
from seanet_jax.commands.convert import convert, read_pytorch, state_dict, write_run
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


@pytest.fixture
def opponent(torch, monkeypatch):
    """The network in PyTorch."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from pytorch_seanet import SEANet as Opponent

    return Opponent


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
