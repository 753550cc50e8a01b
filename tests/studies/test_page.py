"""The page of results: from made folders, and the one in docs/."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from training_fixtures import TINY, made_record, made_summary, records

from seanet_jax.commands.compare import MODELS
from seanet_jax.errors import InputError
from seanet_jax.models import SEANet
from seanet_jax.studies import ablate, recipes, widths
from seanet_jax.studies.page import Results, _of_equal_length, text, write
from seanet_jax.studies.study import Run, Study
from seanet_jax.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


def leave_run(study, run, error):
    config = study.config(run)
    folder = study.folder / run.name
    folder.mkdir(parents=True)
    accuracies = (0.5 * (1 - error / 100), 1 - error / 100)
    made = [
        made_record(n, test_accuracy=a, train_accuracy=a, val_accuracy=a, seconds=1800)
        for n, a in enumerate(accuracies, start=1)
    ]
    about = {"config": config.to_json(), "model_config": {}, "data_sha256": "", "resumed": []}
    summary = made_summary(made, versions={"jax": "1.2.3"})
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def folder(tmp_path):
    base = TrainConfig(epochs=2, limit_train=20_000, decay_every=1, validation_fraction=0.1)
    models = {model: {"model": model} for model in ("seanet20_small", "senet20")}
    study = Study(tmp_path / "compare", base, models, seeds=3)
    for seed, (ours, theirs) in enumerate(((60, 50), (61, 52), (62, 51))):
        leave_run(study, Run("seanet20_small", 0.1, seed), ours)
        leave_run(study, Run("senet20", 0.1, seed), theirs)
    study.write()
    variants = {name: {"model": "seanet20_narrow"} | fields for name, fields in ablate.VARIANTS.items()}
    ablation = Study(tmp_path / "ablate", base, variants, seeds=1)
    for variant in variants:
        leave_run(ablation, Run(variant, 0.1, 0), 70)
    ablation.write()
    (tmp_path / "analysis").mkdir()
    return tmp_path


def read(folder):
    return Results.read(folder / "compare", folder / "ablate", folder / "analysis", ("resnet20",))


@pytest.mark.slow
def test_the_page_says_what_the_runs_found(folder):
    page = text(read(folder), folder / "results.md")
    assert page.startswith("# Does aggregation help?\n")
    assert "CIFAR-100: the first 20,000 training images, of which the last 10% are validation images." in page
    assert "**No, not in this study.**" in page
    assert "have significantly more test error in 1 of 1 comparisons (at 5 %" in page
    # The differences are 10, 9 and 11 points; two degrees of freedom detect 5.65 standard errors of 3**-0.5 at 5 %.
    assert "The differences are +10.00 points. The study could have found 3.26 points with 80 % power." in page
    assert "| seanet20_small | senet20 | +0.2% | -1.1% | +10.00 | " in page
    assert "| senet20 | 282,734 | 40.8 | 64 | — | 0.1 | 51.00 ± 1.00 | 51.00 ± 1.00 | 30.45 | 3 |" in page
    assert "| operation | **sum** |" in page
    assert "16 finished runs took 16 h 00 min of training" in page
    assert "1 x made" in page and "jax 1.2.3" in page


def test_the_page_says_at_once_what_its_answer_does_not_cover(folder):
    page = text(read(folder), folder / "results.md")
    answer = page[page.index("## The answer") : page.index("## What was done")]
    # A third width of 68 channels, summed by fours; the published one is 512.
    assert "leaves 17 features in seanet20_small, for 100 classes. The published network has 128." in answer
    assert "says nothing about the published width" in answer
    limits = page[page.index("## Limits") : page.index("## The networks")]
    for limit in ("The training is short", "bottleneck", "narrow", "Sum and mean are one network", "3 pairs"):
        assert limit in limits, limit
    assert "has edges" not in limits  # there is one rate
    published = Study(folder / "published", TrainConfig(epochs=2), {"seanet20": {"model": "seanet20"}}, seeds=1)
    leave_run(published, Run("seanet20", 0.1, 0), 30)
    without = text(Results(published, None, None, folder, ()), folder / "results.md")
    assert "published width" not in without and "bottleneck" not in without


@pytest.mark.slow
def test_sum_and_mean_are_one_network_up_to_the_classifiers_scale():
    """What the page says of them, on batches whose statistics normalize them."""
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    config = dataclasses.replace(TINY, conv_method="lax")  # the other methods take longer to compile
    networks = {op: SEANet(dataclasses.replace(config, aggregate_op=op), rngs=nnx.Rngs(0)) for op in ("sum", "mean")}
    logits = {op: _logits(network, images) for op, network in networks.items()}
    assert np.abs(logits["sum"] - logits["mean"]).max() > 0.1
    kernel = networks["sum"].classifier.kernel
    kernel[...] = kernel[...] / TINY.aggregate_factor
    np.testing.assert_allclose(_logits(networks["sum"], images), logits["mean"], atol=1e-3)


@nnx.jit
def _logits(network, images):
    return network(images)


def test_a_rate_at_the_edge_of_its_grid_is_a_limit_of_the_page(folder):
    base = TrainConfig(epochs=2, validation_fraction=0.1)
    study = Study(folder / "rates", base, {"resnet20": {"model": "resnet20"}}, 1, (0.1, 0.02), 1)
    for rate, error in ((0.1, 50), (0.02, 40), (0.004, 30)):
        leave_run(study, Run("resnet20", rate, 0), error)
    page = text(Results(study, None, None, folder, ()), folder / "results.md")
    assert "The best rate of 1 of 1 networks is the smallest or the largest one tried" in page
    assert "| network | 0.1 | 0.02 | 0.004 |" in page and "| resnet20 | 50.00 | 40.00 | **30.00** |" in page
    assert "--learning-rates 0.1 0.02 --extend-rates 1 --seeds 1" in page


def test_its_commands_are_those_of_the_studies(folder):
    page = text(read(folder), folder / "results.md")
    assert (
        "compare.py --models seanet20_small senet20 --learning-rates 0.1 --seeds 3 --epochs 2 --decay-every 1 "
        "--limit-train 20000 --validation-fraction 0.1 --out "
    ) in page
    assert "ablate.py --models seanet20_narrow --learning-rates 0.1 --seeds 1 --epochs 2" in page


@pytest.mark.slow
def test_the_page_has_the_study_of_recipes_if_there_is_one(folder):
    variants = recipes.variants(("senet20",), 2)
    study = Study(folder / "recipes", TrainConfig(epochs=2), variants, seeds=1)
    for variant, error in zip(variants, (60, 50, 55), strict=True):
        leave_run(study, Run(variant, study.rates(variant)[0], 0), error)
    study.write()
    write(dataclasses.replace(read(folder), recipes=study), folder / "results.md")
    page = (folder / "results.md").read_text()
    assert "## Recipes: the same networks in 2 epochs" in page
    assert "| senet20 | fast | 50.00 |  | +10.00 | 1.00 |" in page
    assert "python experiments/recipes.py --models senet20 --seeds 1 --epochs 2 --out" in page
    assert "(recipes/errors-senet20.png)" in page and (folder / "recipes" / "errors-senet20.svg").exists()


@pytest.mark.slow
def test_the_page_has_the_study_of_widths_if_there_is_one(folder):
    base = TrainConfig(epochs=2)
    ends = {"": {}, widths.PLAIN: {"aggregate_placement": "none"}}
    models = ("seanet20_small", "seanet20_narrow")
    variants = {model + end: {"model": model, **fields} for model in models for end, fields in ends.items()}
    study = Study(folder / "widths", base, variants, seeds=1)
    for variant, error in zip(variants, (70, 60, 60, 50), strict=True):
        leave_run(study, Run(variant, 0.1, 0), error)
    study.write()
    found = dataclasses.replace(read(folder), widths=study)
    widths.draw(study)
    page = text(found, folder / "results.md")
    assert "## Error against compute" in page and "At equal error, aggregation needs " in page
    assert "python experiments/widths.py --models seanet20_small seanet20_narrow --learning-rates 0.1 --seeds 1" in page
    assert "(widths/widths.svg)" in page and (study.folder / "widths.svg").exists()


@pytest.mark.slow
def test_every_link_of_the_page_leads_somewhere(folder):
    write(read(folder), folder / "results.md")
    page = (folder / "results.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("https://arxiv.org/abs/")]
    assert len(links) >= 9
    for link in links:
        heading = link.removeprefix("#").replace("-", " ")
        assert (folder / link).exists() or f"## {heading.capitalize()}\n" in page, link
    assert (folder / "compare" / "errors.svg").exists() and (folder / "ablate" / "ablation.png").exists()


def test_a_study_of_the_published_length_is_not_called_reduced(folder):
    base = TrainConfig()
    study = Study(folder / "full", base, {"resnet20": {"model": "resnet20"}}, seeds=1)
    run = Run("resnet20", 0.1, 0)
    leave_run(study, run, 30)
    first, last = records(study.folder / run.name, timing=True)
    last["epoch"] = 200
    (study.folder / run.name / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")
    (study.folder / run.name / "summary.json").write_text(json.dumps(made_summary([first, last])))
    study.write()
    page = text(Results.read(study.folder, folder / "no", folder / "no", ("resnet20",)), folder / "results.md")
    assert "CIFAR-100: all training images." in page and "200 epochs with a batch size of 64" in page
    assert "The training is short" not in page and "Too few seeds" in page


def test_a_run_that_stopped_early_keeps_its_last_error_in_the_curves():
    short, long = ([made_record(n, test_accuracy=n / 10) for n in range(1, last + 1)] for last in (2, 4))
    extended, same = _of_equal_length([short, long])
    assert same == long and [record["epoch"] for record in extended] == [1, 2, 3, 4]
    assert [record["test_accuracy"] for record in extended] == [0.1, 0.2, 0.2, 0.2]
    assert len(short) == 2


def test_nothing_is_made_of_nothing(folder):
    with pytest.raises(InputError, match="holds no study"):
        Results.read(folder, folder, folder, ("resnet20",))
    Study(folder / "empty", TrainConfig(), {"resnet20": {"model": "resnet20"}}).write()
    with pytest.raises(InputError, match="holds no finished run; train some with"):
        Results.read(folder / "empty", folder, folder, ("resnet20",))
    with pytest.raises(InputError, match=r"is not in .*, the folder of the page"):
        write(read(folder), folder / "elsewhere" / "results.md")
    assert not list(folder.rglob("*.svg"))


def page_of_docs():
    kept = Path("docs/results")
    found = Results.read(kept / "compare-cifar100", kept / "ablate-cifar100", kept / "analysis-cifar100", MODELS)
    return text(found, Path("docs/results.md"))


@pytest.mark.slow
def test_the_page_in_docs_is_the_one_that_its_records_make(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert Path("docs/results.md").read_text() == page_of_docs()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "SGD with learning rate 0.1, multiplied by 0.1 every 80 epochs, momentum 0.9"),
        ({"decay_every": None}, "SGD with learning rate 0.1, momentum 0.9"),
        (
            {"optimizer": "adam", "decay_every": None, "decay_at": (2, 3)},
            "Adam with learning rate 0.1, multiplied by 0.1 after 2 and 3 epochs, momentum 0.9",
        ),
    ],
)
def test_a_recipe_in_words(tmp_path, fields, words):
    study = Study(tmp_path, TrainConfig(**fields), {"resnet20": {"model": "resnet20"}})
    assert words in text(Results(study, None, None, tmp_path, ()), tmp_path / "results.md")
