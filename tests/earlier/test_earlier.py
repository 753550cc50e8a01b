"""What version 0.1.0 wrote still loads, predicts, resumes and runs (README.md beside this file)."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from jax import export
from training_fixtures import TINY, TINY_RUN, made_dataset, records, small

from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.trained import load, load_model
from seanet_jax.models import weights
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit

ARCHIVE = Path(__file__).with_name("written_by_0.1.0.tar.xz")
# Other processors and versions of XLA round differently.
TOLERANCE = 1e-4


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The folder with the files, as the working directory: the run's config names its folder ``run``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(earlier):
    with np.load(earlier / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("folder", ["run", "weights"])
def test_a_run_and_pretrained_weights_predict(earlier, expected, folder):
    images = made_dataset().test_images[:8]
    with small(made_dataset(), TINY):
        classifier = Classifier(load(earlier / folder), batch_size=8)
    found = classifier.probabilities(classifier(images))
    np.testing.assert_allclose(found, expected["probabilities"], atol=TOLERANCE)


def test_an_exported_artifact_runs(earlier, expected):
    artifact = export.deserialize(bytearray((earlier / "network.stablehlo").read_bytes()))
    found = artifact.call(made_dataset().test_images[:8])
    np.testing.assert_allclose(found, expected["probabilities"], atol=TOLERANCE)


@pytest.mark.slow
def test_a_run_resumes_to_the_end_that_its_own_version_reached(earlier, expected):
    with small(made_dataset(), TINY):
        fit(TrainConfig(out=earlier / "run", resume=True, **TINY_RUN))
        model = load_model(earlier / "run", "latest")
    final = {name.removeprefix("final."): array for name, array in expected.items() if name.startswith("final.")}
    found = weights.to_arrays(model)
    assert found.keys() == final.keys()
    for name, array in final.items():
        np.testing.assert_allclose(found[name], array, atol=TOLERANCE, err_msg=name)
    saved = json.loads((earlier / "expected.json").read_text())["records"]
    assert [record["step"] for record in records(earlier / "run")] == [record["step"] for record in saved]
    for ours, theirs in zip(records(earlier / "run"), saved, strict=True):
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=TOLERANCE)


def test_another_recipe_is_no_continuation_of_it(earlier):
    with small(made_dataset(), TINY), pytest.raises(ValueError, match="batch_size: 8 was saved, 4 is asked"):
        fit(dataclasses.replace(TrainConfig(out=earlier / "run", resume=True, **TINY_RUN), batch_size=4))
