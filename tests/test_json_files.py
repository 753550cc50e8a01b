import json
import math
import re

import pytest

from seanet_jax.errors import InputError
from seanet_jax.json_files import check_fields, json_text, json_value, parse_json, read_json, with_nan

NOT_FINITE = {"loss": math.nan, "rows": [1.5, (math.inf, {"low": -math.inf})], "name": "NaN", "none": None, "on": True}


def refuse(word):
    raise AssertionError(f"{word} is not JSON")


def test_numbers_that_are_not_finite_are_null_at_every_level():
    expected = {"loss": None, "rows": [1.5, [None, {"low": None}]], "name": "NaN", "none": None, "on": True}
    assert json_value(NOT_FINITE) == expected
    assert json.loads(json_text(NOT_FINITE), parse_constant=refuse) == expected


def test_a_record_comes_back_with_nan():
    record = with_nan(json.loads(json_text({"epoch": 1, "test_loss": math.inf})))
    assert record["epoch"] == 1 and math.isnan(record["test_loss"])


def test_json_without_such_numbers_is_the_text_that_python_writes():
    value = {"a": [1, 2.5, 1e-7, "é"], "b": None}
    assert json_text(value) == json.dumps(value, indent=2) + "\n"
    assert json_text(value, indent=None) == json.dumps(value) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_object_is_read_in_any_encoding_of_unicode(encoding, tmp_path):
    (tmp_path / "file").write_bytes('{"a": "é", "loss": null}'.encode(encoding))
    assert read_json(tmp_path / "file", remedy="") == {"a": "é", "loss": None}


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"[1]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b'{"a": ' + 5000 * b"1" + b"}", "integer string conversion"),
        (b'{"a": ' + 100 * b"[" + 100 * b"]" + b"}", "it is nested more than 50 levels deep"),
        (b'{"a": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", "it is nested more than 50 levels deep"),
        (100_000 * b'{"a": ', "it is nested more than 50 levels deep"),
    ],
)
def test_any_other_content_is_refused_in_one_sentence(content, damage, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/file is damaged .*; restore it$") as caught:
        read_json(tmp_path / "file", remedy="restore it")
    assert damage in str(caught.value) and len(str(caught.value)) < 400


def test_fields_that_this_version_does_not_know_are_named():
    check_fields(["a"], ["a", "b"], where="f.json")
    with pytest.raises(InputError, match=r"^f\.json has the field c, which seanet_jax \S+ does not know; use"):
        check_fields(["a", "c"], ["a", "b"], where="f.json")
    with pytest.raises(InputError, match=r"^f\.json has the fields c, d, which"):
        check_fields(["d", "c"], ["a", "b"], where="f.json")


def test_fifty_levels_are_read():
    content = '{"a": ' + 48 * "[" + "1" + 48 * "]" + "}"
    assert json.dumps(parse_json(content, where="", remedy="")) == content


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file or directory")):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} cannot be read \\({why}\\)$"):
            read_json(path, remedy="restore it")
