"""The model on which processes train together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_model_folder) -> Path:
    folder = tmp_path_factory.mktemp("models") / "grown"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "adapt_vocabulary.json").write_text(json.dumps({"base_size": 380, "new_ids": [380, 381, 382, 383]}))
    return folder
