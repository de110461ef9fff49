"""A hook of mkdocs: the benchmarks, which lie beside their programs, are a page of the site too.

In the repository pages link to `../benchmarks/README.md`, which a reader of the files can follow; in the site the same
links lead to `benchmarks.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGE = "benchmarks.md"
_LINK = re.compile(r"\]\(\.\./((?:\.\./)*)benchmarks/README\.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `benchmarks/README.md` of the repository as a page."""
    source = Path(config.docs_dir).parent / "benchmarks" / "README.md"
    files.append(File.generated(config, _PAGE, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the file lead to the page."""
    return _LINK.sub(rf"](\1{_PAGE}", markdown)
