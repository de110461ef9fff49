"""Keys of a mode that do not go together, and what only a run shows."""

from __future__ import annotations

import pytest

from adapt.errors import AdaptError
from adapt.stages.expand_vocabulary import ExpandVocabulary


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({}, (), "lacks the key 'add' (how many pieces to add, or auto)"),
        ({"mode": "replace"}, (), "lacks the key 'size' (how many tokens the new vocabulary has"),
        ({"mode": "tokens", "tokens": ["a"], "add": 3}, ("add",), "'add' belongs to mode: expand, and this stage"),
        ({"add": 3, "special": True}, ("special",), "'special' belongs to mode: tokens, and this stage has"),
        ({"add": 3, "saving": "5%"}, ("saving",), "'saving' decides on the size with add: auto"),
        ({"mode": "replace", "size": 500, "general_share": 0.1}, ("general_share",), "'general_share' is a share of"),
        ({"mode": "tokens", "tokens": ["a"], "min_frequency": 5}, ("min_frequency",), "'min_frequency' belongs to"),
    ],
)
def test_keys_that_do_not_fit_the_mode(settings, place, message):
    stage = ExpandVocabulary(**({"kind": "expand_vocabulary", "model": "m", "corpus": "a"} | settings))
    (complaint,) = stage.complaints({})
    assert complaint.path == place
    assert complaint.message.startswith(message)


def test_mistakes_that_only_a_run_shows(grow, tiny_model_folder):
    with pytest.raises(AdaptError, match=r"a vocabulary of 200 cannot replace .*: 256 bytes and 6 special tokens"):
        grow(tiny_model_folder, mode="replace", size=200)
    with pytest.raises(AdaptError, match=r"'сорок п.ять' cannot become one piece: .* and this into 'сорок' and ' п'"):
        grow(tiny_model_folder, mode="tokens", tokens=["сорок п'ять"])
    with pytest.raises(AdaptError, match=r"none of the 1 tokens can be added to .*; ' the': a piece already"):
        grow(tiny_model_folder, mode="tokens", tokens=[" the"])
    with pytest.raises(AdaptError, match="expand_vocabulary: 'size' belongs to mode: replace"):
        grow(tiny_model_folder, add=5, size=400)


def test_settings_that_name_sources_and_numbers():
    settings = {"kind": "expand_vocabulary", "model": "m", "corpus": "a"}
    stage = ExpandVocabulary(**settings, mode="tokens", tokens="terms", prune="20%")
    assert stage.prune == 0.2
    assert [(reference.path, reference.name) for reference in stage.reads().sources][1:] == [(("tokens",), "terms")]
    assert ExpandVocabulary(**settings, add="auto", prune="2k").prune == 2000
    assert ExpandVocabulary(**settings, mode="tokens", tokens=["terms"]).reads().sources[1:] == ()
    for wrong in ({"prune": 0}, {"prune": "all"}, {"tokens": []}, {"tokens": [""]}, {"mode": "shrink"}):
        with pytest.raises(ValueError, match="ExpandVocabulary"):
            ExpandVocabulary(**settings, **wrong)
