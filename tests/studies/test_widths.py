"""The study of widths: its table and its sentence from made runs, and the whole of it on digits."""

import dataclasses
import math

import pytest
from study_fixtures import leave_run

from seanet_jax.errors import InputError
from seanet_jax.models import PRESETS
from seanet_jax.models.seanet import SEANetConfig
from seanet_jax.studies import widths
from seanet_jax.studies.power_law import EqualError
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import StudyCommand

MODELS = ("seanet20_small", "seanet20_narrow")
FACTOR = 1.5


def command(folder, models=MODELS, **fields):
    config = TrainConfig(out=folder, epochs=1, **fields)
    return StudyCommand(config, {model: {} for model in models}, 2, (0.1,), False, False)


def leave_runs(folder, factor=FACTOR):
    """Leaves runs in which aggregation needs 1.5 times the compute at equal error."""
    base = TrainConfig(out=folder, epochs=1)
    variants = {
        model + end: {"model": model, **fields}
        for model in MODELS
        for end, fields in (("", {}), (widths.PLAIN, {"aggregate_placement": "none"}))
    }
    study = Study(folder, base, variants, seeds=2)
    study.write()
    for row in widths.comparison.rows(study):
        cost = row.multiply_adds / 1e6 / (factor if row.aggregates else 1)
        for seed, shift in enumerate((1.01, 1 / 1.01)):
            leave_run(study, Run(row.model, 0.1, seed), [1 - 0.9 * shift * cost**-0.1])
    return study


@pytest.mark.slow
def test_the_command_tabulates_what_its_runs_found(tmp_path, capsys):
    leave_runs(tmp_path)
    widths.run_widths(command(tmp_path), {})  # nothing is missing
    table = (tmp_path / "widths.md").read_text()
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    # 0.9 x (40.39 / 1.5) ** -0.1, and the deviation of two seeds that differ by 2 %.
    assert lines[2] == "| seanet20_small | yes | 40.4 | 283,174 | 0.1 | 64.75 ± 0.91 | 2 |"
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["yes"] * 2 + ["no"] * 2
    assert (
        "needs 1.50 times the multiply-adds (95 % bootstrap interval over 2 seeds: 1.50 to 1.50): it costs 50%."
        in table
    )
    assert "with one exponent for both: -0.100. Alone," in table
    assert (tmp_path / "widths.csv").read_text().startswith("model,aggregates,multiply_adds,")
    assert (tmp_path / "widths.svg").exists()


def found(**fields):
    plain = EqualError(0.8, 0.7, 0.9, -0.1, (1.0, 1.0), (-0.1, -0.1), True, 3)
    return plain._replace(**fields)


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (found(), "0.80 times the multiply-adds (95 % bootstrap interval over 3 seeds: 0.70 to 0.90): it saves 20%."),
        (found(low=None, high=None), "multiply-adds (one seed, so without an interval): it saves 20%."),
        (found(high=1.2), "it saves 20%. The interval holds 1, so the runs do not tell whether it costs or saves."),
        (found(low=0.0, high=math.inf), "0.00 without an upper end): it saves 20%. The interval holds 1"),
        (
            found(is_reached=False),
            "it saves 20%. No error is within reach of both curves, so the factor is an extrapola",
        ),
        (found(factor=None), "No distance at equal error: the errors do not fall with the multiply-adds."),
        ("an arm has 1 networks", "No distance at equal error: an arm has 1 networks."),
    ],
)
def test_the_distance_in_words(distance, said):
    assert said in widths.sentences(distance)


def test_networks_that_cannot_be_compared_are_named_before_anything_is_trained(tmp_path):
    for models, message in (
        (("seanet20",), "--models names 1 network; name at least two"),
        (("seanet20", "senet20"), "--models names senet20, which does not aggregate; name networks that do"),
        (("seanet20", "encapnet"), "encapnet has no field 'aggregate_placement'"),
    ):
        with pytest.raises(InputError, match=message):
            widths.run_widths(command(tmp_path / "study", models), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_three_widths_are_trained_on_digits(tmp_path, monkeypatch):
    for width in (2, 4, 8):
        config = SEANetConfig(stage_sizes=(1,), widths=(width,), stem_width=2, squeeze_excite=False, aggregate_factor=2)
        monkeypatch.setitem(PRESETS, f"tiny{width}", dataclasses.replace(config, conv_method="lax"))
    small = {"dataset": "digits", "batch_size": 32, "limit_train": 320, "limit_test": 100, "learning_rate": 0.1}
    asked = command(tmp_path, ("tiny2", "tiny4", "tiny8"), conv_method="lax", augment=False, **small)
    # Compiling takes nearly all of the time.
    widths.run_widths(dataclasses.replace(asked, seeds=1), {"xla_backend_optimization_level": "0"})
    lines = (tmp_path / "widths.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:8]] == 2 * ["| tiny2", "| tiny4", "| tiny8"]
    assert "at equal error" in lines[9].lower()
