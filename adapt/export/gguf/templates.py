"""Chat templates without what only transformers understands."""

from __future__ import annotations

import re
from typing import Any

from adapt.errors import AdaptError

_TAG = re.compile(r"\{%(?P<left>[-+]?)\s*(?P<end>end)?generation\s*(?P<right>[-+]?)%\}")
_TURNS = [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "b "}, {"role": "user", "content": "c"}]


def without_generation(template: str) -> str:
    """The template with `{% generation %}` (which marks an answer for training) as `{% if true %}`: white space is
    trimmed as before, and every Jinja reads it."""
    return _TAG.sub(lambda tag: f"{{%{tag['left']} {'endif' if tag['end'] else 'if true'} {tag['right']}%}}", template)


def plain_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template for other programs; None where it has none.

    Raises AdaptError where a conversation would come out differently.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        return None
    plain = without_generation(template)
    texts = [tokenizer.apply_chat_template(_TURNS, chat_template=each, tokenize=False) for each in (template, plain)]
    if texts[0] != texts[1]:
        raise AdaptError("GGUF: the chat template writes something else without its generation tags")
    return plain
