"""Weights in a folder of model.safetensors and config.json are read back bit for bit; wrong folders are refused."""

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import seanet_jax
from seanet_jax import ImageSpec, InputError, SEANet, SEANetConfig, durable
from seanet_jax.models import weights

CONFIG = SEANetConfig(stage_sizes=(1, 1), widths=(8, 16), stem_width=4, reduction=4, num_classes=3, in_channels=2)
SPEC = ImageSpec(8, 8, (0.5, 0.4), (0.2, 0.3), ("cat", "dog", "cow"))
X = np.random.RandomState(0).standard_normal((2, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    made = SEANet(CONFIG, rngs=nnx.Rngs(0))
    made(jnp.asarray(X))  # moves the running averages away from 0 and 1
    made.eval()
    return made


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "weights", SPEC)
    return tmp_path / "weights"


def test_everything_comes_back_bit_for_bit(model, folder):
    again = SEANet.from_pretrained(folder)
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    assert again.config == CONFIG
    chex.assert_trees_all_equal(again(jnp.asarray(X)), model(jnp.asarray(X)))
    assert weights.read(folder).images == SPEC


def test_float16_halves_the_file_and_rounds_the_weights(model, folder, tmp_path):
    model.save_pretrained(tmp_path / "half", SPEC, dtype="float16")
    exact, rounded = weights.to_arrays(model), weights.to_arrays(SEANet.from_pretrained(tmp_path / "half"))
    for name, array in exact.items():
        np.testing.assert_array_equal(rounded[name], array.astype(np.float16).astype(np.float32))
    sizes = [
        sum(array.nbytes for array in load_file(at / "model.safetensors").values())
        for at in (folder, tmp_path / "half")
    ]
    assert sizes[0] == 2 * sizes[1]


def test_a_weight_that_float16_cannot_hold_is_refused(model, tmp_path):
    large = SEANet(CONFIG, rngs=nnx.Rngs(0))
    large.classifier.kernel.set_value(large.classifier.kernel[...] + 1e5)
    with pytest.raises(InputError, match=r"too large for float16: classifier\.kernel; write them as float32"):
        large.save_pretrained(tmp_path / "large", dtype="float16")
    with pytest.raises(InputError, match="dtype is 'float8'; it must be one of float32, float16"):
        model.save_pretrained(tmp_path / "large", dtype="float8")
    assert not (tmp_path / "large").exists()


def test_the_files_are_what_other_readers_expect(model, folder):
    tensors = load_file(folder / "model.safetensors")
    assert tensors["stages.1.blocks.0.conv1.kernel"].shape == (3, 3, 2, 16)
    assert tensors.keys() == weights.shapes(model).keys()
    about = json.loads((folder / "config.json").read_text())
    assert (about["model_type"], about["architectures"], about["widths"]) == ("seanet", ["SEANet"], [8, 16])
    assert about["images"]["class_names"] == ["cat", "dog", "cow"]


def test_they_are_read_without_orbax(folder):
    code = (
        f"import sys, seanet_jax; seanet_jax.SEANet.from_pretrained({str(folder)!r}); "
        "print([name for name in sys.modules if 'orbax' in name])"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_a_classifier_they_are_a_backbone(model, folder):
    backbone = SEANet.from_pretrained(folder, num_classes=0)
    assert backbone.classifier is None and backbone.config.num_classes == 0
    chex.assert_trees_all_equal(backbone(jnp.asarray(X)), model.features(jnp.asarray(X))["pooled"])


def test_a_new_classifier_is_drawn(model, folder):
    with pytest.raises(InputError, match="give rngs"):
        SEANet.from_pretrained(folder, num_classes=7)
    fresh = SEANet.from_pretrained(folder, num_classes=3, rngs=nnx.Rngs(1))
    assert (fresh.classifier.kernel[...] != model.classifier.kernel[...]).all()
    seven = SEANet.from_pretrained(folder, num_classes=7, rngs=nnx.Rngs(1))
    chex.assert_shape(seven(jnp.asarray(X)), (2, 7))
    chex.assert_trees_all_equal(seven.features(jnp.asarray(X)), model.features(jnp.asarray(X)))


@pytest.mark.parametrize("classes", [3, np.int64(3)])
def test_the_saved_number_of_classes_keeps_the_trained_classifier(model, folder, classes):
    again = SEANet.from_pretrained(folder, num_classes=classes)
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(model))
    assert again.config == CONFIG


def test_a_backbone_that_was_given_a_classifier_is_saved_with_it(folder, tmp_path):
    backbone = SEANet.from_pretrained(folder, num_classes=0)
    backbone.classifier = nnx.Linear(backbone.num_features, 5, rngs=nnx.Rngs(1))
    backbone.save_pretrained(tmp_path / "new", dataclasses.replace(SPEC, class_names=tuple("abcde")))
    again = SEANet.from_pretrained(tmp_path / "new")
    assert again.config == dataclasses.replace(CONFIG, num_classes=5)
    chex.assert_trees_all_equal(again(jnp.asarray(X)), backbone(jnp.asarray(X)))


def test_a_network_whose_classifier_was_removed_is_saved_as_a_backbone(folder, tmp_path):
    model = SEANet.from_pretrained(folder)
    model.classifier = None
    model.save_pretrained(tmp_path / "new")
    again = SEANet.from_pretrained(tmp_path / "new")
    assert again.classifier is None and again.config.num_classes == 0
    chex.assert_trees_all_equal(again(jnp.asarray(X)), model(jnp.asarray(X)))


def test_a_classifier_that_could_not_be_read_back_is_not_written(folder, tmp_path):
    backbone = SEANet.from_pretrained(folder, num_classes=0)
    backbone.classifier = nnx.Linear(backbone.num_features, 5, use_bias=False, rngs=nnx.Rngs(1))
    with pytest.raises(InputError, match=r"save_pretrained: the model .*: classifier.bias is missing"):
        backbone.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_dtype_and_method_are_chosen_by_the_reader(folder):
    assert SEANet.from_pretrained(folder).config.dtype == "float32"
    config = SEANet.from_pretrained(folder, dtype="bfloat16", conv_method="lax").config
    assert config == dataclasses.replace(CONFIG, dtype="bfloat16", conv_method="lax")


def test_a_folder_is_written_again(model, folder):
    model.save_pretrained(folder)
    assert weights.read(folder).images is None
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.slow
def test_a_save_that_was_killed_between_its_two_files_is_read_as_the_new_one(model, folder, monkeypatch):
    replaced, replace = [], Path.replace

    def killed(source, target):
        if replaced:
            raise SystemExit
        replaced.append(replace(source, target))

    other = SEANet(dataclasses.replace(CONFIG, widths=(8, 20)), rngs=nnx.Rngs(1))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "replace", killed)
        patch.setattr(durable, "_remove", lambda _: None)  # a killed process removes nothing
        other.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["widths"] == [8, 16]
    again = SEANet.from_pretrained(folder)
    assert again.config.widths == (8, 20) and weights.read(folder).images is None
    chex.assert_trees_all_equal(weights.to_arrays(again), weights.to_arrays(other))
    model.save_pretrained(folder, SPEC)
    assert SEANet.from_pretrained(folder).config == CONFIG


def test_a_config_may_be_edited_by_hand(folder):
    about = json.loads((folder / "config.json").read_text())
    about["images"]["class_names"] = ["a", "b", "c"]
    (folder / "config.json").write_text(json.dumps(about))
    assert weights.read(folder).images.class_names == ("a", "b", "c")


def test_a_save_gives_the_same_bytes_each_time(model, folder):
    first = (folder / "model.safetensors").read_bytes()
    for _ in range(5):  # safetensors orders two entries of metadata at random
        model.save_pretrained(folder, SPEC)
        assert (folder / "model.safetensors").read_bytes() == first
    (length,) = struct.unpack("<Q", first[:8])
    assert length % 8 == 0
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert json.loads(first[8 : 8 + length])["__metadata__"] == {
        "format": "flax",
        "seanet_jax": seanet_jax.__version__,
        "config_sha256": digest,
    }


def test_a_runs_folder_is_left_alone(model, tmp_path):
    (tmp_path / "config.json").write_text("of a run")
    with pytest.raises(InputError, match="not of pretrained weights; name another"):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_images_of_another_network_are_refused(model, tmp_path):
    for changes in ({"class_names": ("a",)}, {"mean": (0.5,), "std": (0.2,)}):
        with pytest.raises(InputError, match="the network has 2 and 3"):
            model.save_pretrained(tmp_path / "new", dataclasses.replace(SPEC, **changes))
    assert not (tmp_path / "new").exists()


def test_every_wrong_array_is_named_at_once(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["stem_bn.mean"]
    tensors["extra"] = np.zeros(3, np.float32)
    tensors["classifier.bias"] = np.zeros(4, np.float32)
    tensors["stem_bn.bias"] = np.zeros(4, np.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as caught:
        SEANet.from_pretrained(folder)
    for words in (
        "stem_bn.mean is missing",
        "extra is not in this network",
        "classifier.bias has shape (4,) and must have (3,)",
        "stem_bn.bias is int32 and must be floating point",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b"[]", "config.json is damaged"),
        ("config.json", b'{"widths": [8]}', "config.json is damaged"),
        ("config.json", b'{"model_type": "seanet", "architectures": [], "images": 3}', "config.json is damaged"),
        ("config.json", b'{"model_type": ["seanet"]}', "config.json is damaged .model_type is .*must be a text"),
        ("config.json", b'{"a":' * 1000 + b"1" + b"}" * 1000, "config.json is damaged .it is nested more than 50"),
        ("config.json", b"[" * 100_000, "config.json is damaged .it is nested more than 50"),
        ("config.json", b'{"model_type": "seanet", "images": {"height": 3}}', "config.json is damaged"),
        ("config.json", b'{"model_type": "seanet", "\\u001b[31m": 1}', r"the field \\x1b\[31m, which"),
        (
            "config.json",
            b'{"model_type": "seanet", "architectures": [], "width": 8}',
            "has the field width, which seanet_jax .* does not know",
        ),
        ("config.json", b'{"model_type": "seanet", "architectures": [], "widths": 8}', "widths is 8"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
        ("model.safetensors", b"\x80\x04cos\nsystem\n", "model.safetensors is damaged"),
    ],
)
def test_damage_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        SEANet.from_pretrained(folder)


def change_config(folder, **fields):
    about = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": [10**4 - 1, 1]}, r"does not fit the network: stages\.0\.blocks\.1\.conv1\.kernel is missing"),
        ({"stage_sizes": [1] * 9999, "widths": [8] * 9999}, r"stages\.2\.blocks\.0\.conv1\.kernel is missing"),
        ({"stage_sizes": [10**6, 1]}, r"config\.json: stage_sizes has 1,000,001 blocks; it must have at most 10,000"),
        ({"stage_sizes": [1] * 10**6, "widths": [8] * 10**6}, "stage_sizes has 1,000,000 blocks"),
        ({"widths": [8, 10**12]}, r"config\.json: widths is more than 2,147,483,647"),
        ({"num_classes": 10**400}, "num_classes is more than 2,147,483,647"),
        ({"num_classes": 10**8}, r"classifier\.kernel has shape \(4, 3\) and must have \(4, 100000000\)"),
        ({"stem_width": 10**9}, "Conv: these sizes give an array of more than 2,147,483,647 values"),
        ({"images": SPEC.to_json() | {"height": 10**12}}, "ImageSpec: these sizes give an array of more than"),
        ({"images": SPEC.to_json() | {"mean": [10**400, 0]}}, "it must be a tuple of finite numbers"),
        ({"widths": [8] * 10**5 + ["x"]}, r"widths is \(8, 8, 8, 8, 8, 8, \.\.\.\); it must be"),
        ({str(number): 1 for number in range(1000)}, "and 980 more, which"),
    ],
)
def test_the_sizes_of_a_config_are_checked_before_anything_is_built(folder, fields, message, monkeypatch):
    built = []
    monkeypatch.setattr(SEANet, "new_classifier", lambda self, rngs: built.append(1))
    if fields.get("num_classes") == 10**8:  # only abstractly
        monkeypatch.undo()
    change_config(folder, **fields)
    with pytest.raises(InputError, match=message):
        SEANet.from_pretrained(folder)
    assert not built


def test_how_a_network_is_computed_is_not_read_from_the_file(folder):
    change_config(folder, dtype="bfloat16", conv_method="patches", batch_groups=4)
    assert SEANet.from_pretrained(folder).config == CONFIG


def _safetensors(dtype, sizes, tensors):
    """A file of safetensors whose header says that the tensors are of a dtype; by hand, since NumPy has not all."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + int(tensor.size * sizes)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@pytest.mark.parametrize(
    ("dtype", "size", "message"),
    [
        (
            "F8_E4M3",
            1,
            r"has numbers of fewer than 16 bits: .*classifier\.bias is F8_E4M3.*; write the weights as float32",
        ),
        ("F8_E5M2", 1, "has numbers of fewer than 16 bits"),
        ("F8_E8M0", 1, "has numbers of fewer than 16 bits"),
        ("I8", 1, r"classifier\.bias is int8 and must be floating point"),
        ("BOOL", 1, r"classifier\.bias is bool and must be floating point"),
        ("C64", 8, r"classifier\.bias is complex64 and must be floating point"),
        ("I64", 8, r"classifier\.bias is int64 and must be floating point"),
        ("F7", 1, "is damaged"),
        ("F32", 8, "is damaged"),
    ],
)
def test_weights_that_are_not_floating_point_of_16_bits_or_more_are_refused(folder, dtype, size, message):
    (folder / "model.safetensors").write_bytes(_safetensors(dtype, size, load_file(folder / "model.safetensors")))
    with pytest.raises(InputError, match=message):
        SEANet.from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["float16", "float64", jnp.bfloat16])
def test_weights_of_another_floating_point_dtype_are_read_as_float32(model, folder, dtype):
    cast = {name: array.astype(dtype) for name, array in weights.to_arrays(model).items()}
    save_file(cast, folder / "model.safetensors")
    found = weights.to_arrays(SEANet.from_pretrained(folder))
    chex.assert_trees_all_equal(found, {name: array.astype(np.float32) for name, array in cast.items()})


def test_weights_beyond_the_range_of_float32_become_infinite_without_a_warning(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = np.full(3, 1e300)
    save_file(tensors, folder / "model.safetensors")
    assert np.isinf(SEANet.from_pretrained(folder).classifier.bias[...]).all()


def test_a_truncated_file_of_weights_is_damaged(folder):
    content = (folder / "model.safetensors").read_bytes()
    for damaged in (content[:-1], content[:100], content + b"x", struct.pack("<Q", 2**60) + content[8:]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors is damaged \(.*\); write the folder again"):
            SEANet.from_pretrained(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must have model\.safetensors and config\.json in it"):
        SEANet.from_pretrained(tmp_path)
