"""WECHSEL (methods F: A-14) and the neighbours that it shares with OFA."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.combination import Combination, combined, neighbours
from adapt.vocabulary.initialisation.wechsel import Wechsel, procrustes, read_dictionary
from tests.vocabulary.initialisation.bijection import WORDS, Case, random_rows, translated, write_vectors

CASE = Case()
WHOLE = torch.tensor(sorted(CASE.twins))
"""Whole words only: a part of a single word has that word's vector too, so the nearest would not be unique."""


def rotation(width: int) -> torch.Tensor:
    return torch.linalg.qr(random_rows(width, width, seed=5).double()).Q.float()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Vectors of English words, the same vectors rotated for their translations, and half of the dictionary."""
    folder = tmp_path_factory.mktemp("vectors")
    matrix = random_rows(len(WORDS), 8)
    others = [translated(word) for word in WORDS]
    dictionary = folder / "pairs.tsv"
    dictionary.write_text("".join(f"{word}\t{translated(word)}\n" for word in WORDS[::2]), encoding="utf-8")
    return {
        "source_vectors": write_vectors(folder / "en.vec", WORDS, matrix),
        "target_vectors": write_vectors(folder / "xx.vec", others, matrix @ rotation(8)),
        "dictionary": str(dictionary),
    }


def test_procrustes_recovers_a_planted_rotation():
    source = random_rows(50, 12)
    found = procrustes(source @ rotation(12).T, source)
    assert torch.allclose(found, rotation(12), atol=1e-5)
    assert torch.allclose(found @ found.T, torch.eye(12), atol=1e-5)


def test_procrustes_of_noisy_pairs_is_as_near_as_scipy_comes():
    from scipy.linalg import orthogonal_procrustes

    source, target = random_rows(40, 6, 1), random_rows(40, 6, 2)
    unit = [part / part.norm(dim=1, keepdim=True) for part in (target, source)]
    expected = torch.from_numpy(orthogonal_procrustes(unit[0].numpy(), unit[1].numpy())[0])
    assert torch.allclose(procrustes(target, source), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.01, 10))
def test_weights_are_a_softmax_over_the_nearest(seed, count, temperature):
    queries, keys = random_rows(4, 5, seed), random_rows(9, 5, seed + 1)
    found = neighbours(queries, keys, torch.arange(20, 29), count, temperature)
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=2)
    for row, (ids, weights) in enumerate(zip(found.ids, found.weights, strict=True)):
        nearest = cosines[row].argsort(descending=True)[:count]
        assert sorted(ids) == sorted((nearest + 20).tolist())
        assert torch.isclose(weights.sum(), torch.tensor(1.0), atol=1e-5)
        chosen = cosines[row][torch.tensor(ids) - 20]
        assert torch.allclose(weights, torch.softmax(chosen / temperature, 0), atol=1e-5)


def test_one_neighbour_copies_the_nearest_row():
    matrix, keys = random_rows(6, 3, 1), random_rows(6, 4)
    found = neighbours(keys[[4, 2]] * 7, keys, torch.arange(6), 1, 1e-6)
    rows = combined(matrix, CASE.rows(ids=CASE.ids[:2]), found)
    assert torch.equal(rows, matrix[[4, 2]])


def test_chunks_do_not_change_the_neighbours(monkeypatch):
    queries, keys = random_rows(11, 5, 1), random_rows(9, 5)
    whole = neighbours(queries, keys, torch.arange(9), 3, 0.1)
    monkeypatch.setattr("adapt.vocabulary.initialisation.combination._CELLS", 18)
    parts = neighbours(queries, keys, torch.arange(9), 3, 0.1)
    assert parts.ids == whole.ids
    assert torch.allclose(torch.stack(parts.weights), torch.stack(whole.weights), atol=1e-6)


@pytest.mark.parametrize("side", ["input", "output"])
def test_every_word_finds_its_translation_through_a_rotated_space(files, side):
    matrix = random_rows(CASE.height, 6)
    rows = Wechsel(**files, neighbours=1, temperature=1e-6).rows(matrix, CASE.rows(side, ordinary=WHOLE))
    assert torch.equal(rows, matrix[CASE.twins])


def test_without_the_dictionary_a_rotated_space_leads_astray(files):
    matrix = random_rows(CASE.height, 6)
    init = Wechsel(**(files | {"dictionary": None}), neighbours=1)
    assert not torch.equal(init.rows(matrix, CASE.rows(ordinary=WHOLE)), matrix[CASE.twins])


def test_rows_are_convex_and_the_fallback_is_counted(files):
    case_ids = [*CASE.ids, CASE.new.get_vocab()["!"]]
    new = CASE.rows(ids=case_ids)
    init = Wechsel(**files, without_vector="mean_of_pieces")
    weights = init.rows(torch.eye(CASE.height), new)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(len(case_ids)), atol=1e-5)
    assert weights[-1].nonzero().flatten().tolist() == list(new.pieces[-1])
    report = init.refine({"input": new})
    assert report["input_coverage"] == {"found": len(WORDS), "copied": 0, "fallback": 1}
    assert report["notes"] == [
        f"wechsel: nothing found for 1 of {len(case_ids)} new pieces (input), their rows begin as mean_of_pieces"
    ]


def test_the_gaussian_fallback_has_the_spread_of_the_old_rows():
    matrix = random_rows(CASE.height, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    ids = [CASE.ids[0]] * 4000
    new = CASE.rows(ids=ids, seed=3)
    empty = Combination([()] * 4000, [torch.zeros(0)] * 4000)
    rows = combined(matrix, new, empty, "gaussian")
    old = matrix[CASE.ordinary]
    assert torch.allclose(rows.mean(0), old.mean(0), atol=0.3)
    assert torch.allclose(rows.std(0), old.std(0), rtol=0.1)
    assert torch.equal(rows, combined(matrix, new, empty, "gaussian"))
    assert not torch.equal(rows, combined(matrix, CASE.rows("output", ids=ids, seed=3), empty, "gaussian"))


def test_target_vectors_are_trained_on_the_corpus_where_none_are_given(files):
    init = Wechsel(source_vectors=files["source_vectors"], dictionary=files["dictionary"], without_vector="gaussian")
    first, again = (init.rows(torch.eye(CASE.height), CASE.rows()) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.allclose(first.sum(1), torch.ones(len(WORDS)), atol=1e-5)


def test_vectors_of_the_corpus_need_a_dictionary(files):
    with pytest.raises(ValidationError, match="aligned with nothing; give a dictionary of word pairs"):
        Wechsel(source_vectors=files["source_vectors"])


def test_its_files_belong_to_the_key(files):
    assert sorted(map(str, Wechsel(**files).files())) == sorted(files.values())


def test_bad_dictionaries_are_one_line(tmp_path, files):
    path = tmp_path / "pairs.txt"
    for content, message in (
        ("one два\nthree\n", f"{path}:2: 'three' is no pair; write two words with a tab between"),
        ("\n", f"the dictionary '{path}' holds no word pairs"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(AdaptError) as caught:
            read_dictionary(str(path))
        assert str(caught.value) == message
    path.write_text("unknown\tнічого\n", encoding="utf-8")
    with pytest.raises(AdaptError, match=r"^no pair of '.*pairs.txt' has vectors in both '.*en.vec' and '.*xx.vec'"):
        Wechsel(**(files | {"dictionary": str(path)})).rows(torch.eye(CASE.height), CASE.rows())


def test_spaces_of_different_width_are_refused(tmp_path, files):
    narrow = write_vectors(tmp_path / "narrow.vec", ["a"], random_rows(1, 3))
    with pytest.raises(AdaptError, match=r"has vectors of 8 numbers and '.*narrow.vec' of 3"):
        Wechsel(**(files | {"target_vectors": narrow})).rows(torch.eye(CASE.height), CASE.rows())


def test_evidence_is_needed(files):
    with pytest.raises(AdaptError, match="init 'wechsel' looks at text"):
        Wechsel(**files).rows(torch.eye(CASE.height), CASE.rows(evidence=None))
