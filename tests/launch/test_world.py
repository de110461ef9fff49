"""What processes say to each other through the store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from pydantic import TypeAdapter
from torch.distributed import TCPStore

from adapt.errors import AdaptError
from adapt.launch.settings import Launch
from adapt.launch.world import ALONE, Board, World, world_of
from adapt.pipeline import crew
from adapt.pipeline.crew import crew_of
from adapt.stages import AnyStage


@pytest.fixture
def worlds():
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20), wait_for_workers=False)
    clients = [TCPStore("127.0.0.1", store.port, timeout=timedelta(seconds=20)) for _ in range(2)]
    yield [World(rank, 2, rank, board=Board(client, "test")) for rank, client in enumerate(clients)]
    del store  # the server lives as long as this


def both(worlds, work) -> list:
    results = [None, None]
    threads = [threading.Thread(target=lambda w=w: results.__setitem__(w.rank, work(w))) for w in reversed(worlds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_the_first_one_goes_first(worlds):
    seen = []

    def note(turn, world):
        return lambda: seen.append((turn, world.rank))

    both(worlds, lambda world: [world.first(note(turn, world)) for turn in range(3)])
    assert [rank for turn, rank in seen if turn == 0] == [0, 1]
    assert all(seen.index((turn, 0)) < seen.index((turn, 1)) for turn in range(3))


def test_all_do_what_the_first_one_decides(worlds):
    found = both(worlds, lambda world: [world.told(lambda: f"by {world.rank}"), world.told(lambda: None)])
    assert found == [["by 0", None], ["by 0", None]]


def test_a_process_alone_asks_nobody():
    assert ALONE.main
    assert not ALONE.sharded
    assert ALONE.told(lambda: 3) == ALONE.first(lambda: 3) == 3


def test_a_world_is_read_from_the_environment():
    world = world_of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, None, "fsdp2")
    assert (world.rank, world.size, world.local, world.main, world.sharded) == (5, 8, 1, False, True)
    assert world_of({}, None, "fsdp2").size == 1
    assert not world_of({}, None, "fsdp2").sharded


def test_a_launcher_and_a_recipe_that_say_different_things(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(AdaptError) as caught:
        crew_of(Launch(processes=2))
    line = "launch.processes is 2, but this run was started as 4 processes; leave one of the two out"
    assert str(caught.value) == line


def test_a_launcher_and_a_stage_that_say_different_things(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = {"kind": "train", "model": "m", "mixture": {"t": 1.0}, "tokens": 1000, "method": "lora"}
    with pytest.raises(AdaptError) as caught:
        crew_of(None, {"cpt": TypeAdapter(AnyStage).validate_python(settings | {"launch": {"processes": 1}})})
    line = "stages.cpt.launch.processes is 1, but this run was started as 4 processes; leave one of the two out"
    assert str(caught.value) == line


def test_what_accelerate_was_told_is_taken_over_and_out_of_the_environment():
    given = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true", "RANK": "0"}
    assert crew._asked(given) == {"strategy": "fsdp2"}
    assert given == {"RANK": "0"}
    assert crew._asked({"ACCELERATE_MIXED_PRECISION": "no"}) == {}
    with pytest.raises(AdaptError, match="fsdp_version: 2"):
        crew._asked({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"})


def test_deepspeed_by_accelerate(monkeypatch):
    given = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "RANK": "0"}
    assert crew._asked(dict(given)) == {"strategy": "deepspeed", "zero": 3}
    for wrong in ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}):
        with pytest.raises(AdaptError, match="adapt knows zero_stage 2 and 3 and nothing else"):
            crew._asked(given | wrong)
