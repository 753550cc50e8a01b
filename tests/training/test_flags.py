import dataclasses
import re
from pathlib import Path

import pytest

from seanet_jax.errors import InputError
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.flags import Command, as_flags, parse, parse_conversion, parse_study
from seanet_jax.training.processes import ProcessGroup
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.recipe_presets import recipe
from seanet_jax.training.run_folder import RunFolder

DEFAULTS = TrainConfig(dataset="digits", model="seanet20_narrow", epochs=20)


def parsed(*arguments):
    return parse(DEFAULTS, "An experiment.", list(arguments))


def test_no_flag_keeps_every_default():
    assert parsed() == Command(DEFAULTS, tune_cpu=True, compilation_cache=True, deterministic=False, processes=None)


def test_every_field_is_a_flag(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parsed("--help")
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    assert "An experiment." in shown
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown, field.name
    assert "--no-tune-cpu" in shown and "--no-compilation-cache" in shown
    assert "Learning rate, before any decay." in shown


def boxes(shown):
    """The flags in each box of --help, by its title."""
    found, title = {}, ""
    for line in (line.strip("╭─╮│ ") for line in shown.splitlines()):
        if re.fullmatch(r"(\w+ )?options", line):
            title = line
        elif re.match(r"--?\w", line):
            found.setdefault(title, set()).update(re.findall(r"(?<!\S)--?[\w-]+", line))
    return found


def test_flags_are_shown_in_groups(capsys):
    """A new field of a configuration has to be put into one of them."""
    commands = {
        "train": lambda: parsed("--help"),
        "study": lambda: parse_study(DEFAULTS, ("resnet20",), (0.1,), "A study.", ["--help"]),
        "convert": lambda: parse_conversion("A conversion.", ["--help"]),
    }
    shown = {}
    for name, command in commands.items():
        with pytest.raises(SystemExit):
            command()
        shown[name] = boxes(capsys.readouterr().out)
    groups = {"data options", "network options", "recipe options", "run options", "devices options"}
    assert shown["train"].keys() == shown["study"].keys() == {"options", *groups}
    assert shown["train"]["options"] == shown["study"]["options"] == {"-h", "--help"}
    assert {"--dataset", "--limit-train"} <= shown["train"]["data options"]
    assert {"--lr", "--learning-rate", "--wd", "--weight-decay"} <= shown["train"]["recipe options"]
    assert {"--lr", "--learning-rates", "--seeds"} <= shown["study"]["recipe options"]
    assert "--models" in shown["study"]["network options"] and "--model" not in shown["study"]["network options"]
    assert shown["convert"]["options"] == {"-h", "--help", "--which"}
    assert not {"--learning-rate", "--model", "--seed"} & shown["study"]["recipe options"]


def test_usual_short_names_are_the_same_flags():
    assert parsed("--lr", "0.3", "--wd", "0.2").config == dataclasses.replace(
        DEFAULTS, learning_rate=0.3, weight_decay=0.2
    )
    assert parse_study(DEFAULTS, ("resnet20",), (0.1,), "", ["--lr", "0.3", "0.4"]).learning_rates == (0.3, 0.4)
    assert parse_conversion("", ["a.pth", "run", "--lr", "0.3"]).recipe.learning_rate == 0.3


def test_flags_replace_fields(tmp_path):
    command = parsed(
        *("--model", "resnet56", "--dtype", "bfloat16", "--max-steps", "7", "--no-augment", "--resume"),
        *("--out", str(tmp_path), "--aggregate-placement", "none", "--no-tune-cpu", "--no-compilation-cache"),
        "--deterministic",
    )
    config = dataclasses.replace(
        DEFAULTS,
        model="resnet56",
        dtype="bfloat16",
        max_steps=7,
        augment=False,
        resume=True,
        out=tmp_path,
        aggregate_placement="none",
    )
    assert command == Command(config, tune_cpu=False, compilation_cache=False, deterministic=True, processes=None)


def test_processes_are_detected_or_named():
    assert parsed("--distributed").processes == ProcessGroup()
    named = parsed("--coordinator", "10.0.0.1:4321", "--num-processes", "4", "--process-id", "3").processes
    assert named == ProcessGroup("10.0.0.1:4321", 4, 3)


def test_a_recipe_sets_the_defaults_of_the_other_flags():
    config = parsed("--recipe=modern", "--epochs", "7").config
    expected = dataclasses.replace(DEFAULTS, **recipe("modern", epochs=7))
    assert config == expected and config.dataset == "digits"
    # A recipe that is named takes the place of a network's own.
    assert parsed("--model", "encapnet", "--recipe", "published").config.optimizer == "sgd"
    assert parsed("--model", "encapnet").config.optimizer == "adam"
    assert parsed("--recipe", "published").config == dataclasses.replace(DEFAULTS, **recipe("published"))


def test_a_study_trains_all_networks_by_the_recipe_that_is_named():
    arguments = ["--recipe", "published", "--models", "encapnet", "resnet20"]
    command = parse_study(DEFAULTS, (), (0.1, 0.02), "A study.", arguments)
    assert command.models == {"encapnet": {}, "resnet20": {}}
    assert command.learning_rates == (0.1,) and command.config.epochs == 200 and command.config.dataset == "digits"
    own = parse_study(DEFAULTS, (), (0.1, 0.02), "A study.", arguments[2:])
    assert own.models["encapnet"]["optimizer"] == "adam" and own.learning_rates == (0.1, 0.02)


def test_a_study_extends_its_rates_only_where_a_flag_says_so():
    assert parse_study(DEFAULTS, ("resnet20",), (0.1, 0.02), "A study.", []).extend_rates == 0
    assert parse_study(DEFAULTS, ("resnet20",), (0.1, 0.02), "A study.", ["--extend-rates", "3"]).extend_rates == 3


@pytest.mark.slow
def test_a_folder_to_resume_brings_its_own_settings(in_peace, tiny):
    config = in_peace(schedule="constant", decay_every=None)
    saved = dataclasses.replace(config, resume=True)
    folder = str(config.out)
    assert parsed("--resume", folder).config == parsed(f"--resume={folder}").config == saved
    longer = parsed("--epochs", "9", "--resume", folder, "--log-every", "7", "--out", folder).config
    assert longer == dataclasses.replace(saved, epochs=9, log_every=7)
    RunFolder(folder).check(longer)
    other = parsed("--resume", folder, "--batch-size", "4", "--recipe", "published").config
    with pytest.raises(InputError, match=r"holds another run \(batch_size: 8 was saved, 4 is asked; .*give the saved"):
        RunFolder(folder).check(other)
    with pytest.raises(InputError, match="--resume takes one folder at most"):
        parsed("--resume", folder, "two")
    environments = []

    def switches(environment):
        environments.append(environment)
        return {"deterministic": True}

    assert parse(DEFAULTS, "", ["--resume", folder], switches).deterministic
    assert environments == [RunFolder(folder).read().environment]
    assert not parse(DEFAULTS, "", ["--resume", folder, "--no-deterministic"], switches).deterministic


def test_a_folder_to_resume_that_holds_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no run: there is no config\.json in it"):
        parsed("--resume", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"--out is .*other, but --resume names .*run; leave --out out"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text(
            '{"config": {}, "model_config": {}, "data_sha256": "", "resumed": []}'
        )
        parsed("--resume", str(tmp_path / "run"), "--out", str(tmp_path / "other"))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "lock").touch()
    with pytest.raises(InputError, match="stopped before it began; repeat the command that started it, with --resume"):
        parsed("--resume", str(tmp_path / "killed"))


WRONG = {
    ("--resume", "gs://bucket/run"): "--resume: gs:/+bucket/run is a URL; only local folders and files can be used",
    ("--recipe", "modem"): r"recipe is 'modem'; it must be one of published, .*; did you mean modern\?",
    ("--recipe",): "Missing value.*--recipe",
    ("--epochs", "x"): "--epochs.*'x'",
    ("--epochs", "0"): "epochs is 0; it must be a positive integer",
    ("--coordinator", "a:1"): "--coordinator, --num-processes and --process-id go together; give all three or none",
    ("--coordinator", "a", "--num-processes", "2", "--process-id", "0"): "coordinator is 'a'; it must be host:port",
    ("--coordinator", "a:1", "--num-processes", "0", "--process-id", "0"): "num_processes is 0; it must be a positive",
    ("--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"): "process_id is 2; it must be from 0 to 1",
    ("--max-steps", "0"): "max_steps is 0; it must be a positive integer or None",
    ("--learning-rate", "nan"): "learning_rate is nan; it must be a positive number",
    ("--momentum", "1"): "momentum is 1.0; it must be at least 0 and below 1",
    ("--decay-factor", "2"): "decay_factor is 2.0; it must be above 0 and at most 1",
    ("--weight-decay", "-1"): "weight_decay is -1.0; it must be at least 0",
    ("--validation-fraction", "1"): "validation_fraction is 1.0; it must be at least 0 and below 1",
    ("--seed", "-1"): "seed is -1; it must be an integer from 0",
    (
        "--model",
        "seanet21",
    ): r"no model 'seanet21'; the models are seanet20,.*preact_resnet110.*; did you mean seanet20\?",
    ("--aggregate-factor", "5"): "aggregate_factor is 5; it must divide",
    ("--aggregate-stages", "1", "4"): r"aggregate_stages is \(1, 4\); it must be numbers of stages from 1 to 3",
    ("--aggregate-seed", "-1"): "aggregate_seed is -1; it must be an integer from 0",
    ("--reduction", "64"): "reduction is 64; it must be at most 32",
    ("--aggregate-op", "median"): r"'median'.*'--aggregate-op'.*'mean'",
    ("--dataset", "mnist"): "dataset is 'mnist'; it must be one of cifar10, cifar100, digits",
    (
        "--epoch",
        "3",
    ): r"Unrecognized options: --epoch, 3; did you mean --epochs or --warmup-epochs\? --help lists the flags",
    ("--learning-rat", "1"): r"did you mean --learning-rate\? --help lists the flags",
    ("--nothing-like-it",): "Unrecognized options: --nothing-like-it; --help lists the flags",
    ("--dataset", "cifar1000"): r"dataset is 'cifar1000'; it must be one of .*; did you mean cifar100\?",
    ("--epochs",): "Missing value.*--epochs",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=[" ".join(flags) for flags in WRONG])
def test_a_wrong_flag_is_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        parsed(*arguments)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)


def test_a_conversion_has_the_flags_of_a_recipe_alone(capsys):
    with pytest.raises(SystemExit):
        parse_conversion("A conversion.", ["--help"])
    shown = capsys.readouterr().out
    recipe = {field.name for field in dataclasses.fields(Recipe)}
    own = {"dataset", "aggregate_op", "which"}
    for field in {field.name for field in dataclasses.fields(TrainConfig)} | own:
        assert (f"--{field.replace('_', '-')} " in shown or f"--{field.replace('_', '-')}," in shown) == (
            field in recipe | own
        ), field
    command = parse_conversion("A conversion.", ["a.pth", "run", "--epochs", "7", "--dataset", "digits"])
    assert (command.source, command.target, command.dataset) == (Path("a.pth"), Path("run"), "digits")
    assert command.recipe == TrainConfig(epochs=7)


def test_flags_made_of_a_config_give_it_back():
    config = dataclasses.replace(DEFAULTS, decay_every=None, decay_at=(3, 9), augment=False, batch_size=7, resume=True)
    assert parsed(*as_flags(config, DEFAULTS)).config == config
    changes = {"aggregate_op": "random", "aggregate_stages": (1, 2), "aggregate_norm": True, "aggregate_seed": 3}
    config = dataclasses.replace(DEFAULTS, **changes)
    assert parsed(*as_flags(config, DEFAULTS)).config == config
    assert (
        not parsed("--model", "seanet20_narrow_bn", "--aggregate-norm", "False").config.model_config(10).aggregate_norm
    )
