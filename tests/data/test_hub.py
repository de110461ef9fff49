"""A data set through `datasets.load_dataset`, from a folder; offline and unknown ones are one line."""

from __future__ import annotations

import pytest

from adapt.data.sources import HubDataset
from adapt.errors import AdaptError


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_own_cache")
class TestHub:
    def test_a_folder_reads_like_a_hub_data_set(self, write, tmp_path):
        write("set/train.jsonl", '{"text": "a"}\n{"text": "b"}\n')
        source = HubDataset(dataset=str(tmp_path / "set"))
        assert list(source.documents()) == [{"text": "a"}, {"text": "b"}]
        before = source.fingerprint()
        write("set/train.jsonl", '{"text": "a"}\n{"text": "c"}\n')
        assert source.fingerprint() != before

    def test_wrong_split_and_field(self, write, tmp_path):
        write("set/train.jsonl", '{"text": "a"}\n')
        with pytest.raises(AdaptError, match="split 'validation'") as caught:
            list(HubDataset(dataset=str(tmp_path / "set"), split="validation").documents())
        assert "\n" not in str(caught.value)
        with pytest.raises(AdaptError, match="train]:1: no field 'txt'; its fields are text"):
            list(HubDataset(dataset=str(tmp_path / "set"), field="txt").documents())

    def test_unreachable(self):
        with pytest.raises(AdaptError, match="cannot load dataset 'nobody/nothing'") as caught:
            list(HubDataset(dataset="nobody/nothing").documents())
        assert "\n" not in str(caught.value)
