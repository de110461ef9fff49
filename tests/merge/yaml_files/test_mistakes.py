"""Mistakes in merge files: one line each, with the file's line, what was read, and the nearest right word."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.yaml_files import prepare_yaml
from merge.yaml_files.document import MOST_VALUES, read_yaml
from tests.merge.yaml_files.harness import filled, relatives

TIES = """\
merge_method: ties
base_model: "@base"
models:
  - model: "@a"
    parameters: {weight: 1, density: 0.5}
  - model: "@b"
    parameters:
      weight: 0.5
parameters:
  normalize: true
dtype: float32
"""
FRANKEN = """\
merge_method: passthrough
slices:
  - sources:
      - model: "@base"
        layer_range: [0, 2]
  - sources:
      - model: "@a"
        layer_range: [1, 2]
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return relatives(tmp_path_factory.mktemp("models"), torch.float32, layers=2)


def mistake(text, folders, tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text(filled(text, folders))
    with pytest.raises(MergeError) as error:
        prepare_yaml(file)
    message = str(error.value)
    assert "\n" not in message
    start = f"{file}, line "
    assert message.startswith(start), message
    line, _, rest = message.removeprefix(start).partition(": ")
    for name, folder in folders.items():
        rest = rest.replace(str(folder), f"@{name}")
    return int(line), rest


def changed(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("ties\n", "tiess\n", 1, "there is no merge_method 'tiess'; did you mean 'ties'?"),
        ("density: 0.5", "densty: 0.5", 5, "ties has no parameter 'densty'; did you mean 'density'?"),
        ("density: 0.5", "density: 1.7", 5, "density is 1.7; it lies from 0 to 1"),
        ("density: 0.5", "density: -1", 5, "density is -1; it lies from 0 to 1"),
        ("density: 0.5", "density: .nan", 5, "density is nan; it is a finite number"),
        ("density: 0.5", "density: half", 5, "density is 'half'; it is a number"),
        ("density: 0.5", "density: []", 5, "density is an empty list"),
        ("density: 0.5", "density: [0.1, {value: 1}]", 5, "density mixes values with filters; it is a list of either"),
        ("density: 0.5", "density: [{filter: mlp}]", 5, "a case of density lacks 'value'"),
        ("density: 0.5", "density: [{filtr: mlp, value: 1}]", 5, "a case of density has no 'filtr'; did you mean 'fi"),
        ("density: 0.5", "density: [{filter: mpl, value: 1}]", 5, "the filter 'mpl' finds no tensor; did you mean "),
        ("density: 0.5", "normalize: false", 5, "normalize is one for the whole merge; write it under the parameters"),
        ("      weight: 0.5\n", "      density: 0.5\n", 6, "ties of '@b' needs weight for 'model.embed_tokens.weight'"),
        ("normalize: true", "normalize: maybe", 10, "normalize is 'maybe'; it is true or false"),
        ("normalize: true", "normalise: true", 10, "ties has no parameter 'normalise'; did you mean 'normalize'?"),
        ("dtype: float32", "normalize: false", 11, "the file has no 'normalize'; there are merge_method, models"),
        ("dtype: float32", "dtyp: float32", 11, "the file has no 'dtyp'; did you mean 'dtype'?"),
        ("dtype: float32", "dtype: float33", 11, "dtype: 'float33' is no type of weights; use float64, float32"),
        ("dtype: float32", "merge_method: ties", 11, "'merge_method' stands twice, first in line 1"),
        ("dtype: float32", "modules: {}", 1, "the file describes modules (models of several parts), which are not read "
         "here; mergekit itself does: --engine mergekit"),
        ("dtype: float32", "dtype: !!python/name:os.system x", 11, "the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("dtype: float32", "dtype: [float32", 12, "this is no YAML: expected ',' or ']'"),
        ("dtype: float32", "slices: []", 1, "the file has one of 'models' and 'slices'"),
        ('base_model: "@base"', "dtype: float16", 11, "'dtype' stands twice, first in line 2"),
        ('base_model: "@base"\n', "\n", 4, "ties needs a base_model"),
        ('"@b"', '"@a"', 4, "'@a' stands twice in one slice"),
        ('"@b"', "no/such/place", 6, "'no/such/place' is no folder"),
        ('"@b"', "{model: {path: x}}", 6, "model is a mapping; write it as text: folder, hub/id@revision or fold"),
        ('"@b"', "x+y+z", 6, "model is 'x+y+z'; it has the form model or model+adapter"),
        ("models:", "model:", 3, "the file has no 'model'; did you mean 'models'?"),
        ("dtype: float32", "chat_template: chatmll", 11, "chat_template is 'chatmll'; it is auto, the text of a templ"),
        ("dtype: float32", "tokenizer_source: bas", 11, "'bas' is no folder"),
        ("dtype: float32", "tokenizer: {sorce: base}", 11, "tokenizer has no 'sorce'; did you mean 'source'?"),
        ("dtype: float32", "tokenizer: {pad_to_multiple_of: 0}", 11, "pad_to_multiple_of is 0; it is a whole number"),
        ("dtype: float32", "tokenizer: {source: base, tokens: {new: {}}}", 11, "'new' needs a source"),
        ("dtype: float32", "tokenizer: {source: base, tokens: {new: {source: {kind: zeros}}}}", 11, "kind is 'zeros'"),
        ("dtype: float32", "tokenizer: {tokens: {new: {source: {kind: model_token, model: '@a', token_id: 384}}}}", 11,
         "'new' is to be row 384 of '@a', which has 384 rows"),
        ("dtype: float32", "tokenizer: {tokens: {new: {source: {kind: model_token, model: '@a', token: x y}}}}", 11,
         "'@a' has no token 'x y'"),
        ("dtype: float32", "tokenizer: {tokens: {new: {source: '@c'}}}", 11, "'new' is to come from '@c', which is no"),
    ],
)  # fmt: skip
def test_models(folders, tmp_path, old, new, line, message):
    found = mistake(changed(TIES, (old, new)), folders, tmp_path)
    assert found[0] == line
    assert found[1].startswith(message), found[1]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[1, 2]", "[1, 3]", 7, "layer_range is [1, 3], but '@a' has 2 layers"),
        ("[1, 2]", "[1, 1]", 8, "layer_range is [1, 1], which holds no layer; its end is not part of it"),
        ("[1, 2]", "[1]", 8, "layer_range is not of the form [first, last + 1], for example [0, 16]"),
        ("[1, 2]", "1-2", 8, "layer_range is '1-2'; it is a list"),
        ("        layer_range: [1, 2]\n", "", 7, "a source lacks 'layer_range'"),
        ("        layer_range: [1, 2]", '        layer_range: [1, 2]\n      - {model: "@b", layer_range: [0, 2]}', 6,
         "the sources of a slice have equally many layers; these have 1 and 2"),
        ("        layer_range: [1, 2]", '        layer_range: [1, 2]\n      - {model: "@b", layer_range: [0, 1]}', 6,
         "passthrough takes 1 models; these are 2"),
        ("        layer_range: [1, 2]", "        layer_range: [1, 2]\n    residual_weight: 0.5", 9,
         "residual_weight has no effect in mergekit either; remove it"),
        ("        layer_range: [1, 2]", '        layer_range: [1, 2]\n      - {model: "@a+x", layer_range: [0, 1]}', 7,
         "'@a' stands twice in one slice"),
        ("passthrough", "slerp", 3, "slerp needs a base_model"),
    ],
)  # fmt: skip
def test_slices(folders, tmp_path, old, new, line, message):
    found = mistake(changed(FRANKEN, (old, new)), folders, tmp_path)
    assert found == (line, message)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "base_model: x\nexperts: []\n",
            1,
            "the file describes a mixture of experts, which is not built here; mergekit",
        ),
        (
            "genome: {}\ntasks: []\n",
            1,
            "the file describes a search over merges by mergekit-evolve; mergekit itself doe",
        ),
        ("a: 1\n---\nb: 2\n", 1, "the file holds 2 documents, one is read; mergekit itself does: --engine mergekit"),
        ("", 1, "the file holds 0 documents"),
        ("- 1\n", 1, "the file is a list; it is a mapping"),
        ("merge_method: linear\n", 1, "the file has one of 'models' and 'slices'"),
        ("merge_method: linear\nmodels: {}\n", 2, "models is a mapping; it is a list"),
        ("a: &x [*x]\n", 1, "this value contains itself"),
        ("a: 1\n\tb: 2\n", 2, "this is no YAML"),
        ("[" * 1200, 1, "this is nested too deeply for a merge"),
    ],
)
def test_files(folders, tmp_path, text, line, message):
    found = mistake(text, folders, tmp_path)
    assert found[0] == line
    assert found[1].startswith(message), found[1]


def test_aliases_may_be_used_but_not_multiplied(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text("a: &x {weight: 1}\nb: [*x, *x]\nc: {<<: *x, density: 2}\n")
    found = read_yaml(file)[0].mapping("the file")
    assert [item.value["weight"].value for item in found["b"].items("b")] == [1, 1]
    assert {name: entry.value for name, entry in found["c"].mapping("c").items()} == {"weight": 1, "density": 2}
    bomb = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    file.write_text("\n".join(bomb))
    with pytest.raises(MergeError, match=f"more than {MOST_VALUES:,} values"):
        read_yaml(file)


def test_what_mergekit_takes_without_using_it_is_said(folders, tmp_path):
    file = tmp_path / "m.yaml"
    text = changed(TIES, ("ties\n", "task_arithmetic\n"), ("normalize: true", "int8_mask: true\n  density: 0.5"))
    text = text.replace("models:\n", 'models:\n  - model: "@base"\n    parameters: {weight: 2}\n')
    file.write_text(filled(text, folders))
    warnings = prepare_yaml(file).warnings
    assert any("line 5: weight of the base has no effect in task_arithmetic" in text for text in warnings)
    assert any("task_arithmetic has no density; mergekit takes it" in text for text in warnings)
    assert not any("int8_mask" in text for text in warnings)


def test_a_filter_that_finds_nothing_and_looks_like_nothing_is_a_warning(folders, tmp_path):
    file = tmp_path / "m.yaml"
    cases = "density: [{filter: block_sparse_moe, value: 0.1}, {value: 0.5}]"
    file.write_text(filled(changed(TIES, ("density: 0.5", cases)), folders))
    assert "line 5: the filter 'block_sparse_moe' finds no tensor" in prepare_yaml(file).warnings


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MergeError, match=r"cannot read '.*none.yaml': No such file"):
        prepare_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(MergeError, match="cannot read"):
        prepare_yaml(tmp_path / "latin.yaml")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(TIES.splitlines()), max_size=12).map("\n".join))
def test_any_text_is_an_error_of_one_line(text):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.yaml"
        file.write_text(text, encoding="utf-8", errors="replace")
        with pytest.raises(MergeError) as error:
            prepare_yaml(file)
        assert "\n" not in str(error.value)
