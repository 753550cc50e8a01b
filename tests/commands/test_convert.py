"""The command converts PyTorch checkpoints, runs and pretrained weights into one another."""

import collections
import json
import os
import pickle
import re
import shlex
import sys
from pathlib import Path

import chex
import forks
import golden_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import random_network
from training_fixtures import TINIEST, latest_state

from seanet_jax import InputError, SEANet
from seanet_jax.commands.convert import convert
from seanet_jax.data import image_spec
from seanet_jax.inference.trained import load
from seanet_jax.models import model_config, weights
from seanet_jax.models.pytorch import read_pytorch, state_dict
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import parse, parse_conversion
from seanet_jax.training.run_folder import RunFolder


def run(*arguments):
    """The real command."""
    return forks.run(["-m", "seanet_jax", "convert", *arguments])


def converted(*arguments):
    convert(parse_conversion("", [str(argument) for argument in arguments]))
    return arguments[1]


@pytest.mark.slow
def test_pretrained_weights_become_a_run_and_come_back(tmp_path):
    config = model_config("senet20", num_classes=100, reduction=16)
    model = random_network(config)
    model.save_pretrained(tmp_path / "weights")
    done = run(tmp_path / "weights", tmp_path / "new" / "run", "--epochs", "3", "--batch-size", "32")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{tmp_path}/new/run: senet20 reduction=16 on cifar100, 280,697 parameters, step 0, momentum zero\n"
        f"to evaluate: seanet evaluate {tmp_path}/new/run\n"
        f"to resume training: seanet train --resume {tmp_path}/new/run\n"
    )
    about = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    RunFolder(tmp_path / "new" / "run").check(parse(TrainConfig(), "", shlex.split(done.stdout)[-2:]).config)
    assert about["data_sha256"] is None and about["config"]["epochs"] == 3
    for which in ("best", "latest"):
        of_run = load(tmp_path / "new" / "run", which)
        assert of_run.images == image_spec("cifar100")
        chex.assert_trees_all_equal(weights.to_arrays(of_run.model), weights.to_arrays(model))
    back = run(tmp_path / "new" / "run", tmp_path / "back", "--which", "latest")
    assert (back.returncode, back.stderr, back.stdout) == (0, "", f"{tmp_path}/back: 280,697 parameters\n")
    assert weights.read(tmp_path / "back").images == image_spec("cifar100")
    chex.assert_trees_all_equal(weights.to_arrays(SEANet.from_pretrained(tmp_path / "back")), weights.to_arrays(model))
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "new", "back"}


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
        "file.pth new --which best": "--which: has an effect only if the source is a run; leave it out",
        "full new --aggregate-op sum": "--aggregate-op: has an effect only if the source is a PyTorch checkpoint",
        "full new.pth --epochs 3 --no-augment": "--epochs, --no-augment: has an effect only if the target is a run",
        "run new --dataset digits": "--dataset: has an effect only if the target is a run",
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
        with pytest.raises(
            InputError, match=r"a PyTorch checkpoint needs torch, which is not installed; it is in the extra 'convert'"
        ):
            convert(command)
    assert {path.name for path in tmp_path.iterdir()} == {"file.pth", "folder"}


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


@pytest.mark.parametrize("dataset", ["cifar100", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_a_published_checkpoint_gives_the_published_logits_and_comes_back(
    dataset, torch, pytorch_network, tmp_path, capsys
):
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
    state = latest_state(tmp_path / "run")
    assert state.step == optax.tree_utils.tree_get(state.opt_state, "count") == step
    trace = optax.tree_utils.tree_get(state.opt_state, "trace")
    chex.assert_trees_all_equal(trace, jax.tree.map(jnp.negative, state.params))

    again = torch.load(converted(tmp_path / "run", tmp_path / "back.pth"), weights_only=True)
    assert list(again) == list(saved)
    assert all(torch.equal(again[name], array) for name, array in saved.items())
    pytorch_network(model_config("seanet20", num_classes=reference.CLASSES[dataset])).load_state_dict(
        again, strict=True
    )


@pytest.mark.slow
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
    saved = {n: torch.tensor(a) for n, a in state_dict(random_network(TINIEST)).items()} | {"extra": Malicious(touched)}

    def saves(**options):
        return lambda: torch.save(saved, path, **options)

    for write in (
        saves(),
        saves(_use_new_zipfile_serialization=False),
        *(lambda p=protocol: path.write_bytes(pickle.dumps(Malicious(touched), p)) for protocol in range(6)),
    ):
        write()
        # PyTorch does not know later protocols than its own.
        with pytest.raises(InputError, match=r"(holds \w+\.system, which could run code|is not a PyTorch checkpoint)"):
            read_pytorch(path)
        assert not touched.exists()
    torch.save(torch.nn.Linear(2, 2), path)
    done = run(path, tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+ holds torch\.nn\.modules\.linear\.Linear, which [^\n]+\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
