"""Text to values: what plain words mean, and where everything stands."""

from __future__ import annotations

import math

import pytest

from adapt.errors import RecipeError
from adapt.recipe import load
from adapt.recipe.document import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", 1000),
        ("-.inf", -math.inf),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("2M", "2M"),
        ("50%", "50%"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_mean_what_they_look_like(text, value):
    found = parse(f"key: {text}\n", "r.yaml").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_always_text():
    assert list(parse("no: 1\non: 2\n3: 3\ntrue: 4\n1e3: 5\n", "r.yaml").value) == ["no", "on", "3", "true", "1e3"]


def test_places_count_from_one_and_survive_aliases():
    document = parse("a: &x [1, {b: 2}]\nc: *x\n", "r.yaml")
    assert document.value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
    assert document.places.keys[("a", 1, "b")] == (1, 12)
    assert document.places.values[("a", 1, "b")] == (1, 15)
    assert document.places.keys[("c",)] == (2, 1)
    assert document.places.values[("c", 0)] == (1, 8)


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_line_ends_and_byte_order_mark_do_not_matter(ends):
    data = b"\xef\xbb\xbf" + ends.join(["a: 1", "b: 'х'"]).encode()
    document = parse(data, "r.yaml")
    assert document.value == {"a": 1, "b": "х"}
    assert document.places.values[("b",)] == (2, 4)


def test_bytes_that_are_no_utf8_are_told_with_their_place(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("name: ї\nseed: ".encode() + b"\xff\n")
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2:7: the byte 0xff is not UTF-8; save the file as UTF-8"


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "lang.yaml").write_text("name: x\n")
    for path, message in (
        (tmp_path / "lnag.yaml", "there is no such file; did you mean 'lang.yaml'? allowed: lang.yaml"),
        (tmp_path / "nowhere" / "x.yaml", "there is no such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(RecipeError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: {message}"
