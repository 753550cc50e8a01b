"""The ablation, from run folders that the tests write."""

import pytest
from study_fixtures import leave_run

from seanet_jax.errors import InputError
from seanet_jax.studies import ablate, comparison
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import StudyCommand


@pytest.fixture
def ablation(tmp_path):
    variants = {name: {"model": "seanet20_narrow"} | fields for name, fields in ablate.VARIANTS.items()}
    base = TrainConfig(epochs=1, validation_fraction=0.1)
    made = Study(tmp_path, base, variants, seeds=1, learning_rates=(0.1, 0.02))
    for number, variant in enumerate(variants):
        leave_run(made, Run(variant, 0.1, 0), [0.3], val=0.30 + number / 100)
        leave_run(made, Run(variant, 0.02, 0), [0.4 + number / 100], val=0.35)
    return made


@pytest.mark.slow
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
    assert "from the last epoch at that learning rate. It is from one run for each row" in ablate.markdown(ablation)
    ablate.write_tables(ablation)
    assert "operation,mean,mean,0.02,0.1:69.00 0.02:65.00,0:59.00" in (ablation.folder / "table.csv").read_text()


def test_the_ablation_says_over_what_its_errors_spread(ablation):
    twice = Study(ablation.folder, ablation.base, ablation.variants, seeds=2, learning_rates=(0.1, 0.02))
    leave_run(twice, Run("mean", 0.02, 1), [0.42], val=0.35)
    assert "| 0.02 | 58.50 ± 0.71 |" in ablate.markdown(twice)
    assert "at that learning rate. It is the mean ± standard deviation over the seeds." in ablate.markdown(twice)


def test_the_variants_are_the_networks_they_are_called(ablation):
    networks = {name: comparison.network(ablation, name) for name in ablation.variants}
    base = networks.pop("base")
    changed = {
        name: {field: value for field, value in vars(found).items() if value != getattr(base, field)}
        for name, found in networks.items()
    }
    assert changed == {name: fields for name, fields in ablate.VARIANTS.items() if fields}


NO_BASE = ["senet20", "seanet20_block", "seanet20_narrow_bn", "seanet20_narrow_stages12", "seanet20_narrow_dense"]


@pytest.mark.parametrize("models", [*((name,) for name in NO_BASE), ("seanet20", "seanet20_narrow"), ()])
def test_the_ablation_wants_one_base_that_is_as_its_table_says(tmp_path, models):
    config = TrainConfig(out=tmp_path / "study")
    with pytest.raises(InputError, match=r"--models .*; name "):
        ablate.run_ablation(StudyCommand(config, models, 1, (0.1,), False, False), {})
    assert not list(tmp_path.iterdir())
