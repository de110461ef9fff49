"""What the terminal shows, with a terminal and without."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adapt.display import Display, duration_text, measured, short, size_text


def display_on(width: int = 80, terminal: bool = False) -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, width=width, force_terminal=terminal, color_system=None)), text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12345, "12,345"),
        (0.000312345, "0.0003123"),
        (3.14159, "3.142"),
        (123456.7, "123,457"),
        (float("nan"), "nan"),
        (True, "True"),
        ("as it is", "as it is"),
    ],
)
def test_numbers_are_short(value, shown):
    assert short(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (999_600, "1 MB"), (1_500_000_000, "1.5 GB"), (2.5e12, "2.5 TB")],
)
def test_sizes(count, shown):
    assert size_text(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (4.21, "4.2 s"),
        (59.9, "60 s"),
        (59.97, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.9, "1 h 0 min"),
        (11_400, "3 h 10 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds, shown):
    assert duration_text(seconds) == shown


@given(st.floats(0, 1e9))
def test_no_duration_or_size_is_shown_in_too_many_units(number):
    assert re.fullmatch(r"\d+(\.\d)? s|\d+ (min|h|d) \d+ (s|min|h)", duration_text(number))
    assert re.fullmatch(r"\d+(\.\d+)?(e-\d+)? (bytes|kB|MB|GB)", size_text(number))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("loss", 2.31234, "loss 2.312"),
        ("bits_per_byte", 1.02, "bits/byte 1.02"),
        ("tokens_per_second", 12345.6, "12,346 tokens/s"),
        ("peak_memory_bytes", 1.5e9, "peak memory 1.5 GB"),
        ("seconds", 125.0, "2 min 5 s"),
        ("learning_rate", 3e-4, "learning rate 0.0003"),
        ("method", "lora", "method lora"),
    ],
)
def test_named_numbers_have_their_units(name, value, shown):
    assert measured(name, value) == shown


def test_without_a_terminal_a_line_comes_every_tenth_of_the_way():
    display, text = display_on()
    with display.progress("train", 1000) as task:
        for step in range(1001):
            task.update(step, loss=2.5, bits_per_byte=None)
    lines = text.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "  train 0/1,000  loss 2.5"
    assert re.fullmatch(r"  train 500/1,000  loss 2.5  [\d.]+ s left", lines[5])
    assert lines[-1] == "  train 1,000/1,000  loss 2.5"


def test_the_last_line_comes_once_and_nothing_of_nothing_is_no_error():
    display, text = display_on()
    with display.progress("train", 0) as task:
        task.update(0)
        task.update(1)
        task.update(1)
    assert text.getvalue().splitlines() == ["  train 0/1", "  train 1/1"]


def test_with_a_terminal_all_numbers_are_in_one_display_even_if_it_is_narrow():
    display, text = display_on(width=70, terminal=True)
    with display.progress("train", 100) as task:
        task.update(40, loss=2.3, bits_per_byte=1.02, tokens_per_second=12345, peak_memory_bytes=1.5e9)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).split("\r")[-1]
    words = " ".join(last.split())
    for part in ("train", "40%", "loss 2.3", "bits/byte", "1.02", "12,345", "tokens/s", "peak", "1.5 GB"):
        assert part in words
    assert all(len(line) <= 70 for line in last.splitlines())


def test_a_bar_inside_a_bar_joins_the_display_and_leaves_it():
    display, text = display_on(terminal=True)
    with display.progress("train", 100) as outer:
        outer.update(10, loss=2.0)
        with display.progress("evaluate", 5) as inner:
            inner.update(5)
            display.line("a line above the bars")
        outer.update(100)
    with display.progress("again", 1) as task:
        task.update(1)
    shown = text.getvalue()
    assert "evaluate" in shown
    assert "a line above the bars" in shown
    assert "evaluate" not in shown[shown.rindex("train") :]


def test_an_error_in_a_block_gives_the_terminal_back():
    display, _ = display_on(terminal=True)
    with pytest.raises(ValueError, match="stop"), display.progress("train", 100):
        raise ValueError("stop")
    with display.progress("train", 100) as task:
        task.update(1)


def test_text_is_printed_as_it_is():
    display, text = display_on(width=40)
    strange = "[bold]x[/bold] [/oops] :book: " + "long " * 20
    display.line(strange)
    assert text.getvalue() == strange + "\n"
    with display.progress("[/oops] :book:", 1) as task:
        task.update(1)
    assert "[/oops] :book: 1/1" in text.getvalue()


def test_tables_keep_every_character_and_fit_the_terminal():
    display, text = display_on(width=60, terminal=True)
    words = "[/oops] :book: " + " ".join(f"word{index}" for index in range(40))
    display.table("scores [x]", ["model [y]", "text", "value"], [["base", words, 1234567], ["cpt", "x" * 100, None]])
    lines = text.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    plain = "".join(re.split(r"[│┃\s]+", text.getvalue()))
    for word in ("[/oops]", ":book:", "word0word1", "word39", "1,234,567"):
        assert word in plain
    assert plain.count("x") >= 100
    assert lines[0].startswith("scores [x]")
    assert "model [y]" in text.getvalue()


def test_tables_in_a_file_are_not_squeezed_and_numbers_stand_right(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    display = Display()
    display.table("t", ["name", "value"], [["a" * 100, 1.5], ["b", 22_222]])
    display.table("empty", ["a"], [])
    shown = capsys.readouterr().out
    assert "a" * 100 in shown
    assert re.search(r"│ +1.5 │", shown)
    assert "empty" in shown
