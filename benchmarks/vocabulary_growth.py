"""Seconds and memory to grow a published tokenizer by many pieces, and what they save.

`python benchmarks/vocabulary_growth.py text.txt ...`: a tekken of 131,072 pieces (from the package mistral-common) and
16,000 new pieces from 50 MB of the files' text. The files are read again and again until there are so many bytes, each
time with the letters of the alphabet exchanged in another way, so that repeated text does not repeat its words.
Without files the text is made of words drawn by Zipf's law. `--no-spaces` takes the spaces out of the text: each line
then is one word.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapt.vocabulary.expansion import Growth, expand, tokenizer_report

HELD_OUT = 1_000_000
"""Bytes of text that are measured, not learned from."""


def tekken() -> dict[str, Any]:
    """The `tokenizer.json` of a published tekken, its special tokens under names of their own."""
    import mistral_common
    from transformers.integrations.mistral.tokenizer import MistralConverter

    raw = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text(encoding="utf-8"))
    count = raw["config"]["default_num_special_tokens"]
    raw["special_tokens"] = [{"rank": rank, "token_str": f"<SPECIAL_{rank}>"} for rank in range(count)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tekken.json"
        path.write_text(json.dumps(raw), encoding="utf-8")
        return json.loads(MistralConverter(str(path)).converted().to_str())


def generated(size: int, seed: int = 0) -> Iterator[str]:
    """Lines of words made of syllables, their frequencies by Zipf's law, until `size` bytes."""
    draw = random.Random(seed)
    syllables = [
        first + vowel + last for first in "бвгджзклмнпрстхцчшщ" for vowel in "аеиоуіїє" for last in ("", "н", "с")
    ]
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3, 3, 4)))) for _ in range(200_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    while size > 0:
        line = " ".join(draw.choices(words, weights, k=200))
        size -= len(line.encode("utf-8"))
        yield line


def repeated(paths: list[Path], size: int, seed: int = 0) -> Iterator[str]:
    """The files' lines until `size` bytes; from the second time on with the letters exchanged."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    letters = sorted({letter for line in lines for letter in line if letter.isalpha()})
    draw, exchange = random.Random(seed), {}
    while True:
        for line in lines:
            if size <= 0:
                return
            line = line.translate(exchange)
            size -= len(line.encode("utf-8"))
            yield line
        exchange = _exchange(letters, draw)


def _exchange(letters: list[str], draw: random.Random) -> dict[int, str]:
    """Each letter for another that takes as many bytes."""
    groups: dict[int, list[str]] = {}
    for letter in letters:
        groups.setdefault(len(letter.encode("utf-8")), []).append(letter)
    pairs = (zip(group, draw.sample(group, len(group)), strict=True) for group in groups.values())
    return {ord(old): new for old, new in itertools.chain.from_iterable(pairs)}


def main() -> None:
    """Grow once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--add", type=int, default=16_000)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--no-spaces", action="store_true")
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    texts = repeated(options.files, size + HELD_OUT) if options.files else generated(size + HELD_OUT)
    texts = [text.replace(" ", "") if options.no_spaces else text for text in texts]
    random.Random(1).shuffle(texts)
    cut = max(1, len(texts) * HELD_OUT // (size + HELD_OUT))
    document = tekken()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    grown = expand(document, Growth(options.add), texts[cut:], texts[:cut])
    seconds = time.perf_counter() - start
    report = tokenizer_report(grown, texts[:cut])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{len(grown.base.get_vocab()):,} pieces, {len(grown.pieces):,} more from {size / 1e6:g} MB: {seconds:.0f} s")
    print(f"peak memory {peak / 1e6:.2f} GB, of which {before / 1e6:.2f} GB before it began")
    first, last = report["before"]["bytes_per_token"], report["after"]["bytes_per_token"]
    print(f"held-out text: {first:.2f} to {last:.2f} bytes per token, {report['used']:.0%} of the new pieces occur")


if __name__ == "__main__":
    main()
