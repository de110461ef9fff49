"""Token translation from a parallel corpus, and the word alignment behind it."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.align import Align, read_lines, spread, token_links
from adapt.vocabulary.word_alignment import Side, aligned, best, words_of
from tests.vocabulary.initialisation.bijection import WORDS, Case, random_rows, sentences, translated

CASE = Case()


def shuffled(lines: list[str], seed: int = 1) -> list[list[str]]:
    """The translations, the words of each line in another order."""
    draw = random.Random(seed)
    return [
        draw.sample(words, len(words)) for words in ([translated(word) for word in words_of(line)] for line in lines)
    ]


def test_words_and_marks():
    assert words_of("It's 45, п'ять; a-b.\n") == ["It's", "45", ",", "п'ять", ";", "a-b", "."]


def test_a_planted_dictionary_is_recovered_whatever_the_order():
    lines = sentences(200)
    source, target = Side.of(map(words_of, lines)), Side.of(shuffled(lines))
    first, second, counts = aligned(source, target, 7)
    links: dict[str, Counter] = {}
    for s, t, count in zip(first.tolist(), second.tolist(), counts.tolist(), strict=True):
        links.setdefault(target.words[t - 1], Counter())[source.words[s - 1]] += count
    for word in WORDS:
        (translation, count), *others = links[translated(word)].most_common()
        assert translation == word
        assert count > 20 * sum(rest for _, rest in others)


def reference(pairs, iterations):
    """The same model with dictionaries and loops."""
    theta: dict = {}
    for _ in range(iterations + 1):
        counts, totals, links = Counter(), Counter(), []
        for source, target in pairs:
            m, n = len(source), len(target)
            for j, word in enumerate(target):
                falls = [math.exp(-4 * abs((i + 0.5) / m - (j + 0.5) / n)) for i in range(m)]
                prior = [0.08, *(0.92 * value / sum(falls) for value in falls)]
                mass = [
                    p * theta.get((s, word), 1.0 if not theta else 0.0)
                    for p, s in zip(prior, [None, *source], strict=True)
                ]
                links.append(mass.index(max(mass)) - 1)
                for value, s in zip(mass, [None, *source], strict=True):
                    counts[s, word] += value / sum(mass)
                    totals[s] += value / sum(mass)
        theta = {key: count / totals[key[0]] for key, count in counts.items()}
    return links


def test_equal_to_a_plain_reference():
    lines = sentences(12, seed=3)
    pairs = [
        (words_of(line)[: 3 + k % 4], words) for k, (line, words) in enumerate(zip(lines, shuffled(lines), strict=True))
    ]
    source, target = (Side.of(side) for side in zip(*pairs, strict=True))
    found = best(source, target, 4)
    owners = np.repeat(np.arange(len(pairs)), target.lengths)
    assert np.where(found < 0, -1, found - source.starts[owners]).tolist() == reference(pairs, 4)


def test_the_diagonal_decides_where_nothing_else_does():
    source, target = Side.of([["a", "b", "c"]]), Side.of([["x", "y", "z"]])
    assert best(source, target, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (2, 2), (3, 2), (4, 7)])
def test_the_links_of_a_word_are_split_and_none_is_lost(old, new):
    shares = torch.tensor(spread(old, new))
    assert shares.sum().item() == pytest.approx(1)
    assert torch.allclose(shares.sum(0), torch.full((old,), 1 / old))
    assert torch.allclose(shares.sum(1), torch.full((new,), 1 / new))
    if old == new:
        assert torch.allclose(shares, (torch.eye(old) / old + torch.full((old, old), 1 / old**2)) / 2)


def test_token_links_add_up():
    table = token_links([([1], [10], 6), ([2, 3], [10, 11], 4), ([5], [12], 9)], {10, 11})
    assert table[10] == {1: 6, 2: 1.5, 3: 0.5}
    assert table[11] == {2: 0.5, 3: 1.5}
    assert set(table) == {10, 11}


@pytest.fixture
def files(tmp_path):
    lines = sentences(200)
    (tmp_path / "en.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "xx.txt").write_text("\n".join(map(" ".join, shuffled(lines))) + "\n", encoding="utf-8")
    return {"source": str(tmp_path / "en.txt"), "target": str(tmp_path / "xx.txt")}


def test_a_new_word_is_the_row_of_its_translation(files):
    matrix = random_rows(CASE.height, 6)
    for side in ("input", "output"):
        rows = Align(**files).rows(matrix, CASE.rows(side))
        assert torch.allclose(rows, matrix[CASE.twins], atol=1e-4)


def test_rows_are_convex_the_same_text_is_copied_and_the_rest_counted(files):
    full_stop, unseen = CASE.new.get_vocab()["."], CASE.new.get_vocab()["!"]
    part = CASE.new.get_vocab()["Ð"]
    new = CASE.rows(ids=[*CASE.ids, full_stop, unseen, part])
    init = Align(**files)
    weights = init.rows(torch.eye(CASE.height), new)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(len(new.ids)), atol=1e-5)
    assert weights[-3].argmax().item() == CASE.old.get_vocab()["."]
    assert init.refine({"input": new}) == {
        "input_coverage": {"found": len(WORDS), "copied": 2, "fallback": 1},
        "notes": [
            f"align: nothing found for 1 of {len(WORDS) + 3} new pieces (input), their rows begin as mean_of_pieces"
        ],
    }


def test_both_files_belong_to_the_key(files):
    assert sorted(map(str, Align(**files).files())) == sorted(files.values())


def test_lines_that_are_empty_or_too_long_are_left_out(tmp_path):
    (tmp_path / "a").write_text("one\n\nx\u2028y\n" + "w " * 101 + "\ntwo\n", encoding="utf-8")
    (tmp_path / "b").write_text("раз\nдва\nтри\nчотири\nп'ять\n", encoding="utf-8")
    pairs = [(["one"], ["раз"]), (["x", "y"], ["три"]), (["two"], ["п'ять"])]
    assert read_lines(str(tmp_path / "a"), str(tmp_path / "b"), 10) == pairs
    assert read_lines(str(tmp_path / "a"), str(tmp_path / "b"), 2) == pairs[:2]


def test_bad_files_are_one_line(tmp_path, files):
    with pytest.raises(AdaptError) as caught:
        read_lines("no.txt", files["target"], 5)
    assert str(caught.value) == (
        "there is no file of aligned lines 'no.txt'; give a file on this machine (nothing is downloaded)"
    )
    short = tmp_path / "short.txt"
    short.write_text("one\n")
    with pytest.raises(AdaptError) as caught:
        read_lines(str(short), files["target"], 5)
    assert str(caught.value) == (
        f"'{short}' has 1 lines and '{files['target']}' has 200; line by line, one must translate the other"
    )
    short.write_text("\n")
    with pytest.raises(AdaptError) as caught:
        read_lines(str(short), str(short), 5)
    assert str(caught.value) == f"'{short}' and '{short}' hold no pair of lines of 1 to 100 words"
    with pytest.raises(AdaptError) as caught:
        Align(**files, min_count=10_000).rows(torch.eye(CASE.height), CASE.rows())
    assert str(caught.value) == (
        f"no two words of '{files['source']}' and '{files['target']}' are linked 10000 times; "
        "give more lines or a lower min_count"
    )
