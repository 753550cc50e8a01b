"""The comparison of recipes, from run folders that the tests write."""

import json

import pytest
from training_fixtures import made_record, made_summary

from seanet_jax.errors import InputError
from seanet_jax.studies import recipes
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig


def leave_run(study, variant, seed, accuracy, **more):
    run = Run(variant, study.rates(variant)[0], seed)
    folder, last = study.folder / run.name, {"test_accuracy": accuracy, **more}
    folder.mkdir(parents=True)
    made = [made_record(1, test_accuracy=0.1, seconds=1800), made_record(2, seconds=5400, **last)]
    about = {"config": study.config(run).to_json(), "model_config": {}, "data_sha256": "", "resumed": []}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    (folder / "summary.json").write_text(json.dumps(made_summary(made)))


@pytest.fixture
def study(tmp_path):
    found = recipes.variants(("resnet20", "senet20"), 2 * 5)
    made = Study(tmp_path, TrainConfig(epochs=2), {name: fields | {"epochs": 2} for name, fields in found.items()}, 2)
    for seed, accuracy in enumerate((0.50, 0.52)):
        leave_run(made, "resnet20-published", seed, accuracy)
        leave_run(made, "resnet20-modern", seed, accuracy + 0.01, ema_test_accuracy=accuracy + 0.05)
        leave_run(made, "resnet20-fast", seed, accuracy + 0.02)
    leave_run(made, "senet20-fast", 0, 0.6)
    return made


def test_each_network_is_trained_by_each_recipe_for_the_same_epochs():
    found = recipes.variants(("resnet20",), 30)
    assert [(name, fields["model"], fields["epochs"]) for name, fields in found.items()] == [
        (f"resnet20-{name}", "resnet20", 30) for name in ("published", "fast", "modern")
    ]
    published = found["resnet20-published"]
    assert (published["decay_every"], published["decay_at"]) == (None, (12, 24))
    assert found["resnet20-fast"]["schedule"] == "one_cycle"
    with pytest.raises(InputError, match="epochs is 1; give at least 2"):
        recipes.variants(("resnet20",), 1)


def test_the_table_has_accuracies_gains_and_hours(study):
    rows = recipes.rows(study)
    assert [(row.model, row.recipe) for row in rows] == [
        *(("resnet20", "published"), ("resnet20", "fast"), ("resnet20", "modern"), ("senet20", "fast")),
    ]
    assert [row.gain for row in rows] == [None, pytest.approx(2), pytest.approx(5), None]
    assert {row.hours for row in rows} == {2.0}
    text = recipes.markdown(study)
    assert "| resnet20 | published | 51.00 ± 1.41 |  |  | 2.00 |" in text
    assert "| resnet20 | modern | 52.00 ± 1.41 | 56.00 ± 1.41 | +5.00 | 2.00 |" in text
    recipes.write_tables(study)
    assert "resnet20,modern,2,52.0000,1.4142,56.0000,1.4142,5.0000,2.0000" in (study.folder / "recipes.csv").read_text()
