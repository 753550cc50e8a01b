"""Checkpoints of PyTorch, and what is evaluated and exported."""

import dataclasses
import json
import sys

import chex
import numpy as np
import pytest
from networks import random_network
from training_fixtures import TINY, settled

from seanet_jax import ImageSpec, InputError, SEANetConfig
from seanet_jax.commands import convert, evaluate
from seanet_jax.data import image_spec
from seanet_jax.data import load as load_dataset
from seanet_jax.errors import RunError
from seanet_jax.inference import evaluation, stablehlo
from seanet_jax.models import PRESETS, model_config
from seanet_jax.models.fold import fold_batch_norm
from seanet_jax.models.pytorch import read_pytorch, state_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
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
