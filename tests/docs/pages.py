"""The pages of the documentation, taken apart: fenced blocks, the commands in them, commands in code spans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md"))
)
PROGRAMS = ("adapt", "make", "python", "pytest", "pip", "torchrun", "accelerate", "sbatch", "srun", "hf", "tensorboard")
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(rf"^ {{4}}(?:\$ )?((?:{'|'.join(PROGRAMS)}) .+)$", re.MULTILINE)
_SPAN = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title (the file that it is), its text."""

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Step:
    """Something that a reader would do: a line of shell, or a block of Python."""

    language: str
    text: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(text_of(page))]


def steps(page: str) -> list[Step]:
    """The commands and Python blocks of a page, in order."""
    text = text_of(page)
    found = [(match.start(), step) for match in _FENCE.finditer(text) for step in _steps_of(Block(*match.groups("")))]
    outside = _FENCE.sub(lambda match: "\n" * len(match[0]), text)
    found += [(match.start(), Step("sh", match[1])) for match in _INDENTED.finditer(outside)]
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]


def _steps_of(block: Block) -> Iterator[Step]:
    if block.language == "python":
        yield Step("python", block.text)
    if block.language in ("sh", "bash", "shell"):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*|^#.*", "", line).strip()
            if command:
                yield Step("sh", command)


def spans(page: str) -> list[str]:
    """Commands within sentences; words in capitals and brackets may stand for something."""
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text_of(page)))]
