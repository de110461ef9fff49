"""One answer, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import context_of, evaluating

_INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 takes the most probable one; then the other numbers mean nothing."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int | None = None

    def configuration(self, stop_ids: Sequence[int], padding: int) -> GenerationConfig:
        """The same as transformers' settings; an answer ends at one of `stop_ids`."""
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=padding,
            **(drawn if self.temperature > 0 else {"do_sample": False}),
        )


class Pieces(BaseStreamer):
    """Turns tokens as they come into text, and hands on what is new of it; never half of a character."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], say: Callable[[str], None]) -> None:
        self._tokenizer, self._stops, self._say = tokenizer, frozenset(stop_ids), say
        self.ids: list[int] = []
        self._said = 0
        self._prompt_seen = False

    @property
    def text(self) -> str:
        """The answer so far, without the beginning of a character that is not whole yet."""
        text = self._tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.rstrip(_INCOMPLETE)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, which comes first and is passed over, or the next token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self._stops]
        self._tell(self.text)

    def end(self) -> None:
        """Hand on what was held back."""
        self._tell(self.text)

    def _tell(self, text: str) -> None:
        if len(text) > self._said:
            self._say(text[self._said :])
            self._said = len(text)


class _AtStop(StoppingCriteria):
    """Ends at a stop token, also where a method's own generation loop passes over `eos_token_id`."""

    def __init__(self, stop_ids: Sequence[int]) -> None:
        self._stops = frozenset(stop_ids)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([row[-1] in self._stops for row in input_ids.tolist()], device=input_ids.device)


def answer(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int],
    say: Callable[[str], None],
) -> str:
    """The model's continuation of token ids; `say` gets each new piece of text as soon as it is a whole one.

    Ctrl-C ends the answer and keeps what was said. Raises AdaptError where prompt and answer do not fit the model.
    """
    context = context_of(model.config)
    if context is not None and len(prompt) + 1 > context:
        raise AdaptError(
            f"the conversation takes {len(prompt)} positions, but the model has {context}; begin anew with /reset"
        )
    room = sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - len(prompt))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    configuration = sampling.configuration(stop_ids, padding)
    configuration.max_new_tokens = room
    pieces = Pieces(tokenizer, stop_ids, say)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    ids = torch.tensor([list(prompt)], device=model.device)
    own, model.generation_config = model.generation_config, configuration
    try:
        with evaluating(model), torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=pieces,
                stopping_criteria=StoppingCriteriaList([_AtStop(stop_ids)]),
            )
    except KeyboardInterrupt:
        pieces.end()
    finally:
        model.generation_config = own
    return pieces.text.strip()
