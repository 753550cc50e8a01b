"""The PyTorch baseline of the benchmarks is the published network, and the benchmarks run."""

import re
import subprocess
import sys
from pathlib import Path

import golden_reference as reference
import numpy as np
import pytest

from seanet_jax.models import model_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks_importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def baseline():
    """Returns the PyTorch network with the published weights in float64, the golden numbers, images and labels."""
    from pytorch_seanet import SEANet

    golden = reference.load("cifar100")
    network = SEANet(model_config("seanet20", num_classes=reference.CLASSES["cifar100"])).double()
    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in reference.weights(golden).items()}
    unknown = network.load_state_dict(weights, strict=False)
    assert unknown.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in unknown.missing_keys)
    images, labels = reference.images_and_labels(reference.CLASSES["cifar100"])
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return network, golden, images.to(memory_format=torch.channels_last), torch.from_numpy(labels)


def test_the_baseline_is_the_published_network(baseline):
    network, golden, images, labels = baseline
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["num_params"]
    with torch.no_grad():
        logits = network.eval()(images).numpy()
    np.testing.assert_allclose(logits, golden["eval_logits"], rtol=1e-6, atol=1e-6 * np.abs(logits).max())
    network.train()
    logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["train_loss"]), rel=1e-6)
    norms = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
    for name, norm in norms.items():
        assert norm == pytest.approx(float(golden[f"gradnorm/{name}"]), rel=1e-6), name


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_implementations_take_turns_and_make_a_table():
    flags = ("--model", "seanet20_narrow", "--batch-size", "2", "--rounds", "2", "--steps", "1")
    table = run("train_step.py", *flags, "--implementations", "torch channels_last", "seanet_jax")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith(("| torch", "| seanet_jax"))]
    assert [row[0] for row in rows] == ["| torch channels_last", "| seanet_jax"]
    assert rows[1][2] == rows[1][4] == "1.00 (1.00-1.00)"
    for row in rows:
        median, low, high = (float(number) for number in re.findall(r"[\d.]+", row[1]))
        assert 0 < low <= median <= high
        assert 0.1 < float(row[5]) < 10  # GiB
    assert "GFLOP/s" in table


def test_the_whole_loop_is_an_implementation_too():
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); "
        "from implementations import Task; from interleaved import compare; "
        "result = compare(Task('resnet20', 8), ('fit',), rounds=1, steps=3, do=('train',))['fit']; "
        "print(*result.seconds['train'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert [float(seconds) > 0 for seconds in done.stdout.split()] == [True]


def test_inference_makes_a_table():
    flags = ("--models", "resnet20", "--batch-sizes", "2", "--rounds", "2", "--seconds", "0.01")
    cells = run("inference.py", *flags).splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["resnet20", "2"]
    for cell in cells[2:5]:
        median, low, high = (float(number) for number in re.findall(r"[\d.]+", cell))
        assert 0 < low <= median <= high


def test_augmentations_are_timed_beside_the_training_step(monkeypatch):
    import augmentation

    monkeypatch.setattr(augmentation, "MODEL", "resnet20")
    monkeypatch.setattr(augmentation, "BATCH_SIZES", (2,))
    chosen = {name: augmentation.AUGMENTATIONS[name] for name in ("crop and mirror", "CutMix")}
    monkeypatch.setattr(augmentation, "AUGMENTATIONS", chosen)
    monkeypatch.setattr(augmentation, "STEPS", {augmentation.WITHOUT: {"augment": False}})
    head, _, *rows = (line.strip("| ").split(" | ") for line in augmentation.markdown(rounds=2).splitlines())
    assert head == ["resnet20", "batch 2, ms", "of the step without, %"]
    assert [row[0] for row in rows] == [*chosen, augmentation.WITHOUT]
    assert all(float(row[1]) > 0 for row in rows)
    assert rows[-1][2] == "100.00 (100.00-100.00)"


def test_every_section_has_a_place_on_its_page():
    from performance_page import COMPUTED, DOCS, PAGES, replaced

    for name, sections in PAGES.items():
        page = (DOCS / name).read_text()
        for section in sections:
            page = replaced(page, section, "made anew", None if section in COMPUTED else "a new kind")
        assert page.count("made anew") == len(sections)


def test_a_section_replaces_that_of_its_own_kind_of_processor_alone():
    from performance_page import replaced

    def section(name, text):
        return f"<!-- measured: {name} -->\n{text}\n<!-- end: {name} -->\n"

    page = f"a\n{section('speed on AVX2', 'old')}b\n{section('paper', 'old')}c\n"
    assert replaced(page, "paper", "new") == page.replace(section("paper", "old"), section("paper", "new"))
    changed = page.replace(section("speed on AVX2", "old"), section("speed on AVX2", "new"))
    assert replaced(page, "speed", "new", "AVX2") == changed
    added = section("speed on AVX2", "old") + "\n" + section("speed on AMX", "new")
    assert replaced(page, "speed", "new", "AMX") == page.replace(section("speed on AVX2", "old"), added)
    for name, kind in (("other", None), ("other", "AVX2")):
        with pytest.raises(ValueError, match=r"measured: other.* once each"):
            replaced(page, name, "", kind)


def test_the_kind_of_processor_is_that_of_its_fastest_instructions():
    import processor

    cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu {}\nmodel name\t: Some CPU\nflags\t\t: fpu {}\n"
    flags = {"AVX2": "avx2", "AVX-512": "avx2 avx512f", "AVX-512 with bfloat16": "avx2 avx512f avx512_bf16"}
    flags["AMX"] = f"{flags['AVX-512 with bfloat16']} amx_bf16 amx_tile"
    for kind, names in flags.items():
        assert processor.kind(cpuinfo.format(names, names)) == kind
    assert " cores of Some CPU, AMX, Python 3." in processor.describe(cpuinfo.format(flags["AMX"], flags["AMX"]))


def test_an_unknown_section_is_named():
    with pytest.raises(AssertionError, match="no section fast; the sections are full"):
        run("performance_page.py", "fast")
