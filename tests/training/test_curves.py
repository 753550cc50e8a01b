import sys
import time

import pytest
from matplotlib.image import imread

from seanet_jax.models.scores import LENGTHS, LOGITS
from seanet_jax.training import curves
from seanet_jax.training.curves import draw_curves, published_curves
from seanet_jax.training.progress import Progress, format_duration


def record(epoch, **more):
    values = {"train_loss": 2 / epoch, "train_accuracy": 0.5, "test_loss": 3 / epoch, "test_accuracy": 0.4}
    timing = {"learning_rate": 0.1, "step": 4 * epoch, "images_per_second": 80.0}
    return {"epoch": epoch} | values | timing | more


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations_read_like_speech(seconds, text):
    assert format_duration(seconds) == text


def test_plain_lines_come_every_so_many_steps(capsys, monkeypatch):
    clock = iter(range(1000))
    # A second passes between two looks at it: three lines.
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress(step=0, last_step=8, steps_per_epoch=4, batch_size=10, log_every=2)
    progress.begin_epoch(4)
    for step in range(1, 5):
        progress.step(step, 1.5, 0.25)
    timing = progress.end_steps()
    progress.end_epoch(record(1) | timing)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith(" 10 images/s")  # the first tells at once how fast it is
    assert lines[1].startswith("  epoch 1/2, step 2/4: loss 1.500, accuracy 25.00%, ")
    assert lines[2].startswith("  epoch 1/2, step 4/4: ")
    assert lines[3].startswith("epoch 1/2, lr 0.1, train loss 2.000 accuracy 50.00%, test loss 3.000 accuracy 40.00%, ")
    assert lines[3].endswith(", 10 images/s, 5 s left")
    assert timing == {"seconds": 4, "images_per_second": 10.0}


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(step=4, last_step=8, steps_per_epoch=4, batch_size=10, log_every=1)
    progress.begin_epoch(8)
    assert not any(progress.is_due(step) for step in range(5, 9))
    progress.step(7, 1.5, 0.25)
    assert progress._bar.n == 3
    progress.end_steps()
    shown = capsys.readouterr().out
    assert "\r" in shown and "epoch 2/2" in shown
    assert "step 1/4" not in shown


def test_only_the_two_cifars_have_published_curves():
    assert [row["epoch"] for row in published_curves("cifar10")] == list(range(1, 201))
    assert published_curves("cifar100")[0] == pytest.approx(published_curves("cifar100")[0])
    assert published_curves("digits") == []


def test_the_published_best_epochs_are_the_talks_figures():
    # 4.3 % and 21.33 %, chosen on the test set.
    for dataset, error in (("cifar10", 4.3), ("cifar100", 21.33)):
        assert min(100 * (1 - row["test_accuracy"]) for row in published_curves(dataset)) == pytest.approx(error)


@pytest.mark.parametrize("dataset", ["digits", "cifar100"])
@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_are_drawn_for_any_length(tmp_path, monkeypatch, dataset, epochs):
    drawn = []
    monkeypatch.setattr(curves, "_tidy", lambda axes, *_: drawn.append([line.get_label() for line in axes.lines]))
    records = [record(epoch, val_loss=2.5, val_accuracy=0.45) for epoch in range(1, epochs + 1)]
    draw_curves(records, tmp_path / "curves.png", LOGITS, title="a run", dataset=dataset, epochs=epochs)
    published = ["published SEANet-20, train", "published SEANet-20, test"] if dataset == "cifar100" else []
    assert drawn == [[*published, "train", "validation", "test"]] * 2
    assert imread(tmp_path / "curves.png").shape[0] > 400


def test_a_margin_loss_is_not_drawn_over_published_cross_entropies(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        curves, "_tidy", lambda axes, label, _: drawn.append((label, [line.get_label() for line in axes.lines]))
    )
    draw_curves([record(1)], tmp_path / "curves.png", LENGTHS, title="a run", dataset="cifar100", epochs=1)
    published = ["published SEANet-20, train", "published SEANet-20, test"]
    assert drawn == [("margin loss", ["train", "test"]), ("error (%)", [*published, "train", "test"])]


def test_what_an_epoch_did_not_measure_is_left_out(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        curves, "_tidy", lambda axes, *_: drawn.extend((line.get_label(), *line.get_xdata()) for line in axes.lines)
    )
    first = {name: value for name, value in record(1).items() if not name.startswith("train")}
    for records in ([first], [first, record(2)]):
        draw_curves(records, tmp_path / "curves.png", LOGITS, title="a run", dataset="digits", epochs=2)
    assert drawn == 2 * [("test", 1)] + 2 * [("train", 2), ("test", 1, 2)]
