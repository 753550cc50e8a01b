"""experiments/bundle.py writes the weights and the card of runs that differ in their seeds alone."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training_fixtures import NAMES, made_dataset, small

from seanet_jax import InputError, load
from seanet_jax.models import weights

SCRIPT = Path(__file__).parent.parent / "experiments" / "bundle.py"


@pytest.fixture(scope="module")
def bundle():
    spec = importlib.util.spec_from_file_location("bundle", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bundle


@pytest.fixture
def runs(evaluated, tmp_path):
    """Folders of two runs that differ in their seeds, where their images are at hand."""
    second = shutil.copytree(evaluated, tmp_path / "seed1")
    change(second / "config.json", "config", seed=1)
    with small(made_dataset(class_names=NAMES)):
        yield [evaluated, second]


def change(path, *part, **fields):
    about = json.loads(path.read_text())
    functools.reduce(dict.__getitem__, part, about).update(fields)
    path.write_text(json.dumps(about))


@pytest.mark.slow
def test_it_writes_the_last_network_in_float16_with_a_card(bundle, runs, tmp_path):
    folder = Path(bundle(runs, "latest", tmp_path / "networks"))
    assert folder == tmp_path / "networks" / "tiny-digits"
    exact = weights.to_arrays(load(runs[0], "latest").model)
    for name, array in weights.read(folder).arrays.items():
        np.testing.assert_array_equal(array, exact[name].astype(np.float16))
    card = (folder / "README.md").read_text()
    accuracy = 100 * json.loads((runs[0] / "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"]
    assert f"- **All seeds:** {accuracy:.2f}, {accuracy:.2f} % at the last epoch" in card
    assert "--batch-size 8 --learning-rate 0.005" in card and "CC BY 4.0" in card
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_runs_that_are_not_alike_or_not_finished_are_refused(bundle, runs, tmp_path):
    change(runs[1] / "config.json", "config", weight_decay=0.5)
    with pytest.raises(InputError, match=r"seed1 is another run than .*weight_decay"):
        bundle(runs, "latest", tmp_path / "networks")
    change(runs[1] / "summary.json", finished=False)
    with pytest.raises(InputError, match="seed1 is not finished; finish it, or leave it out"):
        bundle(runs, "latest", tmp_path / "networks")
    assert not (tmp_path / "networks").exists()
