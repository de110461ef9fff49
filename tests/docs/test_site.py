"""The documentation builds as a site without a warning, and its reference says what the code says."""

import subprocess
import sys
from pathlib import Path

from adapt.methods import METHODS
from adapt.recipe.reference import anchor, reference

ROOT = Path(__file__).parent.parent.parent


def test_reference_is_current():
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == reference(), "run `make reference`"


def test_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "reference" / "index.html").is_file()


def test_every_method_has_a_page_that_leads_to_its_keys():
    for method in METHODS:
        name = method.model_fields["kind"].default
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert f"../reference.md#{anchor(method)}" in page
