"""`adapt chat`: talk to a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.commands.errors import plain_errors

if TYPE_CHECKING:
    from adapt.chat.answer import Sampling
    from adapt.chat.conversation import Conversation

EPILOG = "Example: adapt chat recipes/lang.yaml#chat --prompt 'How do you write 45 in words?' --temperature 0"


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder (model, adapter, mixture, run), a hub id, or RECIPE#STAGE.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Answer this and stop.", show_default=False)
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told first.", show_default=False)
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most probable token each time.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens of this share.")] = 0.95,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many tokens at most; 0: from all.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Above 1 repeats less.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How long an answer may get.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Draw the same answers again.", show_default=False)] = None,
) -> None:
    """Talk to a model, in its chat form if it has one.

    Ctrl-C ends an answer; in the conversation /reset, /system TEXT, /save FILE and /exit do what they say.
    """
    with plain_errors():
        from adapt.chat.answer import Sampling

        sampling = Sampling(temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed)
        _talk(_conversation(model, sampling, system), prompt)


def _conversation(model: str, sampling: Sampling, system: str | None) -> Conversation:
    from adapt.chat.console import NO_SYSTEM, NO_TEMPLATE
    from adapt.chat.conversation import Conversation
    from adapt.errors import AdaptError
    from adapt.evaluation.scoring import device_and_format
    from adapt.loading import find_model

    device, dtype = device_and_format()
    loaded, tokenizer = find_model(model).load(dtype)
    conversation = Conversation(loaded.to(device), tokenizer, sampling, system)
    if system is not None and not conversation.takes_system():
        raise AdaptError(f"--system: {NO_TEMPLATE if conversation.template is None else NO_SYSTEM}")
    return conversation


def _talk(conversation: Conversation, prompt: str | None) -> None:
    """Answer the prompt, or read what to answer until the end."""
    from adapt.chat.console import NO_TEMPLATE, talk

    if prompt is None:
        talk(conversation, lambda: input("> "), _say)
        return
    if conversation.template is None:
        typer.echo(NO_TEMPLATE, err=True)
    conversation.reply(prompt, _say)
    _say("\n")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
