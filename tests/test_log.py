"""The log: every line whole, whatever happens to the process."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.log import Log, finite

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read(tmp_path, value):
    log = Log(tmp_path / "log.jsonl")
    log.write("x", value=value)
    assert log.read("x")[-1]["value"] == finite(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (numpy.float32(0.5), 0.5),
        (numpy.float64("inf"), "inf"),
        (numpy.int64(3), 3),
        (numpy.bool_(True), True),
        (torch.tensor(2.0), 2.0),
        ((1, [2.0, {"a": float("nan")}]), [1, [2.0, {"a": "nan"}]]),
        ("text", "text"),
        (None, None),
    ],
)
def test_numbers_become_what_json_has(value, plain):
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == plain


def test_what_is_no_number_is_not_hidden(tmp_path):
    with pytest.raises(TypeError):
        Log(tmp_path / "log.jsonl").write("x", value=torch.zeros(2))
    assert Log(tmp_path / "log.jsonl").read() == []


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("train", step=1, text="line\u2028separator\x85")
    whole = log.path.read_bytes()
    for cut in range(1, len(whole)):
        log.path.write_bytes(whole + whole[:cut])
        assert len(log.read()) == 1, "a line that is being written does not count"
        again = Log(log.path)
        assert log.path.read_bytes() == whole
        again.write("train", step=2)
        assert [line["step"] for line in again.read("train")] == [1, 2]


def test_lines_of_steps_that_will_be_done_again_are_dropped(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.rewind(3)
    log.write("start")
    for step in range(6):
        log.write("train", step=step)
    log.rewind(3)
    assert [line.get("step") for line in log.read()] == [None, 0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
