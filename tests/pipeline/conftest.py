"""A folder with the toy stages' corpus."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def base(tmp_path) -> Path:
    (tmp_path / "corpus.txt").write_text("one two three")
    return tmp_path
