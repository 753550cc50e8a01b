"""Tables of made run folders; what is in them is known."""

import csv
import json

import pytest

from seanet_jax.errors import InputError
from seanet_jax.studies import ablate, compare
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import StudyCommand

# Test accuracies by epoch, by seed: the last epoch is not the best of the first run.
ACCURACIES = {
    "seanet20_small": ([0.5, 0.45], [0.40, 0.46], [0.40, 0.47]),
    "senet20": ([0.5, 0.55], [0.5, 0.56], [0.5, 0.571]),
    "resnet20": ([0.44, 0.46], [0.40, 0.45], [0.41, 0.46]),
    "resnet110": ([0.6, 0.7],),
}


def leave_run(study, run, accuracies, val=None):
    config = study.config(run)
    folder = study.folder / run.name
    folder.mkdir(parents=True)
    about = {"config": config.to_json(), "model_config": {}, "data_sha256": "", "resumed": []}
    records = [{"epoch": n + 1, "step": n + 1, "test_accuracy": a} for n, a in enumerate(accuracies)]
    records = [record | ({} if val is None else {"val_accuracy": val}) for record in records]
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "summary.json").write_text(json.dumps({"finished": True, "last": records[-1]}))


@pytest.fixture
def study(tmp_path):
    base = TrainConfig(dataset="cifar100", epochs=2)
    made = Study(tmp_path, base, {model: {"model": model} for model in ACCURACIES}, seeds=3)
    for model, seeds in ACCURACIES.items():
        for seed, accuracies in enumerate(seeds):
            leave_run(made, Run(model, 0.1, seed), accuracies)
    (tmp_path / "speed.json").write_text(json.dumps({"images_per_second": {"senet20": [90, 100, 500]}}))
    return made


def test_a_row_has_what_the_runs_and_the_network_have(study):
    small, senet, _, deep = compare.rows(study)
    assert (small.model, small.aggregates, senet.aggregates) == ("seanet20_small", True, False)
    assert (small.parameters, senet.parameters, deep.parameters) == (283_174, 282_734, 1_736_564)
    assert small.multiply_adds == 40_393_508
    assert small.last_errors == pytest.approx({0: 55, 1: 54, 2: 53})
    assert small.best_errors == pytest.approx({0: 50, 1: 54, 2: 53})
    assert (senet.talk_error, small.talk_error) == (30.45, None)
    assert deep.last_errors == pytest.approx({0: 30})


def test_the_table_reads_as_a_person_would_write_it(study):
    lines = compare.markdown(study).splitlines()
    assert lines[2] == "| seanet20_small | 283,174 | 40.4 | — | 0.1 | 54.00 ± 1.00 | 52.33 ± 2.08 | — | 3 |"
    assert lines[3] == "| senet20 | 282,734 | 40.8 | 100 | 0.1 | 43.97 ± 1.05 | 43.97 ± 1.05 | 30.45 | 3 |"
    assert lines[5].endswith("| 30.00 | 30.00 | 26.67 | 1 |")


def test_an_aggregated_network_is_tested_against_each_equal_that_has_its_seeds(study):
    worse, unclear = compare.comparisons(compare.rows(study))
    assert (worse.aggregated, worse.equal, worse.verdict) == ("seanet20_small", "senet20", "aggregation is worse")
    assert worse.difference.mean == pytest.approx(10.0333, abs=1e-3)
    # 55, 54, 53 less 54, 55, 54.
    assert (unclear.equal, unclear.verdict) == ("resnet20", "not told from noise")
    assert unclear.difference.mean == pytest.approx(-1 / 3)
    assert worse.adjusted_p_value == pytest.approx(2 * worse.difference.p_value)
    assert "| seanet20_small | senet20 | +10.03 |" in compare.markdown(study)


def test_without_three_seeds_nothing_is_tested(study):
    assert "nothing is tested" in compare.markdown(
        Study(study.folder, study.base, {"resnet110": study.variants["resnet110"]})
    )


def test_tables_are_files_too(study):
    compare.write_tables(study)
    assert (study.folder / "table.md").read_text() == compare.markdown(study)
    with (study.folder / "table.csv").open() as file:
        first, *_ = csv.DictReader(file)
    assert first["model"] == "seanet20_small"
    assert float(first["last_error_mean"]) == pytest.approx(54)
    assert first["last_errors_by_seed"] == "55.00 54.00 53.00"
    with (study.folder / "tests.csv").open() as file:
        assert [row["equal"] for row in csv.DictReader(file)] == ["senet20", "resnet20"]


def test_an_unfinished_study_has_a_table(tmp_path):
    empty = Study(tmp_path, TrainConfig(), {"resnet20": {"model": "resnet20"}})
    assert "| resnet20 | 278,324 | 40.8 | — | 0.1 | — | — | 32.63 | 0 |" in compare.markdown(empty)


@pytest.fixture
def ablation(tmp_path):
    variants = {name: {"model": "seanet20_narrow"} | fields for name, fields in ablate.VARIANTS.items()}
    base = TrainConfig(epochs=1, validation_fraction=0.1)
    made = Study(tmp_path, base, variants, seeds=1, learning_rates=(0.1, 0.02))
    for number, variant in enumerate(variants):
        leave_run(made, Run(variant, 0.1, 0), [0.3], val=0.30 + number / 100)
        leave_run(made, Run(variant, 0.02, 0), [0.4 + number / 100], val=0.35)
    return made


def test_each_axis_has_the_base_and_each_value_its_own_rate(ablation):
    rows = ablate.table(ablation)
    assert [(row["axis"], row["value"]) for row in rows if row["variant"] == "base"] == [
        *(("operation", "sum"), ("factor", "4"), ("placement", "stage"), ("reduction", "8")),
        ("squeeze-excitation", "on"),
    ]
    by_variant = {row["variant"]: row for row in rows}
    assert by_variant.keys() == ablate.VARIANTS.keys()
    assert by_variant["mean"]["learning_rate"] == 0.02
    assert by_variant["mean"]["test_errors"] == pytest.approx({0: 59})
    assert by_variant["no_se"]["learning_rate"] == 0.1
    assert by_variant["no_se"]["test_errors"] == pytest.approx({0: 70})
    assert "| operation | **sum** | 70.00 | 65.00 | 0.02 | 60.00 |" in ablate.markdown(ablation)
    assert "that of the last epoch at that rate, of one run each" in ablate.markdown(ablation)
    ablate.write_tables(ablation)
    assert "operation,mean,mean,0.02,0.1:69.00 0.02:65.00,0:59.00" in (ablation.folder / "table.csv").read_text()


def test_the_ablation_says_over_what_its_errors_spread(ablation):
    twice = Study(ablation.folder, ablation.base, ablation.variants, seeds=2, learning_rates=(0.1, 0.02))
    leave_run(twice, Run("mean", 0.02, 1), [0.42], val=0.35)
    assert "| 0.02 | 58.50 ± 0.71 |" in ablate.markdown(twice)
    assert "at that rate, mean ± standard deviation over the seeds." in ablate.markdown(twice)


def test_the_variants_are_the_networks_they_are_called(ablation):
    networks = {name: compare.network(ablation, name) for name in ablation.variants}
    base = networks.pop("base")
    changed = {
        name: {field: value for field, value in vars(found).items() if value != getattr(base, field)}
        for name, found in networks.items()
    }
    assert changed == {name: fields for name, fields in ablate.VARIANTS.items() if fields}


@pytest.mark.parametrize("models", [("senet20",), ("seanet20_block",), ("seanet20", "seanet20_narrow"), ()])
def test_the_ablation_wants_one_base_that_is_as_its_table_says(tmp_path, models):
    config = TrainConfig(out=tmp_path / "study")
    with pytest.raises(InputError, match=r"--models .*; name "):
        ablate.conduct(StudyCommand(config, models, 1, (0.1,), False, False), {})
    assert not list(tmp_path.iterdir())
