"""The plan beside a run: where memory ends, one line with keys that would fit; the estimate in the report."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.planning import during
from adapt.planning.during import beside, out_of_memory
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections.train import section
from tests.planning.test_memory_parts import CPU, stage_of


def context(folder):
    return SimpleNamespace(models={"base": ModelLocation(str(folder))}, stage="cpt")


def no_memory():
    """What torch's own allocator says on a CPU."""
    torch.empty(1 << 60, dtype=torch.uint8)


def test_the_line_has_keys_with_which_the_stage_fits(tiny_model_folder, monkeypatch):
    stage = stage_of({"kind": "full"}, batch_size=64)
    whole = during._plan(stage, context(tiny_model_folder), SimpleNamespace(plan=SimpleNamespace(precision=CPU)))
    monkeypatch.setattr(during, "_room", lambda device: whole.memory.peak // 2)
    with pytest.raises(AdaptError) as raised, out_of_memory(stage, context(tiny_model_folder)):
        no_memory()
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith("out of memory: ")
    assert f"the plan needs {whole.memory.peak:,} bytes of {whole.memory.peak // 2:,}; this would fit: --set" in line
    assert "--set stages.cpt.batch_size=" in line
    assert "paged" not in line
    assert "offloading" not in line


def test_without_a_way_out_the_line_says_so(tiny_model_folder, monkeypatch):
    monkeypatch.setattr(during, "_room", lambda device: 1)
    told = pytest.raises(AdaptError, match="no change of keys known here makes it fit")
    with told, out_of_memory(stage_of({"kind": "full"}), context(tiny_model_folder)):
        no_memory()


def test_where_nothing_can_be_planned_the_advice_is_general(tmp_path):
    told = pytest.raises(AdaptError, match=r"^out of memory: .*; make batch_size .* or the model smaller$")
    with told, out_of_memory(stage_of({"kind": "full"}), context(tmp_path / "gone")):
        raise MemoryError


def test_other_errors_stay_what_they_are(tiny_model_folder):
    told = pytest.raises(RuntimeError, match=r"^shapes$")
    with told, out_of_memory(stage_of({"kind": "full"}), context(tiny_model_folder)):
        raise RuntimeError("shapes")


def test_the_report_has_estimate_and_measurement(tiny_model_folder, tmp_path):
    run = SimpleNamespace(plan=SimpleNamespace(precision=CPU))
    meter = SimpleNamespace(peak=3 * 2**20, resident=4 * 2**20)
    found = beside(stage_of({"kind": "lora"}), context(tiny_model_folder), run, meter)
    assert found["measured"] == 3 * 2**20
    assert found["error"] == found["estimate"] / found["measured"] - 1
    assert sum(found["parts"].values()) == found["estimate"]
    record = Record("cpt", tmp_path, "finished", {"metrics": {"plan": found}}, ())
    page = " ".join(str(block) for block in section(record, Plots(tmp_path)))
    assert "Memory while training, by the plan" in page
    assert f"(the estimate is {found['error']:+.1%})" in page
