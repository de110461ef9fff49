"""Every command and every block of the documentation: it is written right, and it runs, here or where a reason says.

A page's commands run in the order in which they are printed, in one working directory that has small models and texts
of the names that the documentation uses. `SLOW` ones and those of `SLOW_PAGES` run in the slow tests, `ELSEWHERE` says
of the others where they do. Commands that a sentence quotes, measurements of hours among them, are checked but not run.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

import adapt
from adapt.cli import app
from adapt.recipe import load_text
from tests.docs.pages import PAGES, ROOT, Step, blocks, spans, steps, text_of
from tests.docs.workshop import PLACES, build, make_adapters

ELSEWHERE = {
    r"make (demo|test|install)\b": ".ci/run does this in a fresh environment",
    r"(torchrun|accelerate launch|srun|sbatch)\b": "tests/launch/test_processes.py starts such processes",
    r"adapt run docs/cluster/recipe.yaml": "tests/launch/test_processes.py runs such recipes with two processes",
    r"adapt compare runs/t runs/u": "tests/commands compares two runs; these two are not the reader's",
    r"adapt plan docs/examples/my-language.yaml": "test_the_plan_is_what_adapt_prints",
    r"python -m pytest ": "these are tests themselves",
    r"load_mixture\(|mixture_in\(": "tests/mixture loads mixtures that it has made; this one is the reader's",
    r"ManyAdapters\(": "tests/mixture/test_many.py does it with adapters that it has made",
}
SLOW = (
    r"adapt run (?!.*--dry-run)",
    r"adapt report recipes/lang.yaml",
    r"adapt (report|chat|compare) (docs|runs)/.*my-language",
    r"adapt plan ",
    r"adapt doctor",
    r"finished = adapt.run\(",
    r"adapt\.load_adapter\(",
)
SLOW_PAGES = ("docs/cookbook.md", "docs/merging.md", "docs/commands.md")
REDUCED = {
    r"^(adapt run my.yaml)$": r"\1 --set stages.grown.add=20 --set stages.cpt.tokens=512 --set stages.cpt.batch_size=2"
    " --set data.target.held_out=20% --set data.general.held_out=20% --set stages.cpt.sequence_length=64"
    " --set stages.scores.suites.questions.max_new_tokens=4",
    r" \.\.\. ": " cpt=... instruct=... base=... ",
    r"runs/uk/cpt/\.\.\./adapter": "adapters/grown",
    r"stages\.cpt\.tokens=100k": "stages.cpt.tokens=512",
    r'write\(plan, "merged"\)': 'write(plan, "merged-in-python")',
}
"""What is another command here than in print, because it would train for hours or names what only the reader knows."""
EXTERNAL = {"hf auth login", "tensorboard"}


COMMANDS = typer.main.get_command(app)


def all_commands() -> list[str]:
    return [step.text for page in PAGES for step in steps(page)]


def matching(patterns, text: str) -> str | None:
    return next((pattern for pattern in patterns if re.search(pattern, text)), None)


def test_no_rule_is_left_over():
    rules = [*ELSEWHERE, *SLOW, *REDUCED]
    assert [rule for rule in rules if not any(re.search(rule, command) for command in all_commands())] == []


# What is printed is written right.


def parsed(words: list[str]) -> None:
    """Parse the words behind `adapt` as it would, without running anything. Raises click.ClickException."""
    command, name = COMMANDS, "adapt"
    context = command.make_context(name, [], resilient_parsing=True)
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, parent=context, info_name=name)
    command.make_context(name, list(words), parent=context.parent)


def options_exist(words: list[str]) -> None:
    """The command that the words begin with exists, and has every option among them."""
    command = COMMANDS
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    known = {"-h", "--help", *(option for parameter in command.params for option in parameter.opts)}
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= known
    assert not (hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0])), words


def program_exists(words: list[str]) -> None:
    """A Python file with its options."""
    path = ROOT / words[0]
    assert path.is_file(), words[0]
    source = path.read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and not re.search(f'"(--)?{word[2:]}"', source)] == []


def written_right(command: str, whole: bool) -> None:
    """`whole` commands are complete; others are quoted in a sentence, where words may be left out."""
    words = shlex.split(re.sub(r" *>.*| \|.*", "", command), comments=True)
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["adapt"]:
        words = words[words.index("-m") + 1 :]
    match words:
        case ["adapt", *rest]:
            parsed(rest) if whole else options_exist(rest)
        case ["make", target]:
            assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE)
        case ["python", "-m", "pytest", path, *_]:
            assert (ROOT / path).exists()
        case ["python", *rest]:
            program_exists(rest)
        case ["pip", "install", what]:
            extra = re.fullmatch(r"adapt\[(\w+)\]", what)
            assert extra, what
            assert re.search(rf"^{extra[1]} = \[", text_of("pyproject.toml"), re.MULTILINE)
        case ["pytest", *_, path]:
            assert (ROOT / path).exists()
        case ["sbatch", *_, path]:
            assert (ROOT / path).exists()
        case _:
            assert matching(EXTERNAL, command), f"what is '{command}'?"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_written_right(page):
    wrong = []
    printed = [(step.text, True) for step in steps(page) if step.language == "sh"]
    for command, whole in [*printed, *((span, False) for span in spans(page))]:
        try:
            written_right(command, whole)
        except (AssertionError, click.ClickException, click.exceptions.Exit) as error:
            wrong.append(f"{command}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles(page):
    for step in steps(page):
        if step.language == "python":
            compile(step.text, page, "exec")


HOST = {
    "name": "host",
    "models": {"base": "org/model", "instruct": "org/model-instruct"},
    "data": {name: {"files": f"{name[:2]}.txt"} for name in ("uk", "english")}
    | {"target": {"files": "uk.txt"}, "general": {"files": "en.txt"}},
    "stages": {
        "cpt": {
            "kind": "train",
            "model": "base",
            "mixture": {"target": 1.0},
            "method": "lora",
            "tokens": "100M",
        },
    },
}
"""A recipe into which the fragments of the pages are put."""


LEARNS_FROM = {"sft": "conversations", "dpo": "preferences", "orpo": "preferences"}


def whole_recipe(block: str) -> dict:
    """A block as a recipe: one already, a stage by its name, or keys of a recipe or of a train stage."""
    given = yaml.safe_load(block)
    if "stages" in given:
        return given
    host = yaml.safe_load(yaml.safe_dump(HOST))
    for key, value in given.items():
        if isinstance(value, dict) and "kind" in value and key not in ("method", "objective", "optimizer", "schedule"):
            host["stages"][key] = value
        elif key in ("launch", "data", "models"):
            host[key] = value
        else:
            host["stages"]["cpt"][key] = value
    objective = given.get("objective")
    kind = objective["kind"] if isinstance(objective, dict) else objective
    if kind in LEARNS_FROM:
        arguments = {"languages": ["en"], "count": 10, "seed": 1}
        host["data"]["rows"] = {"generator": f"adapt.demo:{LEARNS_FROM[kind]}", "arguments": arguments}
        host["stages"]["cpt"]["mixture"] = {"rows": 1.0}
    return host


def is_merge_file(block: str) -> bool:
    return bool({"merge_method", "expression"} & set(yaml.safe_load(block)))


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "yaml" for block in blocks(page))])
def test_every_yaml_block_is_a_recipe_or_a_part_of_one(page, workshop, monkeypatch):
    monkeypatch.chdir(workshop)
    for block in blocks(page):
        if block.language == "yaml" and not is_merge_file(block.text):
            load_text(yaml.safe_dump(whole_recipe(block.text)), f"{page}.yaml")


# What is printed runs.


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("reader"))


def carry_out(step: Step) -> None:
    """Do one step as a reader would. Raises AssertionError with what was printed."""
    text = step.text
    for pattern, small in REDUCED.items():
        text = re.sub(pattern, small, text)
    if step.language == "python":
        with redirect_stdout(io.StringIO()):
            exec(compile(text, "page", "exec"), {"__name__": "page"})
        return
    command, _, target = re.sub(r"\b(\w+)=\.\.\.", lambda name: f"{name[1]}={PLACES[name[1]]}", text).partition(" > ")
    words = shlex.split(command)[1:]
    if "-o" in words and Path(words[words.index("-o") + 1]).is_dir():
        shutil.rmtree(words[words.index("-o") + 1])
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{text}\n{done.output}\n{done.exception!r}"
    if target:
        Path(target).write_text(done.stdout, encoding="utf-8")


def is_slow(page: str, text: str) -> bool:
    return page in SLOW_PAGES or bool(matching(SLOW, text))


def carry_out_page(page: str, slow: bool) -> None:
    for block in blocks(page):
        if block.title and "/" not in block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
    for step in steps(page):
        elsewhere = matching(ELSEWHERE, step.text) or matching(EXTERNAL, step.text)
        if not elsewhere and (slow or not is_slow(page, step.text)):
            carry_out(step)


def to_do(page: str, slow: bool) -> bool:
    """Whether a page has anything that runs at this speed."""
    own = [step.text for step in steps(page) if not matching(ELSEWHERE, step.text)]
    return any(is_slow(page, text) == slow for text in own)


@pytest.mark.parametrize("page", [page for page in PAGES if to_do(page, slow=False)])
def test_the_commands_of_a_page_run(page, workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(workshop, tmp_path / "here", symlinks=True))
    carry_out_page(page, slow=False)


GROWN = """\
name: grown
models: {base: org/model}
data: {text: {files: uk.txt, held_out: 10%}}
stages:
  wide: {kind: expand_vocabulary, model: base, corpus: text, add: 20, init: mean_of_pieces}
  cpt:
    kind: train
    model: wide
    mixture: {text: 1.0}
    method: {kind: lora, r: 4, train_embeddings: new_rows}
    tokens: 512
    sequence_length: 64
    batch_size: 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_do(page, slow=True)])
def test_the_long_commands_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(build(tmp_path))
    make_adapters(tmp_path)
    Path("grown.yaml").write_text(GROWN)
    if "load_adapter" in text_of(page):
        stages = adapt.run("grown.yaml").outcome.stages
        shutil.copytree(stages["cpt"].folder / "adapter", "adapters/grown")
    carry_out_page(page, slow=True)
