"""Networks become runs, from the right preset and data set, and train on as if they had never left."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from networks import random_network
from training_fixtures import TINIEST, latest_state, made_dataset, records

from seanet_jax import InputError, SEANetConfig
from seanet_jax.data import image_spec
from seanet_jax.errors import RunError
from seanet_jax.inference import conversion
from seanet_jax.inference.conversion import (
    convert_to_pytorch,
    convert_to_run,
    convert_to_weights,
    find_preset,
    write_run,
)
from seanet_jax.inference.trained import load, load_model
from seanet_jax.models import PRESETS, model_config, weights
from seanet_jax.models.pytorch import state_dict
from seanet_jax.models.scores import cross_entropy
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder


@pytest.mark.slow
def test_the_data_set_is_that_of_the_images_or_of_the_number_of_classes(tmp_path):
    model = random_network(model_config("resnet20", num_classes=10))

    def dataset_of(images, asked=None):
        model.save_pretrained(tmp_path / "weights", images)
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        convert_to_run(tmp_path / "weights", folder, TrainConfig(), dataset=asked)
        assert load(folder).images == image_spec(json.loads((folder / "config.json").read_text())["config"]["dataset"])
        return json.loads((folder / "config.json").read_text())["config"]["dataset"]

    assert dataset_of(None) == dataset_of(image_spec("cifar10")) == "cifar10"
    assert dataset_of(image_spec("digits")) == dataset_of(None, "digits") == "digits"
    with pytest.raises(
        InputError, match="10 classes of images of 3 channels, and a run must be for the images of cifar100; in"
    ):
        dataset_of(None, "cifar100")
    other = dataclasses.replace(image_spec("cifar10"), class_names=tuple("abcdefghij"))
    with pytest.raises(
        InputError, match=r"in its config\.json, and a run must be for .* cifar10 or cifar100 or digits; in"
    ):
        dataset_of(other)


@pytest.mark.parametrize("name", ["tfds:mnist", "folder", "arrays"])
def test_a_data_set_that_is_known_only_once_it_is_read_is_refused(tmp_path, name):
    random_network(TINIEST).save_pretrained(tmp_path / "weights", None)
    with pytest.raises(InputError, match=f"{name} has to be read before .* are known; .*: cifar10, cifar100, digits"):
        convert_to_run(tmp_path / "weights", tmp_path / "run", TrainConfig(), dataset=name)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if isinstance(preset, SEANetConfig)])
def test_a_preset_is_found_under_its_own_name(name):
    assert find_preset(PRESETS[name], Path("x")) == {"model": name}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("senet20", {"reduction": 16}),
        ("seanet20", {"squeeze_excite": False}),
        ("seanet20_narrow", {"aggregate_op": "max", "aggregate_factor": 2}),
        ("senet20", {"aggregate_placement": "stage", "aggregate_op": "mean"}),
        ("senet20", {"aggregate_placement": "stage", "aggregate_stages": (2,)}),
        ("seanet20", {"aggregate_stages": (1, 3), "aggregate_norm": True}),
        ("seanet20_narrow_random", {"aggregate_seed": 2}),
        ("seanet20", {"aggregate_op": "random", "aggregate_seed": 2}),
    ],
)
def test_the_fewest_fields_of_a_preset_are_replaced(name, overrides):
    assert find_preset(model_config(name, **overrides), Path("x")) == {"model": name} | overrides


def test_a_network_without_a_preset_cannot_be_a_run(tmp_path):
    random_network(dataclasses.replace(TINIEST, num_classes=10)).save_pretrained(tmp_path / "weights")
    with pytest.raises(InputError, match=r"stages of \(1,\) blocks of widths \(8,\) after a stem of 4; .*seanet20,"):
        convert_to_run(tmp_path / "weights", tmp_path / "run", TrainConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_an_imported_run_goes_on_by_any_optimizer_but_not_with_the_momentum_of_sgd(tiny, name):
    config = tiny(name, optimizer=name, schedule="cosine", decay_every=None, limit_train=40, limit_test=20)
    model, images = random_network(dataclasses.replace(TINIEST, num_classes=2)), made_dataset().image_spec
    with pytest.raises(InputError, match=f"the momentum is that of SGD, and the optimizer is {name}; make it sgd"):
        write_run(config.out, config, model, images, epoch=2, momentum={})
    assert write_run(config.out, config, model, images, epoch=2) == 10
    # The schedule goes on. Adam's averages start anew, and so does the count that corrects them.
    counts = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(latest_state(config.out).opt_state)
        if "count" in jax.tree_util.keystr(path)
    }
    assert sorted(counts.values()) == [0, 10]


@pytest.mark.slow
def test_the_moving_average_of_an_imported_run_starts_as_its_network(tiny, tmp_path):
    config = tiny(ema_decay=0.9, limit_train=40, limit_test=20, epochs=1)
    model, images = random_network(dataclasses.replace(TINIEST, num_classes=2)), made_dataset().image_spec
    write_run(config.out, config, model, images)
    for which in ("latest", "ema"):
        chex.assert_trees_all_equal(weights.to_arrays(load_model(config.out, which)), weights.to_arrays(model))
    fit(dataclasses.replace(config, resume=True))
    expected, latest = (state_dict(load_model(config.out, which)) for which in ("ema", "latest"))
    chex.assert_trees_all_equal(state_dict(convert_to_weights(config.out, tmp_path / "weights", "ema")), expected)
    assert any(not np.array_equal(array, latest[name]) for name, array in expected.items())
    torch = pytest.importorskip("torch")
    convert_to_pytorch(config.out, tmp_path / "ema.pth", "ema")
    found = {name: array.numpy() for name, array in torch.load(tmp_path / "ema.pth").items()}
    chex.assert_trees_all_equal({name: found[name] for name in expected}, expected)


@pytest.mark.slow
def test_an_imported_run_goes_on_exactly_where_it_was(tiny):
    """What was trained here for two epochs and is made a run anew ends as the run that was never touched."""
    # The limits tell the length of an epoch without the images.
    two = tiny("two", epochs=2, limit_train=40, limit_test=20)
    images = made_dataset().image_spec
    write_run(two.out, two, random_network(dataclasses.replace(TINIEST, num_classes=2)), images)
    fit(dataclasses.replace(two, resume=True))
    state = latest_state(two.out)
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
    chex.assert_trees_all_equal(latest_state(imported.out), latest_state(two.out))

    of_two = records(two.out)
    first = {name: value for name, value in of_two[1].items() if not name.startswith("train_")}
    assert records(imported.out) == [first, of_two[2]]
    assert [record["epoch"] for record in RunFolder(imported.out).read_records()] == [2, 3]
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


def test_if_writing_fails_nothing_is_left(tmp_path, monkeypatch):
    random_network(model_config("resnet20", num_classes=10)).save_pretrained(tmp_path / "weights")

    def full(*_):
        raise RunError("a long story; the earlier ones stay") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(RunError) as caught:
        convert_to_run(tmp_path / "weights", tmp_path / "run", TrainConfig())
    message = f"{tmp_path}/run could not be written (No space left on device); nothing is left of it"
    assert str(caught.value) == message
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_of_two_conversions_to_one_folder_the_second_is_refused_and_the_first_stays(tmp_path, monkeypatch):
    random_network(model_config("resnet20", num_classes=10)).save_pretrained(tmp_path / "weights")

    def write_after_another(folder, *_, **__):
        (folder / "config.json").write_text("the second")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("the first")

    monkeypatch.setattr(conversion, "write_run", write_after_another)
    with pytest.raises(InputError, match=r"run was written by another process meanwhile; name another target"):
        convert_to_run(tmp_path / "weights", tmp_path / "run", TrainConfig())
    assert (tmp_path / "run" / "config.json").read_text() == "the first"
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "run"}


def random_batch(seed):
    draw = np.random.RandomState(seed)
    return draw.standard_normal((8, 8, 8, 3)).astype(np.float32), draw.randint(0, 10, 8)


def step_of_torch(torch, network, sgd, seed):
    x, y = random_batch(seed)
    sgd.zero_grad()
    torch.nn.functional.cross_entropy(network(torch.tensor(x).permute(0, 3, 1, 2)), torch.tensor(y)).backward()
    sgd.step()


@pytest.mark.parametrize("by_address", [False, True])
def test_the_step_after_an_import_is_pytorchs_next(by_address, torch, pytorch_network, tiny, tmp_path):
    torch.manual_seed(0)
    network = pytorch_network(model_config("tiny", num_classes=10)).train()
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
    recipe = TrainConfig(learning_rate=0.2, decay_every=2, decay_factor=0.5, weight_decay=0.01)
    folder = tmp_path / "run"
    convert_to_run(tmp_path / "model.pth", folder, recipe, dataset="digits")
    state, model = latest_state(folder), load_model(folder, "latest")
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
