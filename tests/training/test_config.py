import dataclasses
import json
from pathlib import Path

import pytest

from seanet_jax.errors import InputError
from seanet_jax.training.config import TrainConfig, published_recipe


def test_the_defaults_are_the_published_recipe():
    config = TrainConfig()
    assert (config.model, config.epochs, config.batch_size) == ("seanet20", 200, 64)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.decay_every, config.decay_factor, config.augment) == (80, 0.1, True)


def test_paths_may_be_strings_and_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(out="runs/x", data_dir="~/data")
    assert config == TrainConfig(out=Path("runs/x"), data_dir=tmp_path / "data")
    assert config.run_folder == Path("runs/x") and config.to_json()["data_dir"] == str(tmp_path / "data")
    for name in ("out", "data_dir"):
        with pytest.raises(InputError, match=f"^{name}: gs:/bucket/x is a URL; only local folders"):
            TrainConfig(**{name: Path("gs://bucket/x")})


def test_json_and_back():
    config = TrainConfig(out=Path("runs/x"), max_steps=3, decay_every=None, decay_at=(2, 3))
    values = json.loads(json.dumps(config.to_json()))
    assert values["out"] == str(Path("runs/x"))
    assert TrainConfig(**values | {"out": Path(values["out"])}) == config


def test_the_run_folder_names_what_runs():
    assert TrainConfig(dataset="digits", model="resnet20", seed=3).run_folder == Path("runs/digits-resnet20-seed3")
    assert TrainConfig(out=Path("elsewhere")).run_folder == Path("elsewhere")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"dataset": "tfds:mnist"}, "tfds-mnist"),
        ({"dataset": "tfds:mnist_corrupted/shot_noise:1.0.0"}, "tfds-mnist_corrupted-shot_noise-1.0.0"),
        ({"dataset": "folder", "data_dir": "/data/my flowers/"}, "my flowers"),
        ({"dataset": "folder", "data_dir": "/"}, "folder"),
        ({"dataset": "folder"}, "folder"),
        ({"dataset": "cifar10", "data_dir": "/data"}, "cifar10"),
    ],
)
def test_the_run_folder_is_named_by_the_data(fields, name):
    assert TrainConfig(**fields, model="resnet20").run_folder == Path(f"runs/{name}-resnet20-seed0")


def test_overrides_reach_the_network():
    config = TrainConfig(
        reduction=16, aggregate_op="max", aggregate_placement="block", aggregate_factor=2, dtype="bfloat16"
    )
    network = config.model_config(num_classes=7, in_channels=1)
    assert (network.reduction, network.aggregate_op, network.aggregate_factor) == (16, "max", 2)
    assert (network.aggregate_placement, network.dtype) == ("block", "bfloat16")
    config = TrainConfig(aggregate_stages=[1, 3], aggregate_norm=True, aggregate_op="random", aggregate_seed=5)
    assert config.aggregate_stages == (1, 3) and TrainConfig.from_json(config.to_json(), where="x") == config
    other = config.model_config(num_classes=7)
    assert (other.aggregate_stages, other.aggregate_norm, other.aggregate_seed) == ((1, 3), True, 5)
    kept = TrainConfig(model="seanet20_narrow_stages12").model_config(10)
    assert kept.aggregate_stages == (1, 2) and network.aggregate_stages is None
    assert network.squeeze_excite and not TrainConfig(squeeze_excite=False).model_config(10).squeeze_excite
    assert (network.num_classes, network.in_channels, network.widths) == (7, 1, (128, 256, 512))


def test_a_network_of_one_image_size_is_made_for_the_images():
    """EncapNet's classifier has a weight for each place of its last map."""
    assert TrainConfig(model="encapnet").model_config(10).image_size == 32
    assert TrainConfig(model="encapnet", dataset="folder", image_size=64).model_config(10).image_size == 64
    assert TrainConfig(model="encapnet").model_config(10, image_size=96).image_size == 96
    with pytest.raises(InputError, match="image_size is 100; it must be divisible by 8"):
        TrainConfig(model="encapnet", dataset="folder", image_size=100)


FREE = {
    *("epochs", "max_steps", "eval_batch_size", "data_dir", "out", "resume", "require_gpu", "log_every"),
    *("checkpoint_every", "checkpoint_steps", "eval_every", "on_nan", "patience"),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainConfig)])
def test_only_what_changes_no_result_may_differ_on_resume(field):
    # Without a decay, its factor is refused.
    decay_at = (5,) if field == "decay_factor" else ()
    config = TrainConfig(decay_every=None, decay_at=decay_at, validation_fraction=0.2)
    changed = {"dataset": "cifar10", "model": "resnet20", "aggregate_placement": "block", "aggregate_op": "max"}
    changed |= {"aggregate_factor": 2, "reduction": 4, "dtype": "bfloat16", "conv_method": "lax", "augment": False}
    changed |= {"data_dir": Path("d"), "out": Path("o"), "resume": True, "require_gpu": True, "decay_factor": 0.5}
    changed |= {"learning_rate": 0.2, "momentum": 0.8, "weight_decay": 0.0, "validation_fraction": 0.1}
    changed |= {"optimizer": "adam", "decay_at": (7, 9), "schedule": "constant", "class_weights": "balanced"}
    changed |= {"padding": "reflect", "erasing": 0.5, "ema_decay": 0.9, "test_fraction": 0.5, "label_smoothing": 0.1}
    changed |= dict.fromkeys(("nesterov", "decoupled_decay", "skip_broken", "trivial_augment"), True)
    changed |= {"decay_vectors": False, "mirror": False, "aggregate_stages": (1, 3), "aggregate_norm": True}
    changed |= {"on_nan": "continue", "batch_statistics": "device", "squeeze_excite": False}
    other = dataclasses.replace(config, **{field: changed.get(field, 7)})
    differences = other.differences(config.to_json())
    assert [line.split(":")[0] for line in differences] == ([] if field in FREE else [field])
    noted = other.differences(config.to_json(), harmless=True)
    assert [line.split(":")[0] for line in noted] == ([field] if field in FREE - {"resume"} else [])


@pytest.mark.parametrize(("schedule", "free"), {"constant": True, "cosine": False, "one_cycle": False}.items())
def test_more_epochs_continue_a_run_whose_schedule_does_not_depend_on_them(schedule, free):
    saved = TrainConfig(schedule=schedule).to_json()
    assert bool(TrainConfig(schedule=schedule, epochs=300).differences(saved)) != free


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a positive integer or None"),
        ({"test_fraction": 1}, "test_fraction is 1; it must be above 0 and below 1, or None"),
        ({"skip_broken": 1}, "skip_broken is 1; it must be True or False"),
        ({"patience": 3}, "patience is 3, but there are no validation images to watch; give --validation-fraction"),
        (
            {"model": "encapnet", "mixup": 0.2},
            "mixup is 0.2, but encapnet is trained by the margin loss, which takes one",
        ),
    ],
)
def test_what_cannot_work_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**fields)


def test_a_run_saved_before_a_field_was_added_had_its_default():
    saved = {name: value for name, value in TrainConfig().to_json().items() if name != "batch_statistics"}
    assert TrainConfig().differences(saved) == []
    (difference,) = TrainConfig(batch_statistics="device").differences(saved)
    assert difference == "batch_statistics: 'global' was saved, 'device' is asked"


def test_batch_statistics_of_each_device_are_groups_of_the_network():
    assert TrainConfig(batch_statistics="device").model_config(10, devices=4).batch_groups == 4
    assert TrainConfig().model_config(10, devices=4).batch_groups == 1
    with pytest.raises(InputError, match="batch_statistics is 'local'; it must be one of global, device"):
        TrainConfig(batch_statistics="local")


@pytest.mark.parametrize("value", ["0", True, 1.5, float("nan"), -1, None])
def test_a_wrong_number_of_epochs_is_named(value):
    with pytest.raises(InputError, match=r"epochs is .*; it must be a positive integer"):
        TrainConfig(epochs=value)


def test_encapnet_has_a_recipe_of_its_own():
    for name in ("encapnet", "encapnet_plus", "encapnet_plus_plus"):
        config = TrainConfig(model=name, **published_recipe(name))
        assert (config.optimizer, config.learning_rate, config.momentum) == ("adam", 1e-4, 0.9)
        assert config.decay_every is None
        assert (config.batch_size, config.epochs, config.decay_at, config.decay_factor) == (
            256,
            600,
            (200, 300, 400),
            0.1,
        )
        assert config.weight_decay == 5e-4 and config.augment
    assert published_recipe("seanet20") == published_recipe("no such network") == {}


def test_what_a_network_has_not_cannot_be_changed():
    with pytest.raises(InputError, match="encapnet has no field 'reduction'; its fields are num_classes"):
        TrainConfig(model="encapnet", reduction=4)


@pytest.mark.parametrize("value", [(0,), (3, 3), (4, 3), (1.5,), ("1",)])
def test_decays_come_in_rising_order(value):
    with pytest.raises(InputError, match=r"decay_at is .*; it must be epochs from 1 in rising order, or none"):
        TrainConfig(decay_every=None, decay_at=value)


def test_a_rate_decays_in_one_way():
    with pytest.raises(InputError, match=r"decay_every is 80 and decay_at is \(3, 4\); only one can be followed: make"):
        TrainConfig(decay_at=(3, 4))
    assert TrainConfig(decay_every=None).decay_at == ()


def test_the_optimizer_is_one_that_there_is():
    with pytest.raises(InputError, match="optimizer is 'rmsprop'; it must be one of sgd, adam"):
        TrainConfig(optimizer="rmsprop")


# A flag without a value cannot be wrong.
CHECKED = {field.name for field in dataclasses.fields(TrainConfig)} - {
    *("augment", "resume", "require_gpu"),
}


@pytest.mark.parametrize("field", sorted(CHECKED))
def test_every_field_with_a_wrong_type_is_named(field):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(TrainConfig(), **{field: [object()]})
