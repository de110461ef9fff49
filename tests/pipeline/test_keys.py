"""What moves a key and what does not."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toys import Count, Score, make_graph, three_stages

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.pipeline.hashes import HashCache, sha256_of
from adapt.pipeline.keys import Fingerprints, Keys, differences
from adapt.pipeline.models import check_shards, hub_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def keys_of(graph, commits=None):
    hashes = HashCache(graph.cache / "hashes.json")
    keys = Keys(graph, Fingerprints(graph, hashes, {} if commits is None else commits, ask_hub=False))
    return {name: keys.of(name).key for name in graph.order()}


def moved(before, after):
    return {name for name in before if before[name] != after[name]}


def test_a_changed_stage_moves_its_own_key_and_those_after_it(base):
    before = keys_of(make_graph(base, three_stages()))
    assert moved(before, keys_of(make_graph(base, three_stages()))) == set()
    assert moved(before, keys_of(make_graph(base, three_stages(steps=5)))) == {"stepped", "scores"}
    assert moved(before, keys_of(make_graph(base, three_stages(scale=2)))) == {"counted", "stepped", "scores"}
    assert moved(before, keys_of(make_graph(base, three_stages(), seed=18))) == {"counted", "stepped", "scores"}


def test_settings_that_change_nothing_do_not_move_it(base):
    before = keys_of(make_graph(base, three_stages()))
    assert moved(before, keys_of(make_graph(base, three_stages(pause=1.0, note="for the paper")))) == set()


def test_the_content_of_a_source_moves_it(base):
    before = keys_of(make_graph(base, three_stages()))
    (base / "corpus.txt").write_text("four five six")
    assert moved(before, keys_of(make_graph(base, three_stages()))) == set(before)


def test_where_a_source_lies_does_not_matter(base, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(base / "corpus.txt", other)
    assert keys_of(make_graph(other, three_stages())) == keys_of(make_graph(base, three_stages()))


def test_a_source_that_is_not_there_is_one_line(base):
    (base / "corpus.txt").unlink()
    with pytest.raises(AdaptError, match=r"^source 'corpus' cannot be read: No such file or directory: .*corpus.txt$"):
        keys_of(make_graph(base, three_stages()))


def test_where_a_model_lies_does_not_matter_but_its_bytes_do(base, tiny_model_folder):
    def key(folder):
        return keys_of(make_graph(base, {"s": Score(models=("m",))}, models={"m": ModelLocation(str(folder))}))

    before = key(tiny_model_folder)
    copy = base / "copy"
    shutil.copytree(tiny_model_folder, copy)
    (copy / "README.md").write_text("notes")
    assert key(copy) == before
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert key(copy) != before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: os.truncate(path, 1000), "has 1,000 bytes|not a whole safetensors file"),
        (lambda path: os.truncate(path, 4), "not a whole safetensors file"),
        (lambda path: os.truncate(path, path.stat().st_size - 10), "header promises"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "not a whole safetensors file"),
        (lambda path: (path.parent / "config.json").unlink(), "has no config.json"),
        (
            lambda path: (path.parent / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../x"}}'),
            "lies outside of its folder",
        ),
        (
            lambda path: (path.parent / "model.safetensors.index.json").write_text('{"weight_map": {"w": "x"}}'),
            "lacks the shard 'x'",
        ),
        (lambda path: (path.parent / "model.safetensors.index.json").write_text("[]"), "no index of shards"),
    ],
)
def test_a_broken_checkpoint_is_one_line_before_anything_runs(base, tiny_model_folder, spoil, message):
    copy = base / "copy"
    shutil.copytree(tiny_model_folder, copy)
    check_shards(copy)
    spoil(copy / "model.safetensors")
    graph = make_graph(base, {"s": Score(models=("m",))}, models={"m": ModelLocation(str(copy))})
    with pytest.raises(AdaptError, match=f"^model 'm': .*({message})"):
        keys_of(graph)


def test_hub_models_are_pinned_to_a_commit_that_stays(base):
    graph = make_graph(base, {"s": Score(models=("m",))}, models={"m": ModelLocation("org/name")})
    commits = {"org/name@main": COMMIT}
    keys_of(graph, commits)
    assert Fingerprints(graph, HashCache(base / "h"), commits).location("m").revision == COMMIT
    with pytest.raises(AdaptError, match="'org/name@main' is neither a folder nor in the local hub cache"):
        keys_of(graph)
    assert hub_commit(ModelLocation("org/name", revision=COMMIT), {}) == COMMIT
    with pytest.raises(AdaptError, match="there is no model folder '/no/such/folder'"):
        hub_commit(ModelLocation("/no/such/folder"), {})
    with pytest.raises(AdaptError, match="hub does not give it"):
        hub_commit(ModelLocation("org/name"), {})


def test_the_hash_of_a_file_is_remembered_only_while_nothing_about_it_changed(tmp_path):
    path, store = tmp_path / "shard", tmp_path / "hashes.json"
    path.write_bytes(b"a" * 100)
    os.utime(path, (1, 1))
    cache = HashCache(store)
    first = cache.sha256(path)
    cache.save()
    assert not store.exists(), "a file that was just written is not trusted to its clock"
    path.write_bytes(b"b" * 100)
    os.utime(path, (1, 1))
    assert cache.sha256(path) == sha256_of(path) != first


def test_remembered_hashes_survive_and_a_spoilt_store_is_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.pipeline.hashes._SETTLED", -1.0)
    path, store = tmp_path / "shard", tmp_path / "hashes.json"
    path.write_bytes(b"a" * 100)
    cache = HashCache(store)
    value = cache.sha256(path)
    cache.save()
    assert HashCache(store)._known[str(path)][-1] == HashCache(store).sha256(path) == value
    store.write_text("{not json")
    assert HashCache(store).sha256(path) == value


def test_differences_are_told_in_words(base):
    old = make_graph(base, three_stages())
    new = replace(old, seed=18, stages=three_stages(steps=5, scale=2))

    def material(graph, name):
        return Keys(graph, Fingerprints(graph, HashCache(base / "h"), {})).of(name).material

    assert differences(material(old, "stepped"), material(new, "stepped")) == [
        "seed 17 → 18",
        "steps 4 → 5",
        "stage 'counted' changed",
    ]
    assert differences(material(old, "counted"), material(old, "counted")) == []


class Lists(Count):
    """A stage whose own settings name a file."""

    words: str

    def files(self):
        return iter((Path(self.words),))


def test_the_content_of_a_file_that_the_settings_name_moves_it(base):
    words = base / "words.txt"
    graph = make_graph(base, {"lists": Lists(words=str(words))})
    with pytest.raises(AdaptError, match=r"^file '.*words.txt' cannot be read: No such file or directory"):
        keys_of(graph)
    words.write_text("one")
    before = material_of(graph)
    assert keys_of(graph) == keys_of(graph)
    words.write_text("two")
    assert differences(before, material_of(graph)) == [f"file '{words}' changed"]


def material_of(graph):
    return (
        Keys(graph, Fingerprints(graph, HashCache(graph.cache / "hashes.json"), {}, ask_hub=False)).of("lists").material
    )
