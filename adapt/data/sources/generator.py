"""`generator:` documents that a Python function makes."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from adapt.data.sources.base import Place, Source, digest
from adapt.data.sources.files import file_digest
from adapt.errors import AdaptError


class Generator(Source):
    """A Python function that yields documents. It must give the same ones for the same arguments."""

    key: ClassVar[str] = "generator"

    generator: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """The function as `package.module:function`, installed or in the working directory; it yields texts or mappings."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The function's arguments by name."""

    @property
    def origin(self) -> str:
        """The import path."""
        return f"generator '{self.generator}'"

    def missing(self) -> Iterator[str]:
        """No such module, no such function, or arguments that it does not take."""
        try:
            self.function()
        except AdaptError as error:
            yield str(error)

    def function(self) -> Callable[..., Iterable[Any]]:
        """The function, imported. Raises AdaptError where there is none or the arguments do not fit."""
        module_name, name = self.generator.split(":")
        module = self._module(module_name)
        function = getattr(module, name, None)
        if not callable(function):
            names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            nearest = get_close_matches(name, names, n=1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise AdaptError(f"{self.origin}: module '{module_name}' has no function '{name}'{hint}")
        try:
            inspect.signature(function).bind(**self.arguments)
        except TypeError as error:
            takes = ", ".join(inspect.signature(function).parameters) or "none"
            raise AdaptError(f"{self.origin}: {error}; its arguments are {takes}") from error
        return function

    def _module(self, name: str) -> Any:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # a console script does not look in the working directory
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                message = f"no module '{error.name}', neither installed nor below '{os.getcwd()}'"
                raise AdaptError(f"{self.origin}: {message}") from error
            raise AdaptError(f"{self.origin}: module '{name}' needs '{error.name}', which is not installed") from error
        except Exception as error:
            raise AdaptError(f"{self.origin}: module '{name}' cannot be imported: {_last_line(error)}") from error

    def located_rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What the function yields; a bare string is a text. Raises AdaptError where it fails."""
        items = iter(self._items())
        number = 0
        while True:
            number += 1
            try:
                item = next(items)
            except StopIteration:
                return
            except Exception as error:
                raise AdaptError(f"{self.origin} failed at document {number}: {_last_line(error)}") from error
            if not isinstance(item, (str, dict)):
                raise AdaptError(f"{self.origin}: document {number} is a {type(item).__name__}, not text or a mapping")
            yield Place(self.generator, number), {"text": item} if isinstance(item, str) else item

    def _items(self) -> Iterable[Any]:
        function = self.function()
        try:
            items = function(**self.arguments)
        except Exception as error:
            raise AdaptError(f"{self.origin} failed: {_last_line(error)}") from error
        if isinstance(items, (str, dict)) or not isinstance(items, Iterable):
            raise AdaptError(f"{self.origin} returned a {type(items).__name__}; it must yield documents")
        return items

    def fingerprint(self) -> str:
        """A hash of the import path, the arguments and the code: the function's module, or its whole package."""
        return digest(self.generator, self.arguments, [file_digest(path) for path in self._code()])

    def _code(self) -> list[Path]:
        """The files of the named module and of the one where the function is defined, with those of their packages."""
        function = self.function()
        modules = (sys.modules[self.generator.split(":")[0]], inspect.getmodule(function))
        found: set[Path] = set()
        for module in modules:
            file = getattr(module, "__file__", None)
            if module is not None and file is not None:
                found.update(Path(file).parent.rglob("*.py") if module.__package__ else [Path(file)])
        return sorted(found)


def _last_line(error: Exception) -> str:
    """The error and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    reason = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {reason}{place}"
