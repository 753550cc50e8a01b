"""The verdicts on made numbers, and the whole analysis on small trained networks."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import TINY, TINY_RUN, made_dataset

from seanet_jax.errors import InputError
from seanet_jax.models import PRESETS, SEANet
from seanet_jax.studies import claims
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit
from seanet_jax.training.schedule import learning_rate_schedule


def stage(after, chosen):
    names = ("median_correlation", "effective_rank_share")
    return {
        "after": dict(zip(names, after, strict=True)) | {"effective_rank": 3.0, "channels": 4},
        "plain_chosen": dict(zip(names, chosen, strict=True)) | {"effective_rank": 2.0, "channels": 4},
    }


LESS, MORE = stage((0.1, 0.8), (0.2, 0.5)), stage((0.3, 0.8), (0.2, 0.5))


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([LESS, LESS], "The claim holds here."),
        ([MORE, stage((0.1, 0.4), (0.2, 0.5))], "The claim does not hold here."),
        ([MORE, LESS], "The claim holds here in stage 2 alone."),
    ],
)
def test_redundancy_is_less_if_correlation_falls_and_rank_rises(rows, verdict):
    measured, found = claims.redundancy_sentences(rows)
    assert found == verdict
    assert "stage 1: 0." in measured and "effective rank 3.0 and 2.0 of 4" in measured


def rows(*norms):
    return [{"step": step, "loss": 4.6, "gradient_norms": [norm, norm]} for step, norm in zip((0, 10), norms)]  # noqa: B905


@pytest.mark.parametrize(
    ("sums", "verdict"),
    [
        ((3.0, 3.0), "The claim holds here."),
        ((1.0, 1.0), "The claim does not hold here."),
        ((1.0, 3.0), "The sum's is the largest at step 10 alone: the claim does not hold throughout."),
    ],
)
def test_gradients_flow_if_those_of_the_sum_are_the_largest(sums, verdict):
    found = {"sum": rows(*sums), "mean": rows(0.5, 0.5), "max": rows(2.0, 2.0), "none": rows(1.5, 1.5)}
    measured, said = claims.gradient_sentences(found)
    assert said == verdict
    assert "step 10: " in measured and "0.5, 2, 1.5 (loss 4.60" in measured


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"before": 0.5, "after": 0.99, "random_groups": 0.9}, "The claim holds here."),
        ({"before": 0.5, "after": 0.8, "random_groups": 0.9}, "than chance would."),
        ({"before": 0.5, "after": 0.4, "random_groups": 0.5}, "The claim does not hold here."),
    ],
)
def test_maps_are_global_if_groups_cover_more_than_chance(row, verdict):
    measured, said = claims.coverage_sentences([row, row])
    assert said.endswith(verdict)
    assert f"stage 2: 50% before, {row['after']:.0%} after" in measured


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folders of two runs, trained once."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        patch.setattr("seanet_jax.training.images.load", lambda name, data_dir, mapped: made_dataset())
        ours = TrainConfig(out=folder / "ours", **(TINY_RUN | {"epochs": 1}))
        baseline = dataclasses.replace(ours, out=folder / "baseline", aggregate_placement="none")
        for config in (ours, baseline):
            fit(config)
        yield ours.out, baseline.out


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decay_every": 1},
        {"decay_every": None, "decay_at": (1, 2), "decay_factor": 0.5},
        {"schedule": "one_cycle"},
        {"schedule": "cosine", "warmup_epochs": 2.0, "optimizer": "muon"},
    ],
    ids=str,
)
def test_gradients_are_measured_at_the_learning_rate_that_is_named_whatever_the_runs_schedule(fields):
    config = claims._gradient_config(TrainConfig(**fields), "max", 0.3)
    schedule = learning_rate_schedule(config, 5)
    assert {float(schedule(jnp.int32(step))) for step in (0, 1, 7, 300)} == {float(np.float32(0.3))}
    assert config.aggregate_op == "max" and config.optimizer == TrainConfig(**fields).optimizer


@pytest.mark.slow
def test_an_analysis_measures_draws_and_says(pair, tmp_path):
    found = claims.analyze(*pair, tmp_path / "out", images=23, steps=12, learning_rate=0.05, command="the command")
    assert found == json.loads((tmp_path / "out" / "analysis.json").read_text())
    figures = {path.name for path in (tmp_path / "out").iterdir()} - {"analysis.json"}
    assert figures == {f"{claim['figure']}{suffix}" for claim in found["claims"] for suffix in (".svg", ".png")}
    assert "clip-path" not in (tmp_path / "out" / "maps.svg").read_text()  # or it would differ from run to run
    assert [claim["claim"] for claim in found["claims"]] == [
        "minimised redundancies",
        "significant flow of gradient with sum",
        "a global representation",
    ]
    assert found["command"] == "the command"
    assert "first 23 test images of made" in found["subject"] and "of 40 training images" in found["subject"]
    assert [row["before"]["channels"] for row in found["redundancy"]] == [8, 16]
    assert [row["after"]["channels"] for row in found["redundancy"]] == [4, 8]
    assert [row["step"] for row in found["gradients"]["sum"]] == [0, 10, 12]
    # The same first kernels, and where nothing aggregates no more of them than the network has.
    assert found["gradients"]["sum"][0]["layers"] == found["gradients"]["none"][0]["layers"]
    for row in found["coverage"]:
        assert 0 < row["before"] <= row["after"] <= 1 and row["before"] <= row["random_groups"] <= 1


@pytest.mark.slow
def test_moments_of_batches_are_those_of_all_images(pair, monkeypatch):
    trained = claims.Trained("ours", None, claims.load_model(pair[0], "latest"))
    whole = claims._moments(trained.model, made_dataset(), 23)
    shares = claims._coverage(trained, made_dataset(), 23)
    monkeypatch.setattr(claims, "_IMAGES_AT_A_TIME", 10)
    for one, other in zip(whole, claims._moments(trained.model, made_dataset(), 23), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.samples == b.samples
            np.testing.assert_allclose(a.covariance(), b.covariance(), rtol=1e-4, atol=1e-6)
    for one, other in zip(shares, claims._coverage(trained, made_dataset(), 23), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.slow
def test_what_cannot_be_analyzed_is_named_before_anything_is_written(pair, tmp_path):
    ours, baseline = pair
    out = tmp_path / "out"
    for runs, message in (
        ((baseline, ours), "run baseline does not aggregate after its stages; the first run must"),
        ((ours, ours), "run ours aggregates; the second run must not"),
        ((tmp_path, baseline), "holds no run"),
    ):
        with pytest.raises(InputError, match=message):
            claims.analyze(*runs, out, images=10, steps=1)
    for numbers, message in (
        ({"images": 24}, "images is 24; it must be at most 23, the number of test images"),
        ({"images": 10, "image": 23}, "image is 23; it must be the index of a test image, from 0 to 22"),
        ({"steps": 0}, "steps is 0; it must be a positive integer"),
        ({"images": 10, "learning_rate": 0.0}, "learning_rate"),
    ):
        with pytest.raises(InputError, match=message):
            claims.analyze(ours, baseline, out, **numbers)
    assert not out.exists()


@pytest.mark.parametrize(
    ("ours", "baseline", "message"),
    [
        ({}, {"widths": (8, 24)}, r"ours has widths \(8, 16\) on digits, and run baseline has .*\(8, 24\) on digits"),
        ({"preactivation": True}, {}, "run ours aggregates maps that are not rectified"),
        ({"aggregate_op": "dense"}, {}, "run ours does not reduce groups of adjacent channels alone after every stage"),
        ({"aggregate_norm": True}, {}, "give a run whose aggregate_op is one of sum, mean, max, normalized_sum, drop"),
        ({"aggregate_stages": (1,)}, {}, "without aggregate_stages and aggregate_norm"),
    ],
)
def test_networks_that_differ_in_more_are_no_pair(monkeypatch, ours, baseline, message):
    monkeypatch.setitem(PRESETS, "tiny", TINY)

    def untrained(name, **fields):
        model = nnx.eval_shape(lambda: SEANet(dataclasses.replace(TINY, **fields), rngs=nnx.Rngs(0)))
        return claims.Trained(name, TrainConfig(**TINY_RUN), model)

    with pytest.raises(InputError, match=message):
        claims._check_pair(untrained("ours", **ours), untrained("baseline", aggregate_placement="none", **baseline))
