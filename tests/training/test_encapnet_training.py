"""EncapNet as any other network: trained on real digits, resumed, evaluated, predicted, exported, compared."""

import dataclasses
import json
import re
from pathlib import Path

import chex
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from training_fixtures import records
from xla_options import default_options

from seanet_jax.commands import predict
from seanet_jax.commands.convert import convert
from seanet_jax.data import load
from seanet_jax.errors import InputError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.evaluation import evaluate, text
from seanet_jax.inference.stablehlo import write as export
from seanet_jax.inference.trained import load as load_trained
from seanet_jax.inference.trained import load_model, saved_network
from seanet_jax.models import PRESETS, EncapNetConfig, create_model
from seanet_jax.models.multiply_adds import multiply_adds, parameters
from seanet_jax.studies import claims, comparison, comparison_tables
from seanet_jax.studies.roofline import work
from seanet_jax.studies.study import Study
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.flags import parse, parse_conversion, parse_study
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

NAMES = ("encapnet", "encapnet_plus", "encapnet_plus_plus")
# With the agreement and without aides, which take longest to compile. The golden vectors have gradients of all three.
TRAINED = "encapnet_plus_plus"
SMALL = {"widths": (16, 16, 32, 32), "stem_width": 8, "groups": 8}
# Their own recipe, but for how long and how fast: real digits, ten classes, 46 steps.
SHORT = {"epochs": 2, "batch_size": 28, "learning_rate": 3e-3, "decay_at": (), "limit_train": 660, "limit_test": 200}


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], aide=False, **SMALL))
        yield


def config(folder, **changes):
    return TrainConfig(dataset="digits", model=TRAINED, out=folder, **(published_recipe(TRAINED) | SHORT | changes))


def train(config):
    # Unoptimized, 46 steps take longer than optimizing them does.
    fit(config, compiler_options=default_options())


@pytest.fixture(scope="module")
def run(small_networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encapnet") / "run"
    train(config(folder))
    return folder


# Training


def test_the_loss_falls_and_digits_are_recognized(run):
    first, last = records(run)
    assert last["train_loss"] < 0.85 * first["train_loss"]
    assert last["test_loss"] < first["test_loss"]
    assert last["test_accuracy"] > 0.5  # chance is 0.1


def state_of(folder):
    with Checkpoints(folder) as checkpoints:
        state, _ = checkpoints.restore_latest(saved_network(folder)[1])
    return state


def test_a_resumed_run_is_the_run_bit_for_bit(run, tmp_path):
    folder = tmp_path / "run"
    train(config(folder, max_steps=30))
    train(config(folder, resume=True))
    assert records(folder) == records(run)
    chex.assert_trees_all_equal(state_of(folder), state_of(run))


def test_adams_averages_are_in_the_checkpoint(run):
    adam = state_of(run).opt_state[1][0]
    assert int(adam.count) == 46
    assert any(np.abs(leaf).max() > 0 for leaf in (adam.nu["stem"]["kernel"], adam.mu["stem"]["kernel"]))


def test_the_experiment_takes_the_networks_own_recipe():
    defaults = TrainConfig(dataset="cifar10")
    for name in NAMES:
        found = parse(defaults, "", ["--model", name]).config
        assert found == TrainConfig(dataset="cifar10", model=name, **published_recipe(name))
    assert parse(defaults, "", []).config == defaults
    own = parse(defaults, "", ["--model=encapnet", "--batch-size", "64", "--decay-at", "3", "5"]).config
    assert (own.optimizer, own.batch_size, own.decay_at, own.epochs) == ("adam", 64, (3, 5), 600)
    # What was tuned for another network is not taken either.
    digits = parse(TrainConfig(dataset="digits", learning_rate=0.02, epochs=12), "", ["--model", "encapnet"]).config
    assert (digits.learning_rate, digits.epochs) == (1e-4, 600)
    with pytest.raises(InputError, match="there is no model 'encapnett'; the models are seanet20"):
        parse(defaults, "", ["--model", "encapnett"])


def test_help_shows_the_recipe_of_the_network_that_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(TrainConfig(), "", ["--help", "--model", "encapnet"])
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "adam" in re.search(r"--optimizer \{[a-z,]+\} .*?\(default: (\w+)\)", shown)[1]
    assert re.search(r"--epochs INT .*?\(default: (\d+)\)", shown)[1] == "600"


# What a trained one is good for


def test_its_scores_are_probabilities_of_each_class_on_its_own(run):
    trained, dataset = load_trained(run), load("digits")
    classifier = Classifier(trained, 50)
    scores = classifier(dataset.test_images[:100])
    np.testing.assert_array_equal(classifier.probabilities(scores), scores)
    assert (scores >= 0).all() and (scores < 1).all() and np.abs(scores.sum(1) - 1).max() > 0.01


def test_evaluation_and_page(run):
    about = evaluate(run, which="latest")
    last = records(run)[-1]
    assert about["top_1_accuracy"] == last["test_accuracy"]
    assert about["loss"] == pytest.approx(last["test_loss"], rel=1e-5) and about["loss_unit"] == "margin loss"
    assert re.search(r"  loss +\d\.\d{4} margin loss\n", text(about))
    page = (run / "report.html").read_text()
    assert "Loss (margin loss)" in page and "nats" not in page
    assert 0 <= about["expected_calibration_error"] <= 1


def test_prediction(run, tmp_path, monkeypatch, capsys):
    image = load("digits").test_images[0]
    Image.fromarray(image).save(tmp_path / "digit.png")
    monkeypatch.setattr("sys.argv", ["predict", str(run), str(tmp_path / "digit.png"), "--json", "--top", "10"])
    predict.run()
    ((answer,),) = [json.loads(capsys.readouterr().out)]
    found = {one["name"]: one["probability"] for one in answer["predictions"]}
    scores = Classifier(load_trained(run), 1)(image[None])[0]
    assert found == pytest.approx({str(digit): float(score) for digit, score in enumerate(scores)}, rel=1e-4)


def test_export_with_aides(tmp_path):
    artifact, network = tmp_path / "network.stablehlo", create_model("encapnet_plus", aide=True, rngs=nnx.Rngs(0))
    network.save_pretrained(tmp_path / "weights", load("digits").image_spec)
    export(tmp_path / "weights", artifact)
    about = json.loads(artifact.with_name("network.stablehlo.json").read_text())
    assert about["output"]["what"] == "probabilities, of each class on its own"
    assert about["verified"]["largest_relative_difference"] < 1e-3


def test_weights_and_what_pytorch_cannot_have(run, tmp_path):
    pytest.importorskip("safetensors")
    convert(parse_conversion("", [str(run), str(tmp_path / "weights")]))
    again, trained = load_trained(tmp_path / "weights"), load_trained(run)
    images = load("digits").test_images[:20]
    np.testing.assert_array_equal(Classifier(again, 20)(images), Classifier(trained, 20)(images))
    for source in (run, tmp_path / "weights"):
        with pytest.raises(InputError, match="PyTorch"):
            convert(parse_conversion("", [str(source), str(tmp_path / "encapnet.pth")]))
    with pytest.raises(InputError, match="of the type encapnet, not seanet"):
        convert(parse_conversion("", [str(tmp_path / "weights"), str(tmp_path / "run")]))
    assert {path.name for path in tmp_path.iterdir()} == {"weights"}


def test_the_run_says_what_it_is(run):
    found = RunFolder(run).read()
    saved, network = found.config, found.model_config
    assert (saved["optimizer"], network["model_type"], network["agreement"]) == ("adam", "encapnet", True)
    assert load_model(run).config.agreement
    assert json.loads((run / "summary.json").read_text())["parameters"] == parameters(PRESETS["encapnet_plus_plus"])


# Beside the others


def test_multiply_adds_are_counted_by_groups():
    assert multiply_adds(EncapNetConfig()) == sum(
        [
            32 * 32 * (9 * 3 * 32),
            *(
                size * size * (9 * inputs * outputs + 9 * inputs * outputs // 32 + 2 * outputs * outputs // 32)
                for size, inputs, outputs in ((32, 32, 64), (16, 64, 128), (8, 128, 256), (4, 256, 512))
            ),
            16 * 512 * 10,
        ]
    )
    # The agreement costs nothing once the network is trained.
    plus = dataclasses.replace(EncapNetConfig(), aide=True)
    assert (
        multiply_adds(dataclasses.replace(plus, agreement=True))
        == multiply_adds(plus)
        > multiply_adds(EncapNetConfig())
    )


def test_a_comparison_has_each_network_by_its_own_recipe():
    command = parse_study(TrainConfig(dataset="cifar10"), ("resnet20", *NAMES), (0.1,), "", [])
    variants = {model: {"model": model, **own} for model, own in command.models.items()}
    study = Study(Path("x"), command.config, variants, command.seeds, command.learning_rates)
    plain, plus = (study.config(study.runs_of(model)[0]) for model in ("resnet20", "encapnet_plus"))
    assert plain == TrainConfig(dataset="cifar10", model="resnet20", out=plain.out)
    assert plus == TrainConfig(
        dataset="cifar10", model="encapnet_plus", out=plus.out, **published_recipe("encapnet_plus")
    )
    assert study.rates("encapnet") == (1e-4,) and study.rates("resnet20") == (0.1,)


def test_a_flag_that_is_given_is_for_all_networks():
    flags = ["--epochs", "200", "--batch-size", "64", "--learning-rates", "0.1", "0.01", "--validation-fraction", "0.1"]
    command = parse_study(TrainConfig(), ("resnet20", "encapnet"), (0.1,), "", flags)
    assert command.models["resnet20"] == {}
    own = {"optimizer": "adam", "weight_decay": 5e-4, "decay_every": None, "decay_at": (200, 300, 400)}
    assert command.models["encapnet"] == own
    assert command.learning_rates == (0.1, 0.01)
    # Nor is one left unheeded.
    with pytest.raises(InputError, match=r"encapnet, by its published recipe: decay_every is 4 and decay_at is \(200,"):
        parse_study(TrainConfig(), ("resnet20", "encapnet"), (0.1,), "", ["--decay-every", "4"])
    command = parse_study(TrainConfig(), ("resnet20", "encapnet"), (0.1,), "", ["--decay-every", "4", "--decay-at"])
    assert command.models["encapnet"].keys() & {"decay_every", "decay_at"} == set()


def test_the_table_has_the_talks_figures(small_networks, tmp_path):
    variants = {name: {"model": name, **published_recipe(name)} for name in NAMES}
    for dataset, errors in (("cifar10", (4.55, 3.13, 3.10)), ("cifar100", (26.77, 24.01, 24.18))):
        study = Study(tmp_path / dataset, TrainConfig(dataset=dataset), variants, seeds=1)
        study.write()
        table = comparison.rows(Study.read(tmp_path / dataset))
        assert [(row.model, row.talk_error, row.aggregates) for row in table] == [
            (name, error, False) for name, error in zip(NAMES, errors, strict=True)
        ]
        assert [row.learning_rate for row in table] == [1e-4] * 3
        shown = comparison_tables.markdown(study)
        assert f"{errors[1]:.2f}" in shown
        assert "encapnet_plus: optimizer adam, learning_rate 0.0001, weight_decay 0.0005, batch_size 256" in shown


def test_studies_of_aggregation_refuse_it(run, tmp_path):
    with pytest.raises(
        InputError, match="encapnet_plus_plus, which has no stages; give a run of a SEANet, SENet or ResNet"
    ):
        claims.analyze(run, run, tmp_path / "out")
    with pytest.raises(InputError, match="the operations of encapnet cannot be counted"):
        work("encapnet", 8, "train")
    assert not (tmp_path / "out").exists()
