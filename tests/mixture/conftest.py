"""Three adapters of different ranks and targets over the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mixture.shop import write_adapters


@pytest.fixture(scope="session")
def adapters(tmp_path_factory, tiny_model_folder) -> dict[str, Path]:
    """Folders by name; do not write to them."""
    return write_adapters(tiny_model_folder, tmp_path_factory.mktemp("adapters"))
