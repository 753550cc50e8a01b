"""Networks by the published release's names, layouts and files."""

import dataclasses
import io
import json
import re

import chex
import golden_reference as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_network
from training_fixtures import TINY

from seanet_jax import InputError, SEANetConfig
from seanet_jax.models import model_config, weights
from seanet_jax.models.pytorch import from_state_dict, read_pytorch, state_dict

# Names, layouts and architectures. These tests need no PyTorch.


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["seanet20_block", "seanet20_narrow", "seanet20_small", "senet20", "resnet32", "wide_resnet20"]
)
def test_networks_of_the_family_are_recognized(name):
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
        aggregate_stages=None if stages == 1 else draw(st.sampled_from([None, (1,), (stages,)])),
        num_classes=draw(st.integers(1, 4)),
        in_channels=draw(st.integers(1, 4)),
    )


@pytest.mark.slow
@settings(max_examples=30)
@given(configs())
def test_any_architecture_is_found_in_names_and_shapes(config):
    model = random_network(config)
    again = from_state_dict(state_dict(model))
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    free = {"reduction": config.reduction}  # several reductions give the same hidden units
    if config.aggregate_placement == "none":
        free |= {"aggregate_factor": config.aggregate_factor, "aggregate_stages": config.aggregate_stages}
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
        "layer1.9999.conv1.weight is not in this network; extra is not in this network; "
        "conv1.weight is int64 and must be floating point; layer1.0.bn1.weight has shape (9,) and must have (8,); "
        "layer2.0.conv2.weight has shape (16, 16, 3) and must have (16, 16, 3, 3)"
    )


def changed(name, value):
    return lambda arrays: arrays | {name: value}


@pytest.mark.parametrize(
    ("change", "operation", "message"),
    [
        (lambda arrays: {}, "sum", "not a SEANet, SENet or ResNet as published: .* and there are none"),
        (lambda arrays: {"features.0": arrays["fc.weight"]}, "sum", "and there are features.0$"),
        (
            lambda arrays: {n: a for n, a in arrays.items() if "layer1" not in n},
            "sum",
            "there must be arrays of layer1,",
        ),
        (
            lambda arrays: {n: a for n, a in arrays.items() if not re.search(r"^bn1|downsample\.1", n)},
            "sum",
            "pre-activated network, and those cannot be converted: .* before or after its normalization.*; name a chec",
        ),
        (changed("fc.bias", np.full(10, np.nan)), "sum", "NaN, infinite or too large for float32 in fc.bias$"),
        (changed("fc.bias", np.full(10, 1e300)), "sum", "NaN, infinite or too large for float32 in fc.bias$"),
        (
            lambda arrays: arrays,
            "median",
            "cannot be built: aggregate_op is 'median'; it must be one of sum, mean, max",
        ),
        (lambda arrays: arrays, "learned", "aggregate_op is 'learned'; it must be one of sum, mean, max, norm"),
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


def test_stages_that_do_not_aggregate_are_seen():
    config = dataclasses.replace(TINY, aggregate_stages=(1,))
    model = random_network(config)
    again = from_state_dict(state_dict(model))
    assert again.config == config
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregate_op": "learned"}, "aggregates by learned cannot be written for PyTorch: the published network has"),
        ({"aggregate_op": "dense"}, "aggregates by dense cannot be written"),
        ({"aggregate_op": "random"}, "by random cannot be written .*; aggregation by sum, mean, max, normalized_sum, "),
        ({"aggregate_norm": True}, "aggregates with normalization cannot be written"),
    ],
)
def test_aggregates_that_the_published_network_lacks_are_not_written(changes, message):
    with pytest.raises(InputError, match=message):
        state_dict(random_network(dataclasses.replace(TINY, **changes)))
    # Where nothing aggregates, these fields say nothing.
    assert state_dict(random_network(dataclasses.replace(TINY, **changes, aggregate_placement="none")))


def test_the_operation_is_told():
    arrays = state_dict(random_network(TINY))
    x = np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    logits = {op: np.asarray(from_state_dict(arrays, op)(x)) for op in ("sum", "mean")}
    assert not np.allclose(logits["sum"], logits["mean"])
    assert from_state_dict(arrays).config.aggregate_op == "sum"


@pytest.mark.parametrize("head", ["bn", "bn1"])
def test_pre_activated_networks_are_refused_by_their_own_name(head):
    # PyTorch code calls the last normalization bn or bn1, and its shortcuts see normalized inputs or raw ones.
    network = random_network(dataclasses.replace(TINY, preactivation=True))
    ours = weights.to_arrays(network)
    with pytest.raises(InputError, match="a pre-activated network cannot be written for PyTorch: its arrays would not"):
        state_dict(network)
    post = state_dict(random_network(TINY))
    arrays = {name: a for name, a in post.items() if not re.match(r"bn1|.*downsample\.1", name)}
    for stage in range(len(TINY.stage_sizes)):
        arrays[f"layer{stage + 1}.0.bn1.weight"] = ours[f"stages.{stage}.blocks.0.bn1.scale"]
    arrays[f"{head}.weight"] = ours["head_bn.scale"]
    with pytest.raises(InputError, match="is of a pre-activated network, and those cannot be converted"):
        from_state_dict(arrays)


def test_what_wrappers_add_to_names_is_ignored_but_two_networks_are_refused():
    arrays = state_dict(random_network(TINY))

    def read(change):
        return state_dict(from_state_dict({change(name): array for name, array in arrays.items()}))

    for change in (
        *(lambda name, p=prefix: p + name for prefix in ("net.", "model.model.", "_orig_mod.model.module.")),
        lambda name: name.replace("layer1.", "layer1._orig_mod."),  # a part of the network was compiled
        lambda name: name.replace("layer2.0.", "layer2.module.0."),
    ):
        chex.assert_trees_all_equal(read(change), arrays)
    with pytest.raises(InputError, match=r"holds conv1\.weight and module\.conv1\.weight, of two networks; save one"):
        from_state_dict(arrays | {f"module.{name}": array for name, array in arrays.items()})
    with pytest.raises(InputError, match=r"does not fit the network: criterion\.weight is not in this network$"):
        from_state_dict({f"model.{n}": a for n, a in arrays.items()} | {"criterion.weight": np.ones(3, np.float32)})


# Files.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype, torch, tmp_path):
    saved = {n: torch.tensor(a).to(getattr(torch, dtype)) for n, a in state_dict(random_network(TINY)).items()}
    torch.save({"state_dict": saved}, tmp_path / "half.pth")
    found = read_pytorch(tmp_path / "half.pth")
    assert found.epoch is None and found.momentum is None
    for name, array in state_dict(found.model).items():
        np.testing.assert_array_equal(array, saved[name].float().numpy())


@pytest.mark.parametrize("name", ["net", "model", "model_state_dict", "params"])
def test_the_only_state_dict_of_a_file_is_read_whatever_its_name(name, torch, tmp_path):
    saved = {n: torch.tensor(a) for n, a in state_dict(random_network(TINY)).items()}
    parameters = [n for n in saved if "running" not in n]
    sgd = {
        "state": {key: {"momentum_buffer": -saved[n]} for key, n in enumerate(parameters)},
        "param_groups": [{"params": list(range(len(parameters)))}],
    }
    content = {"epoch": 3, "acc": 95.1, name: {f"module.{n}": a for n, a in saved.items()}, "optimizer_state_dict": sgd}
    torch.save(content, tmp_path / "model.pth")
    found = read_pytorch(tmp_path / "model.pth")
    assert found.epoch == 3 and all(np.array_equal(a, saved[n].numpy()) for n, a in state_dict(found.model).items())
    np.testing.assert_array_equal(found.momentum["classifier.bias"], -saved["fc.bias"].numpy())
    torch.save(content | {"ema": saved}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=rf"holds several state dicts \({name}, ema\); save the one to convert alone$"):
        read_pytorch(tmp_path / "model.pth")


def test_tensors_of_any_kind_that_has_numbers_are_read(torch, tmp_path):
    saved = {n: torch.tensor(a) for n, a in state_dict(random_network(TINY)).items()}

    def reversed_in_memory(tensor):
        axes = tuple(reversed(range(tensor.ndim)))
        return tensor.permute(axes).contiguous().permute(axes)

    for change in (
        torch.nn.Parameter,
        reversed_in_memory,
        lambda tensor: tensor.clone().requires_grad_(),
        lambda tensor: torch.nn.Parameter(tensor.double()),
    ):
        torch.save({n: change(tensor) for n, tensor in saved.items()}, tmp_path / "model.pth")
        found = state_dict(read_pytorch(tmp_path / "model.pth").model)
        assert all(np.array_equal(array, saved[n].numpy()) for n, array in found.items())
    for change, message in (
        (lambda tensor: tensor.to("meta"), "fc.bias is not a dense array of numbers; save the state dict again"),
        (lambda tensor: tensor.to(torch.complex64), "fc.bias is complex64 and must be floating point"),
        (lambda tensor: torch.nn.Parameter(tensor.double() * 1e300), "too large for float32 in fc.bias"),
    ):
        torch.save(saved | {"fc.bias": change(saved["fc.bias"])}, tmp_path / "model.pth")
        with pytest.raises(InputError, match=message):
            read_pytorch(tmp_path / "model.pth")


def test_damaged_and_other_files_are_refused_in_one_sentence(torch, tmp_path):
    path = tmp_path / "model.pth"

    def of(content, **options):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    good = of({name: torch.tensor(array) for name, array in state_dict(random_network(TINY)).items()})
    old = of({"conv1.weight": torch.ones(9999)}, _use_new_zipfile_serialization=False)
    damaged = "is not a PyTorch checkpoint, or is damaged; fetch it again, or name another"
    for content, message in (
        *((part, damaged) for part in (b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", good[:-100], good[:99])),
        *((part, damaged) for part in (old[:-100], old[:99], old[:9])),
        (of(torch.ones(3)), "holds a Tensor; it must hold a state dict, or a dict with one as weight or state_dict"),
        (of({"model": {}, "epoch": 3}), "holds a dict of model, epoch; it must hold a state dict"),
        (of({"epoch": 3, "weight": torch.ones(3)}), "holds a dict of epoch, weight; it must"),
        (of({0: torch.ones(3)}), "is not a SEANet, SENet or ResNet as published: .* there are 0$"),
        (of({"state_dict": {"fc.weight": 3}}), "fc.weight is not a dense array of numbers"),
        (of({"state_dict": {"fc.weight": torch.ones(3, 3).to_sparse()}}), "fc.weight is not a dense array of numbers"),
        (of({"state_dict": {}, "epoch": -1}), "epoch is -1; it must be an integer from 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_pytorch(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)$"):
        read_pytorch(path)


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
