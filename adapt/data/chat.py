"""Conversations as tokens, with loss on what the assistant writes and on the token that ends its turn.

Three ways to know what the assistant wrote, the first that is there:

1. the chat template's own `{% generation %}` markers;
2. TRL's training form of the template, for the templates that it knows;
3. the difference between the conversation rendered up to the assistant's turn (with the generation prompt) and with
   that turn. This is exact where each rendering begins with the one before, which is checked for every conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from adapt.data.documents import Document
from adapt.data.encoding import Encoded, Separators
from adapt.errors import AdaptError

Messages = list[dict[str, Any]]
Span = tuple[int, int]
Marked = tuple[list[int], list[int], int]
"""Ids, which of them carry loss, and whether one of them crosses from a prompt into the answer."""

_PROBE: Messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}] * 2


@dataclass(frozen=True)
class ChatEncoder:
    """A tokenizer with the chat template that is used for training; `marked` where it says what the assistant wrote."""

    tokenizer: Any
    template: str
    marked: bool

    @classmethod
    def of(cls, tokenizer: Any) -> ChatEncoder:
        """The encoder of a model's tokenizer.

        Raises AdaptError where there is no chat template, or where the assistant would not learn to end its turn.
        """
        own = default_template(tokenizer)
        if own is None:
            raise AdaptError(
                f"tokenizer '{tokenizer.name_or_path}' has no chat template, so conversations cannot be written as "
                "text; add chat_template.jinja to the model's folder"
            )
        template = _training_template(tokenizer, own)
        encoder = cls(tokenizer, template or own, marked=template is not None)
        encoder._check_stop()
        return encoder

    def encode(self, document: Document) -> Encoded:
        """`messages` with loss on every turn of the assistant, `prompt` and `completion` on those of the completion."""
        if "messages" in document:
            return self._conversation(document["messages"], 0, document.get("tools"))
        prompt, completion = document["prompt"], document["completion"]
        return self._conversation([*prompt, *completion], len(prompt), document.get("tools"))

    def _conversation(self, messages: Messages, given: int, tools: Any) -> Encoded:
        if not messages:
            raise AdaptError("the conversation has no messages")
        size = sum(len(text.encode("utf-8")) for text in map(_text, messages))
        encode = self._by_markers if self.marked else self._by_difference
        ids, trained, joined = encode(messages, given, tools)
        return Encoded(ids, trained, size, 0, joined)

    def _by_markers(self, messages: Messages, given: int, tools: Any) -> Marked:
        """`apply_chat_template` with its mask; for a completion without the part that the prompt renders to."""
        output = _rendered(
            self.tokenizer,
            messages,
            chat_template=self.template,
            tools=tools,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, trained = list(output["input_ids"]), list(output["assistant_masks"])
        if given:
            prompt = _rendered(self.tokenizer, messages[:given], chat_template=self.template, tools=tools)
            begins = _tokens_before(self.tokenizer, ids, prompt)
            trained = [0] * begins + trained[begins:]
        return ids, trained, 0

    def _by_difference(self, messages: Messages, given: int, tools: Any) -> Marked:
        """The characters between a rendering up to the assistant's turn and one with it, mapped to tokens."""
        text = _rendered(self.tokenizer, messages, tools=tools)
        spans = [
            self._turn(text, messages, number, tools)
            for number, message in enumerate(messages)
            if number >= given and message["role"] == "assistant"
        ]
        return _marked(self.tokenizer, text, spans)

    def _turn(self, text: str, messages: Messages, number: int, tools: Any) -> Span:
        before = _rendered(self.tokenizer, messages[:number], tools=tools, add_generation_prompt=True)
        after = _rendered(self.tokenizer, messages[: number + 1], tools=tools)
        if not (text.startswith(after) and after.startswith(before)):
            raise AdaptError(
                "the chat template renders an earlier turn differently when another one follows, so what the assistant "
                f"wrote in message {number + 1} cannot be told; mark it in the template with {{% generation %}}"
            )
        return len(before), _end_of_turn(self.tokenizer, text, len(before), len(after))

    def _check_stop(self) -> None:
        """In a conversation of two rounds each run of tokens with loss ends in a special token, white space aside."""
        special = special_ids(self.tokenizer)
        encoded = self._conversation(_PROBE, 0, None)
        turns = groupby(zip(encoded.ids, encoded.trained or (), strict=True), key=lambda pair: pair[1])
        ends = [self._last_visible([token for token, _ in run]) for loss, run in turns if loss]
        if not ends or any(end not in special for end in ends):
            raise AdaptError(
                f"the chat template of '{self.tokenizer.name_or_path}' gives no loss to a token that ends the "
                "assistant's turn, so the model would never learn to stop; end the turn with a special token, inside "
                "{% generation %} where the template has such markers"
            )

    def _last_visible(self, ids: list[int]) -> int | None:
        return next((token for token in reversed(ids) if self.tokenizer.decode([token]).strip()), None)


def sft_encoder(tokenizer: Any) -> Callable[[Document], Encoded]:
    """The function that encodes conversations (which need a chat template) and plain prompts with completions."""
    chat = cache(lambda: ChatEncoder.of(tokenizer))
    separators = cache(lambda: Separators.of(tokenizer))

    def encode(document: Document) -> Encoded:
        if "messages" not in document and isinstance(document["prompt"], str):
            return encode_completion(tokenizer, separators(), document["prompt"], document["completion"])
        return chat().encode(document)

    return encode


def encode_completion(tokenizer: Any, separators: Separators, prompt: str, completion: str) -> Encoded:
    """Plain text and what should follow it; loss on the completion and the end of text.

    A token that holds the last characters of the prompt and the first of the completion carries loss.
    """
    text = prompt + completion
    ids, trained, joined = _marked(tokenizer, text, [(len(prompt), len(text))])
    before, after = separators.lacking(ids)
    whole, marks = [*before, *ids, *after], [0] * len(before) + trained + [1] * len(after)
    return Encoded(whole, marks, len(text.encode("utf-8")), len(before) + len(after), joined)


def default_template(tokenizer: Any) -> str | None:
    """The chat template; of several named ones the `default`."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template or None


def _training_template(tokenizer: Any, own: str) -> str | None:
    """A template with `{% generation %}` markers: the model's own, or the one that TRL has for it; None for neither."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(own):
        return own
    try:
        return get_training_chat_template(tokenizer)
    except Exception:  # TRL probes the template with conversations that it may refuse in any way
        return None


def _rendered(tokenizer: Any, messages: Messages, tokenize: bool = False, **arguments: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=tokenize, **arguments)
    except Exception as error:  # a template is code of the model's author: it may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AdaptError(f"the model's chat template refuses the conversation: {reason}") from error


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that no ordinary text gives: special and added tokens."""
    return set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)


def _end_of_turn(tokenizer: Any, text: str, start: int, end: int) -> int:
    """Where the turn `text[start:end]` ends: after its last special token, if only white space follows it.

    ChatML writes `<|im_end|>` and a newline; the model stops at the first, so the newline is not learned.
    """
    stripped = text[start:end].rstrip()
    stops = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    return start + len(stripped) if any(stripped.endswith(stop) for stop in stops) else end


def _marked(tokenizer: Any, text: str, spans: Sequence[Span]) -> Marked:
    """Tokens of the rendered text, and which of them have a character in one of the spans."""
    output = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    trained = [
        int(any(begin < span_end and span_begin < end for span_begin, span_end in spans))
        for begin, end in output["offset_mapping"]
    ]
    joined = any(begin < start < end for begin, end in output["offset_mapping"] for start, _ in spans)
    return list(output["input_ids"]), trained, int(joined)


def _tokens_before(tokenizer: Any, ids: list[int], text: str) -> int:
    """How many first tokens of a conversation its beginning `text` also has."""
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    return next((n for n, (one, other) in enumerate(zip(ids, prompt)) if one != other), min(len(ids), len(prompt)))  # noqa: B905


def _text(message: dict[str, Any]) -> str:
    """A message's text; of a content in parts the texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")
