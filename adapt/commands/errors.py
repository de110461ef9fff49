"""A user's mistake as a line on standard error, whatever the command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from adapt.errors import AdaptError


@contextmanager
def plain_errors(stopped: str = "stopped") -> Iterator[None]:
    """End with the error's exit code and without a traceback; `stopped` is what is said after Ctrl-C."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # words of libraries to those who program with them
    try:
        yield
    except AdaptError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone (`| head`); nothing is left to say
        raise typer.Exit(0) from None
