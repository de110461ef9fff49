"""What can go wrong around a run: one line, the right exit code, nothing lost; without the cause the run goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.workshop import adapt, finished, outcomes, write_texts


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Another value in the last byte; size and header stay."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def pickled(path: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(3)}, path)


def sharded(folder: Path, shard: str) -> None:
    """The only file becomes a shard with this name in the index; a shard of the real name lies there as well."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        names = list(file.keys())
    os.rename(folder / "model.safetensors", folder / "real.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def restored(folder: Path, straight: Path, *names: str) -> None:
    for name in names or ("base", "instruct"):
        shutil.rmtree(folder / name)
        shutil.copytree(straight / name, folder / name)


def texts_back(folder: Path, straight: Path) -> None:
    shutil.rmtree(folder / "target.txt", ignore_errors=True)
    write_texts(folder)


@dataclass(frozen=True)
class Fault:
    """Something that is broken before `stage` is made, the line that says so, and how it is put right."""

    stage: str
    break_it: Callable[[Path], object]
    line: str
    mend: Callable[[Path, Path], object] = restored
    then: tuple[str, ...] = ()
    code: int = 1


BASE, GROWN, TARGET = "base/model.safetensors", "model/model.safetensors", "target.txt"
FAULTS = {
    "a model cut in half": Fault(
        "grown",
        lambda here: cut(here / BASE),
        "model 'base': 'base/model.safetensors' has ",
    ),
    "a model of no bytes": Fault(
        "grown",
        lambda here: (here / BASE).write_bytes(b""),
        "model 'base': 'base/model.safetensors' is not a whole safetensors file (0 bytes); fetch the model again",
    ),
    "a pickle under the name of a safetensors file": Fault(
        "grown",
        lambda here: pickled(here / BASE),
        "model 'base': 'base/model.safetensors' is not a whole safetensors file (",
    ),
    "pickled weights only": Fault(
        "grown",
        lambda here: (os.remove(here / BASE), pickled(here / "base" / "pytorch_model.bin")),
        "model 'base': 'base' holds only pickled weights (pytorch_model.bin), which are not read; convert them",
    ),
    "an index with a shard above its folder": Fault(
        "grown",
        lambda here: sharded(here / "base", "../instruct/model.safetensors"),
        "model 'base': 'base/model.safetensors.index.json' names the shard '../instruct/model.safetensors', which "
        "lies outside of its folder; refused",
    ),
    "an index with a shard anywhere": Fault(
        "grown",
        lambda here: sharded(here / "base", "/etc/passwd"),
        "model 'base': 'base/model.safetensors.index.json' names the shard '/etc/passwd', which lies outside of its "
        "folder; refused",
    ),
    "an index that names its own folder": Fault(
        "grown",
        lambda here: sharded(here / "base", ".."),
        "model 'base': 'base/model.safetensors.index.json' names the shard '..', which lies outside of its folder",
    ),
    "a shard that is a link to nothing": Fault(
        "grown",
        lambda here: (sharded(here / "base", "gone.safetensors"), (here / "base" / "gone.safetensors").symlink_to("x")),
        "model 'base': 'base' lacks the shard 'gone.safetensors' that its index names; fetch the model again",
    ),
    "a configuration that is no JSON": Fault(
        "grown",
        lambda here: (here / "base" / "config.json").write_text("{"),
        "stage 'grown': cannot load the ",
    ),
    "no tokenizer": Fault(
        "grown",
        lambda here: [os.remove(path) for path in (here / "base").glob("tokenizer*")],
        "stage 'grown': cannot load the tokenizer of 'base': ",
    ),
    "a tokenizer that is no JSON": Fault(
        "grown",
        lambda here: (here / "base" / "tokenizer.json").write_text("{"),
        "stage 'grown': cannot load the tokenizer of 'base': ",
    ),
    "a corpus without a document": Fault(
        "grown",
        lambda here: (here / TARGET).write_text(""),
        "recipe.yaml:16:3: stages.cpt.objective: source 'target': files 'target.txt' holds no documents: it is empty",
        texts_back,
        code=2,
    ),
    "a corpus of blank lines": Fault(
        "grown",
        lambda here: (here / TARGET).write_text(" \n\n\t\n"),
        "recipe.yaml:16:3: stages.cpt.objective: source 'target': files 'target.txt' holds no documents: it is empty",
        texts_back,
        code=2,
    ),
    "a corpus in another encoding": Fault(
        "grown",
        lambda here: (here / TARGET).write_bytes("мова\n".encode("cp1251")),
        "recipe.yaml:16:3: stages.cpt.objective: source 'target': target.txt:1: not UTF-8 (byte 0xec at position 1); "
        "convert the file to UTF-8",
        texts_back,
        code=2,
    ),
    "a folder in the corpus's place": Fault(
        "grown",
        lambda here: (os.remove(here / TARGET), (here / TARGET).mkdir()),
        "recipe.yaml:7:11: data.target: files 'target.txt' match nothing; looked in '",
        texts_back,
        code=2,
    ),
    "a finished model cut in half": Fault(
        "cpt",
        lambda here: cut(finished(here, "grown") / GROWN),
        "'runs/small/grown/{grown}/model/model.safetensors' has ",
        lambda here, straight: None,
        ("--force", "grown"),
    ),
    "flipped bits in a finished model": Fault(
        "cpt",
        lambda here: flip(finished(here, "grown") / GROWN),
        "stage 'cpt': 'runs/small/grown/{grown}/model/model.safetensors' is not as it was written: its SHA-256 "
        "differs; make the stage again with --force grown",
        lambda here, straight: None,
        ("--force", "grown"),
    ),
    "a manifest that is no JSON": Fault(
        "cpt",
        lambda here: (finished(here, "grown") / "manifest.json").write_text("{"),
        "cannot read 'runs/small/grown/{grown}/manifest.json': ",
        lambda here, straight: None,
        ("--force", "grown"),
    ),
    "a rank without bounds": Fault(
        "cpt",
        lambda here: change(here / "recipe.yaml", "r: 4", "r: 1000000000000"),
        "stage 'cpt': out of memory: ",
        lambda here, straight: change(here / "recipe.yaml", "r: 1000000000000", "r: 4"),
    ),
    "tokens without end": Fault(
        "cpt",
        lambda here: change(here / "recipe.yaml", "tokens: 1000", "tokens: 1e15"),
        "stage 'cpt': 1,000,000,000,000,000 tokens are ",
        lambda here, straight: change(here / "recipe.yaml", "tokens: 1e15", "tokens: 1000"),
        code=2,
    ),
}
QUICK = ("a model cut in half", "an index with a shard above its folder", "flipped bits in a finished model")


def one_line(ended, code: int, line: str) -> None:
    assert len(ended.lines) == 1, ended.err
    assert ended.lines[0].startswith(line), ended.lines[0]
    assert ended.code == code


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_a_fault_is_one_line_and_without_it_the_run_goes_on(name, shop, straight):
    fault = FAULTS[name]
    here = shop(before=fault.stage)
    earlier = outcomes(here)
    fault.break_it(here)
    grown = finished(here, "grown").name if earlier else ""
    ended = adapt(here, "run", "recipe.yaml", "--until", fault.stage)
    one_line(ended, fault.code, fault.line.format(grown=grown))
    fault.mend(here, straight)
    if name not in QUICK:
        again = adapt(here, "run", "recipe.yaml", "--until", fault.stage, *fault.then)
        assert (again.code, again.err) == (0, "")
        assert outcomes(here).items() <= outcomes(straight).items()
        assert outcomes(here).keys() >= {fault.stage}
