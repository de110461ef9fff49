"""Greedy answers to many prompts at once, the same ones as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from adapt.data.encoding import own_additions
from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import context_of, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "adapt-answer"


def greedy(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    stop_at_newline: bool = False,
    batch_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """The most probable continuation of each prompt (token ids), token by token, as text.

    Prompts of like length share a batch, padded on the left. A continuation ends at one of `stop_ids`, which is not
    part of it, or before the first newline that follows some text (`stop_at_newline`). The model's own generation
    settings (sampling, penalties) are set aside, so the result depends on the weights alone. `advance` is told how
    many prompts are done. Raises AdaptError where a prompt and its answer do not fit the model's context.
    """
    longest = max(map(len, prompts), default=0) + max_new_tokens
    context = context_of(model.config)
    if context is not None and longest > context:
        raise AdaptError(
            f"the longest prompt and max_new_tokens {max_new_tokens} take {longest} positions, "
            f"but the model has {context}; lower max_new_tokens or shorten the prompts"
        )
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    if batch_tokens is None:
        batch_tokens = 4096 if model.device.type == "cpu" else 65536
    size = max(1, batch_tokens // max(1, longest))
    with evaluating(model), _plain_generation(model, tokenizer, stop_ids), torch.inference_mode():
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            stopping = [_AtNewline(tokenizer)] if stop_at_newline else []
            new = _generate(model, tokenizer, [prompts[index] for index in batch], max_new_tokens, stopping)
            for index, ids in zip(batch, new, strict=True):
                answers[index] = _text(tokenizer, ids, stop_ids, stop_at_newline)
            if advance is not None:
                advance(start + len(batch))
    return answers


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stopping: list[StoppingCriteria],
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), _padding(tokenizer), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        stopping_criteria=StoppingCriteriaList(stopping),
    )
    return output[:, longest:].tolist()


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int], stop_ids: Sequence[int], line: bool) -> str:
    for end, token in enumerate(ids):
        if token in stop_ids:
            ids = ids[:end]
            break
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return text.split("\n", 1)[0].rstrip() if line else text


class _AtNewline(StoppingCriteria):
    """Ends a row at the first newline after some text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._started: list[bool] | None = None

    def _token(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._texts[token]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = [self._token(token) for token in input_ids[:, -1].tolist()]
        before = self._started or [False] * len(texts)
        done = ["\n" in (text if started else text.lstrip()) for text, started in zip(texts, before, strict=True)]
        self._started = [started or bool(text.strip()) for text, started in zip(texts, before, strict=True)]
        return torch.tensor(done, device=input_ids.device)


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


@contextmanager
def _plain_generation(model: Any, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> Iterator[None]:
    """For the length of the block, generation is greedy, with a cache, and nothing else."""
    # replaced, not passed: values that a passed configuration leaves open are filled from the model's own
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, eos_token_id=list(stop_ids) or None, pad_token_id=_padding(tokenizer)
    )
    try:
        yield
    finally:
        model.generation_config = own


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> list[int]:
    """The tokens that end an answer: `eos` of the tokenizer and of the model, and what ends a turn of the template."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    if chat_template is not None:
        found.add(_end_of_turn(tokenizer, chat_template))
    return sorted(token for token in found if token is not None)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> int | None:
    """The special token that the template writes after the assistant's words, or None."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = tokenizer.apply_chat_template(turns, chat_template=chat_template, tokenize=False)
    rest = tokenizer(text.rpartition(_MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return rest[0] if rest and rest[0] in special else None


def chat_prompt(tokenizer: PreTrainedTokenizerBase, question: str, chat_template: str) -> list[int]:
    """The ids of a user's question in the chat form, up to where the assistant begins."""
    turns = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turns, chat_template=chat_template, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prose_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that the model goes on with, begun as the tokenizer begins the documents of a training."""
    before, _ = own_additions(tokenizer)
    return [*before, *tokenizer(text, add_special_tokens=False)["input_ids"]]
