"""What was said so far, as messages and as the token ids that a model goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.chat.answer import Sampling, answer
from adapt.errors import AdaptError
from adapt.evaluation.generation import prose_prompt, stop_ids


@dataclass
class Conversation:
    """A model, its tokenizer, and the turns so far.

    With a chat template the turns go through it. Without one the model goes on with the plain text of the prompt
    alone, since a base model knows no turns.
    """

    model: Any
    tokenizer: Any
    sampling: Sampling
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def template(self) -> str | None:
        """The chat template, or None for a base model."""
        own = self.tokenizer.chat_template
        return own if isinstance(own, str) or own is None else own.get("default")

    def reply(self, text: str, say: Callable[[str], None]) -> str:
        """The answer to a user's words; both join the conversation. `say` gets the answer piece by piece."""
        turns = [*self._opening(), *self.messages, {"role": "user", "content": text}]
        said = answer(
            self.model,
            self.tokenizer,
            self._ids(turns),
            self.sampling,
            stop_ids(self.model, self.tokenizer, self.template),
            say,
        )
        self.messages += [turns[-1], {"role": "assistant", "content": said}]
        return said

    def _opening(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _ids(self, turns: list[dict[str, str]]) -> list[int]:
        template = self.template
        if template is None:
            return prose_prompt(self.tokenizer, turns[-1]["content"])
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise AdaptError(f"the model's chat template does not take this conversation: {error}") from error
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def takes_system(self) -> bool:
        """Whether words to the system reach the model: its template writes them."""
        if self.template is None:
            return False
        mark = "adapt-system"
        turns = [{"role": "system", "content": mark}, {"role": "user", "content": "?"}]
        from jinja2 import TemplateError

        try:
            return mark in self.tokenizer.apply_chat_template(turns, chat_template=self.template, tokenize=False)
        except TemplateError:
            return False

    def reset(self) -> None:
        """Forget the turns; what was said to the system stays."""
        self.messages.clear()

    def save(self, file: Path) -> None:
        """Add the conversation to a file of JSON lines, in the form that `sft` trains on."""
        line = json.dumps({"messages": [*self._opening(), *self.messages]}, ensure_ascii=False)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as output:
                output.write(line + "\n")
        except OSError as error:
            raise AdaptError(f"cannot write '{file}': {error.strerror or error}") from error
