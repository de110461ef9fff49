"""The conversation in a terminal: lines that are said to the model, and lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapt.chat.conversation import Conversation
from adapt.errors import AdaptError

HELP = "/reset  begin anew    /system TEXT  what the model is told first    /save FILE  add to a JSONL file    /exit"
NO_TEMPLATE = "this model has no chat template: it goes on with your text, and knows nothing of earlier turns"
NO_SYSTEM = "this model's chat template has no place for a system message"


def talk(conversation: Conversation, read: Callable[[], str], say: Callable[[str], None]) -> None:
    """Read lines until `/exit`, the end of the input or Ctrl-C between answers; `say` writes text as it is."""
    say((NO_TEMPLATE if conversation.template is None else HELP) + "\n")
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            say("\n")
            return
        if line in ("/exit", "/quit"):
            return
        try:
            if line.startswith("/"):
                say(_command(conversation, line) + "\n")
            elif line:
                conversation.reply(line, say)
                say("\n")
        except AdaptError as error:
            say(f"{error}\n")


def _command(conversation: Conversation, line: str) -> str:
    """Do what a line with a slash says; returns what to tell about it."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/reset":
        conversation.reset()
        return "the conversation begins anew"
    if name == "/system":
        if rest and not conversation.takes_system():
            return NO_SYSTEM
        conversation.system = rest or None
        conversation.reset()
        return "told first from now on; the conversation begins anew" if rest else "nothing is told first any more"
    if name == "/save":
        if not rest:
            return "name a file: /save FILE"
        if not conversation.messages:
            return "nothing was said yet"
        conversation.save(Path(rest).expanduser())
        return f"added to {rest}"
    return HELP if name == "/help" else f"unknown command '{name}'; there are: {HELP}"
