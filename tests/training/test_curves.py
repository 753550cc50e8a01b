import pytest
from matplotlib.image import imread
from training_fixtures import made_record

from seanet_jax.models.scores import LENGTHS, LOGITS
from seanet_jax.training import curves
from seanet_jax.training.curves import curves_figure, draw_curves, published_curves


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
    records = [made_record(epoch, val_loss=2.5, val_accuracy=0.45) for epoch in range(1, epochs + 1)]
    draw_curves(records, tmp_path / "curves.png", LOGITS, title="a run", dataset=dataset, epochs=epochs)
    published = ["published SEANet-20, train", "published SEANet-20, test"] if dataset == "cifar100" else []
    assert drawn == [[*published, "train", "validation", "test"]] * 2
    assert imread(tmp_path / "curves.png").shape[0] > 400


def test_a_margin_loss_is_not_drawn_over_published_cross_entropies(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        curves, "_tidy", lambda axes, label, _: drawn.append((label, [line.get_label() for line in axes.lines]))
    )
    draw_curves([made_record(1)], tmp_path / "curves.png", LENGTHS, title="a run", dataset="cifar100", epochs=1)
    published = ["published SEANet-20, train", "published SEANet-20, test"]
    assert drawn == [("margin loss", ["train", "test"]), ("error (%)", [*published, "train", "test"])]


def test_what_an_epoch_did_not_measure_is_left_out(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        curves, "_tidy", lambda axes, *_: drawn.extend((line.get_label(), *line.get_xdata()) for line in axes.lines)
    )
    first = {name: value for name, value in made_record(1).items() if not name.startswith("train")}
    for records in ([first], [first, made_record(2)]):
        draw_curves(records, tmp_path / "curves.png", LOGITS, title="a run", dataset="digits", epochs=2)
    assert drawn == 2 * [("test", 1)] + 2 * [("train", 2), ("test", 1, 2)]


def test_no_label_is_cut_off_however_large_the_losses_are():
    records = [made_record(epoch, test_loss=95_000.0) for epoch in (1, 2)]
    figure = curves_figure(records, LOGITS, dataset="cifar100", epochs=2)
    figure.canvas.draw()
    for axes in figure.axes:
        drawn = axes.get_tightbbox()
        assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.x1 and drawn.y0 >= 0 and drawn.y1 <= figure.bbox.y1
