"""Static vectors: read from a file, or trained on the corpus, and put together for the pieces of a tokenizer.

All of it runs on gensim, which is an optional part of the installation. Nothing is downloaded and nothing unpickled.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_FASTTEXT_MAGIC = struct.pack("<i", 793712314)
_MOST_WORDS = 500_000
"""Words that are read of a file of plain word vectors; such files begin with the most frequent words."""
_BUCKETS = 100_000
"""N-gram vectors of a space that is trained here; fastText's two million would take a gigabyte for nothing."""
_SENTENCE = 1_000
"""Words after which a document is cut: gensim drops what is beyond 10,000 words of one sentence."""


def readable(token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that a token stands for, its leading space kept; empty for a part of a character.

    Byte-level tokens are decoded from the byte alphabet, in SentencePiece tokens `▁` is a space and `<0xE2>` a byte;
    added tokens are written as they are.
    """
    if token in tokenizer.get_added_vocab():
        return token
    return _reader(tokenizer)(token)


def texts_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """`readable` for many ids at once; an id that belongs to no token gives an empty text."""
    added, read = set(tokenizer.get_added_vocab()), _reader(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    return [("" if token is None else token if token in added else read(token)) for token in tokens]


def _reader(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    byte_level = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)
    return _from_bytes if byte_level else _from_characters


def _from_bytes(token: str) -> str:
    from adapt.vocabulary.byte_level import byte_of, to_bytes

    if not all(character in byte_of() for character in token):
        return token
    try:
        return to_bytes(token).decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _from_characters(token: str) -> str:
    if len(token) != 6 or not (token.startswith("<0x") and token.endswith(">")):
        return token.replace("▁", " ")
    byte = int(token[3:5], 16)
    return chr(byte) if byte < 0x80 else ""


def inside(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of each word as it is cut in the middle of a sentence, after a space.

    Works for any tokenizer: the word is cut behind another one, and the pieces that reach into it are taken.
    """
    encoded = tokenizer.backend_tokenizer.encode_batch([f"a {word}" for word in words], add_special_tokens=False)
    return [[index for index, (_, end) in zip(cut.ids, cut.offsets, strict=True) if end > len("a ")] for cut in encoded]


@dataclass(frozen=True)
class Vectors:
    """Static vectors of words, most frequent first: `matrix` `[n, d]` float32.

    `compose` gives a vector for any string, from its n-grams, where the space has some (fastText); `name` is what
    error messages call the space.
    """

    name: str
    words: Sequence[str]
    matrix: torch.Tensor
    compose: Callable[[str], Any] | None = None

    @property
    def dimension(self) -> int:
        """The width of the vectors."""
        return self.matrix.shape[1]


def check_file(path: str, what: str) -> Path:
    """The path as a file that exists. Raises AdaptError: a missing file is never looked for elsewhere."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise AdaptError(f"there is no {what} '{path}'; give a file on this machine (nothing is downloaded)")
    return found


def load_vectors(path: str) -> Vectors:
    """Static vectors from a file: fastText `.bin`, word2vec text `.vec` (or `.gz`), word2vec binary.

    What a file holds is seen from its first bytes. Raises AdaptError for a missing file, a broken one, and for a
    pickled one (`KeyedVectors.save`), since unpickling runs whatever code the file holds.
    """
    file = check_file(path, "file of static vectors")
    keyed = _gensim("KeyedVectors")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            start = stream.read(64)
        if start[:1] == b"\x80" and start[1:2] <= b"\x05":
            raise AdaptError(
                f"'{path}' is pickled, and nothing is unpickled; write it again with gensim's "
                "KeyedVectors.save_word2vec_format and give that file"
            )
        if start.startswith(_FASTTEXT_MAGIC):
            from gensim.models.fasttext import load_facebook_vectors

            return _with_pieces(path, load_facebook_vectors(str(file)))
        binary = ".bin" in file.suffixes
        return _plain(path, keyed.load_word2vec_format(str(file), binary=binary, limit=_MOST_WORDS))
    except (ValueError, OSError, EOFError, struct.error, AssertionError, NotImplementedError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdaptError(
            f"cannot read static vectors from '{path}': {reason}; give a fastText .bin, or a .vec whose first line "
            "is the number of words and their dimension"
        ) from error


def _gensim(name: str) -> Any:
    """A class of gensim. Raises AdaptError where gensim is not installed."""
    try:
        import gensim.models
    except ImportError as error:
        raise AdaptError("static vectors need gensim, which is not installed: pip install 'adapt[vectors]'") from error
    return getattr(gensim.models, name)


def _plain(name: str, keyed: Any) -> Vectors:
    import torch

    matrix = torch.from_numpy(keyed.vectors).float()
    if not len(keyed.index_to_key) or not torch.isfinite(matrix).all():
        raise ValueError("it holds no words" if not len(keyed.index_to_key) else "it holds numbers that are not finite")
    return Vectors(name, keyed.index_to_key, matrix)


def _with_pieces(name: str, keyed: Any) -> Vectors:
    plain, known = _plain(name, keyed), keyed.key_to_index

    def compose(text: str) -> Any:
        has_grams = keyed.bucket and len(text) + 2 >= keyed.min_n  # gensim brackets a word with < and >
        return keyed.get_vector(text) if text in known or has_grams else keyed.vectors[0] * 0

    return Vectors(name, plain.words, plain.matrix, compose)


def train_vectors(
    sentences: Iterable[Sequence[str]], seed: int, dimension: int = 100, epochs: int = 3, min_count: int = 5
) -> Vectors:
    """FastText (CBOW, ten negatives, n-grams of 3 to 6 characters) on lists of words or pieces.

    Bojanowski et al. 2017 (arXiv 1607.04606). The same sentences and seed give the same vectors: one worker, and a
    hash of words that does not change from run to run. Raises AdaptError where no word occurs `min_count` times.
    """
    cut = [part for sentence in sentences for part in _cut(sentence)]
    try:
        model = _gensim("FastText")(
            cut,
            vector_size=dimension,
            epochs=epochs,
            min_count=min_count,
            negative=10,
            bucket=_BUCKETS,
            seed=seed,
            workers=1,
            hashfxn=_hash,
        )
    except RuntimeError as error:  # gensim has no other sign for an empty vocabulary
        raise AdaptError(
            f"no word of the corpus occurs {min_count} times, so no static vectors can be trained on it; "
            "give more text, a file of vectors, or a lower min_count"
        ) from error
    return _with_pieces("the corpus", model.wv)


def _cut(sentence: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(sentence), _SENTENCE):
        yield list(sentence[start : start + _SENTENCE])


def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def token_vectors(vectors: Vectors, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """A vector for each token, `[k, d]` float32; zero where the space says nothing of it.

    WECHSEL (Minixhofer et al., NAACL 2022), section 3. Where the space has n-grams, the vector of the token's text
    without spaces around it; else the mean of the vectors of the words whose cut holds the token, weighted by the
    words' frequency, which is taken to fall as 1/rank (Zipf).
    """
    import numpy as np
    import torch

    if vectors.compose is None:
        return _from_words(vectors, ids, tokenizer)
    texts = [text.strip() for text in texts_of(ids, tokenizer)]
    nothing = np.zeros(vectors.dimension, dtype=np.float32)
    rows = [vectors.compose(text) if text else nothing for text in texts]
    return torch.from_numpy(np.stack(rows)).float() if rows else torch.zeros(0, vectors.dimension)


def _from_words(vectors: Vectors, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    import torch

    place = {index: row for row, index in enumerate(ids)}
    bare = tokenizer.backend_tokenizer.encode_batch(list(vectors.words), add_special_tokens=False)
    cuts = zip(inside(vectors.words, tokenizer), (cut.ids for cut in bare), strict=True)
    hits = [(place[i], rank) for rank, pair in enumerate(cuts) for cut in pair for i in set(cut) if i in place]
    if not hits:
        return torch.zeros(len(ids), vectors.dimension)
    rows, ranks = torch.tensor(hits).T
    weights = 1.0 / (ranks + 1)
    total = torch.zeros(len(ids)).index_add_(0, rows, weights)
    summed = torch.zeros(len(ids), vectors.dimension)
    for start in range(0, len(rows), 100_000):  # bounds the copies of vectors that are held at once
        part = slice(start, start + 100_000)
        summed.index_add_(0, rows[part], vectors.matrix[ranks[part]] * weights[part, None])
    return summed / total.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
