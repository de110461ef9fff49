"""Tasks of the lm-evaluation-harness: one's own, offline, against the harness itself; and what goes wrong."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from adapt.errors import AdaptError
from adapt.evaluation.harness import TaskScore, compare_tasks, run_tasks
from adapt.evaluation.suites import Candidate, HarnessSuite
from adapt.evaluation.suites import harness as settings

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra 'harness'")
TASK = """\
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}} Answer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.0}
"""
ROWS = [
    {"question": f"how do you write {number} in words?", "choices": [word, "forty-five"], "label": 0}
    for number, word in ((12, "twelve"), (5, "five"), (7, "seven"), (9, "nine"))
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "words.yaml").write_text(TASK)
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def candidate(folder: Path) -> Candidate:
    from adapt.checkpoints import ModelLocation, load_model, load_tokenizer

    location = ModelLocation(str(folder))
    return Candidate("tiny", load_model(location).eval(), load_tokenizer(location))


def suite(folder: Path, **changes) -> HarnessSuite:
    return HarnessSuite(**({"kind": "harness", "tasks": ["words"], "task_folder": str(folder)} | changes))


@needs_harness
def test_a_task_of_ones_own_runs_offline_and_gives_the_mean_of_its_documents(tasks, tiny_model_folder, monkeypatch):
    monkeypatch.chdir("/")  # the data file lies beside the task, not in the working directory
    scores = run_tasks(suite(tasks), candidate(tiny_model_folder), seed=1)
    assert [(score.task, score.metric, score.n, score.better) for score in scores] == [
        ("words", "acc", 4, "higher"),
        ("words", "acc_norm", 4, "higher"),
    ]
    assert Path.cwd() == Path("/")
    for score in scores:
        assert score.value == pytest.approx(sum(score.items) / 4)
        share = score.value
        assert score.stderr == pytest.approx((share * (1 - share) / 3) ** 0.5)
    assert scores == run_tasks(suite(tasks), candidate(tiny_model_folder), seed=1)
    assert run_tasks(suite(tasks, limit=2), candidate(tiny_model_folder), seed=1)[0].n == 2


@needs_harness
def test_the_answer_is_the_choice_with_the_highest_likelihood(tasks, tiny_model_folder):
    import torch

    own = candidate(tiny_model_folder)
    right = []
    for row in ROWS:
        prompt = own.tokenizer(f"Question: {row['question']} Answer:")["input_ids"]
        sums = []
        for choice in row["choices"]:
            ids = own.tokenizer(f"Question: {row['question']} Answer: {choice}")["input_ids"]
            with torch.inference_mode():
                logs = own.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            sums.append(sum(float(logs[place - 1, ids[place]]) for place in range(len(prompt), len(ids))))
        right.append(float(sums[0] > sums[1]))
    assert run_tasks(suite(tasks), own, seed=1)[0].items == right


@needs_harness
@pytest.mark.slow  # reads the index of all published tasks
def test_an_unknown_task(tasks, tiny_model_folder):
    with pytest.raises(AdaptError) as found:
        run_tasks(suite(tasks, tasks=["wordz"]), candidate(tiny_model_folder), seed=1)
    expected = f"there is no task 'wordz' in the lm-evaluation-harness and in '{tasks}'; did you mean 'words'?"
    assert str(found.value) == expected


@needs_harness
def test_data_that_is_not_there_is_one_line(tmp_path, tiny_model_folder):
    (tmp_path / "words.yaml").write_text(TASK)
    with pytest.raises(AdaptError) as found:
        run_tasks(suite(tmp_path), candidate(tiny_model_folder), seed=1)
    assert str(found.value).startswith("the lm-evaluation-harness cannot run words: ")
    assert "\n" not in str(found.value)


def test_without_the_package_it_is_said_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    own = suite(tmp_path / "nothing")
    assert list(own.complaints()) == [
        ("kind", "the package 'lm-eval' is not installed; pip install 'adapt[harness]'"),
        ("task_folder", f"there is no folder '{tmp_path / 'nothing'}'"),
    ]


def test_the_folders_content_belongs_to_the_key(tasks):
    assert sorted(path.name for path in suite(tasks).files()) == ["words.jsonl", "words.yaml"]
    assert suite(Path("tasks"), task_folder=tasks.name).relative_to(tasks.parent).task_folder == str(tasks)


def test_two_models_are_compared_document_by_document():
    def score(values: list[float]) -> TaskScore:
        return TaskScore("words", "acc", "none", sum(values) / len(values), 0.1, len(values), "higher", 0, "1", values)

    (row,) = compare_tasks([score([1, 1, 1, 0])], [score([1, 0, 1, 0])], seed=3)
    assert row["difference"] == 0.25
    assert row["low"] <= 0.25 <= row["high"]
    assert compare_tasks([score([1])], [], seed=3) == []
