import json
import math
import re
from typing import Any, NotRequired, TypedDict

import pytest

from seanet_jax.errors import InputError
from seanet_jax.json_files import (
    check_fields,
    checked,
    json_text,
    json_value,
    parse_json,
    read_json,
    with_nan,
    written_by,
)
from seanet_jax.version import __version__

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
        (b'{"a": 1, "b": {"c": 1, "d": 2, "c": 1}}', "it has c twice"),
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


def test_fields_of_another_version_are_named_with_it():
    with pytest.raises(InputError, match=r"^f has the field c, .*; seanet_jax 99\.1 wrote it; install that"):
        check_fields(["c"], [], where="f", version="99.1")
    for version in (__version__, None, 3):
        with pytest.raises(InputError, match=r"^f has the field c, which seanet_jax \S+ does not know; use the"):
            check_fields(["c"], [], where="f", version=version)
    assert written_by("\x1b") == "; seanet_jax \\x1b wrote it"


class _Inner(TypedDict):
    rows: list[float]


class _Outer(TypedDict):
    count: int
    name: str | None
    inner: NotRequired[list[_Inner]]
    table: NotRequired[dict[str, list[int]] | None]
    on: NotRequired[bool]
    anything: NotRequired[Any]


RIGHT: dict[str, Any] = {"count": 3, "name": None}


@pytest.mark.parametrize(
    ("fields", "damage"),
    [
        (
            {"name": "a", "inner": [{"rows": [1, 1.5]}], "table": {"a": [1]}, "on": True, "anything": [[]], "more": 1},
            None,
        ),
        ({"table": None, "inner": []}, None),
        ({"count": 1.5}, "count is 1.5 and must be an integer"),
        ({"count": True}, "count is True and must be an integer"),
        ({"count": 2**31}, "count is 2147483648 and must be an integer"),
        ({"name": 3}, "name is 3 and must be a text or null"),
        ({"on": 1}, "on is 1 and must be true or false"),
        ({"inner": {}}, "inner is {} and must be a list"),
        ({"inner": [{"rows": []}, 3]}, "inner[1] is 3 and must be an object"),
        ({"inner": [{}]}, "inner[0] has no rows"),
        ({"inner": [{"rows": [1, True]}]}, "inner[0].rows[1] is True and must be a finite number"),
        ({"inner": [{"rows": [math.inf]}]}, "inner[0].rows[0] is inf and must be a finite number"),
        ({"inner": [{"rows": [10**400]}]}, "and must be a finite number"),
        ({"table": {"a": [1], "b": ["x"]}}, "table.b[0] is 'x' and must be an integer"),
    ],
)
def test_fields_have_the_types_that_are_declared(fields, damage):
    value = RIGHT | fields
    if damage is None:
        assert checked(value, _Outer, where="f", remedy="restore it") is value
        return
    with pytest.raises(InputError, match=f"^f is damaged \\(.*{re.escape(damage)}\\); restore it$") as caught:
        checked(value, _Outer, where="f", remedy="restore it")
    assert len(str(caught.value)) < 400


def test_fields_that_are_missing_are_named():
    with pytest.raises(InputError, match=r"^f is damaged \(it has no count, name\); restore it$"):
        checked({}, _Outer, where="f", remedy="restore it")


def test_fifty_levels_are_read():
    content = '{"a": ' + 48 * "[" + "1" + 48 * "]" + "}"
    assert json.dumps(parse_json(content, where="", remedy="")) == content


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    folder = "(it is a folder); a file must be there"
    for path, why in ((tmp_path, folder), (tmp_path / "no", "(No such file or directory)")):
        with pytest.raises(InputError, match=re.escape(f"{path} cannot be read {why}") + "$"):
            read_json(path, remedy="restore it")
