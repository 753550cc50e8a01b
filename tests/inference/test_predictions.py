"""Predictions for image files: the same in any number, and tables in which no text is a formula."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predict_fixtures import IMAGES, SPEC, expected_fixture, model_fixture  # noqa: F401

from seanet_jax.data.image_file import ImageSource
from seanet_jax.errors import InputError
from seanet_jax.inference import predictions
from seanet_jax.inference.predictions import Prediction
from seanet_jax.inference.trained import Trained


@pytest.fixture(scope="module")
def trained(model):
    return Trained(model, SPEC)


def content(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_many_images_are_classified_as_one_is_and_in_order(trained, expected, monkeypatch):
    monkeypatch.setattr(predictions, "_BATCH_SIZE", 3)
    order = [0, 1, 2, 3, 4, 5, 6, 6, 5, 4, 3]
    sources = [ImageSource(Path(str(number)), content(IMAGES[number])) for number in order]
    sources[4] = ImageSource(Path("bad"), b"no image")
    found = predictions.predict(trained, sources, 3)
    assert [str(prediction.path) for prediction in found] == [
        "bad" if at == 4 else str(n) for at, n in enumerate(order)
    ]
    for at, (prediction, number) in enumerate(zip(found, order, strict=True)):
        if at == 4:
            assert prediction.error.startswith("bad cannot be read as an image") and not prediction.classes
            continue
        probabilities = dict(prediction.classes)
        np.testing.assert_allclose([probabilities[name] for name in SPEC.class_names], expected[number], atol=1e-5)


def test_a_batch_without_an_image_that_can_be_read_gives_only_errors(trained, monkeypatch):
    monkeypatch.setattr(predictions, "_BATCH_SIZE", 2)
    sources = [ImageSource(Path("bad"), b"")] * 2 + [ImageSource(Path("good"), content(IMAGES[0]))]
    assert [bool(one.error) for one in predictions.predict(trained, sources, 1)] == [True, True, False]
    with pytest.raises(InputError, match=r"^none of the 2 images can be read; name other files or folders$"):
        predictions.predict(trained, sources[:2], 1)


def test_no_text_of_a_table_is_a_formula():
    found = [
        Prediction(Path("=cmd|' /C calc'!A0.png"), [("+1", 0.75), ('a,"b"\nc', 0.25)]),
        Prediction(Path("\t@x.png"), error="-1 is wrong"),
    ]
    rows = list(csv.reader(predictions.as_csv(found).splitlines()))
    assert rows == [
        ["file", "rank", "class", "probability", "error"],
        ["'=cmd|' /C calc'!A0.png", "1", "'+1", "0.75", ""],
        ["'=cmd|' /C calc'!A0.png", "2", 'a,"b"\\nc', "0.25", ""],
        ["\\t@x.png", "", "", "", "'-1 is wrong"],
    ]
    lines = list(map(json.loads, predictions.as_json_lines(found).splitlines()))
    assert lines[1] == {"file": "=cmd|' /C calc'!A0.png", "rank": 2, "class": 'a,"b"\nc', "probability": 0.25}
    assert lines[2] == {"file": "\t@x.png", "error": "-1 is wrong"}
