"""An update reads the same rows, however many processes share them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.launch.settings import Launch, share_of
from adapt.methods.half import Every, Half
from adapt.methods.lisa import Lisa
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from adapt.methods.vera import Vera
from adapt.pipeline.keys import keyed_settings
from adapt.stages.train import Train


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_the_rows_of_an_update_are_all_read_and_no_process_holds_more_at_once(batch_size, accumulation, processes):
    if batch_size * accumulation % processes:
        with pytest.raises(AdaptError, match=f"make gradient_accumulation a multiple of {processes}$"):
            share_of(batch_size, accumulation, processes)
        accumulation *= processes
    rows, batches = share_of(batch_size, accumulation, processes)
    assert rows * batches * processes == batch_size * accumulation
    assert 1 <= rows <= batch_size


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((8, 4, 1), (8, 4)), ((8, 4, 2), (8, 2)), ((8, 1, 2), (4, 1)), ((8, 2, 4), (4, 1)), ((6, 4, 8), (3, 1))],
)
def test_batches_are_shared_out_before_rows(sizes, expected):
    assert share_of(*sizes) == expected


def stage(**changes) -> Train:
    settings = {"kind": "train", "model": "m", "mixture": {"t": 1.0}, "tokens": 1000, "method": Lora(r=2)}
    return Train(**(settings | changes))


@pytest.mark.parametrize(
    ("changes", "strategy", "place"),
    [
        ({"method": Half(reselect=Every(every=5))}, "ddp", "method"),
        ({"method": Lisa()}, "ddp", "method"),
        ({"method": Half(frozen="nf4")}, "deepspeed", "method.frozen"),
        ({"method": Half(frozen="nf4")}, "fsdp2", None),
        ({"method": Vera()}, "fsdp2", None),
        ({"method": Vera()}, "deepspeed", "method.kind"),
        ({"optimizer": {"kind": "adamw_8bit"}}, "fsdp2", "optimizer.kind"),
        ({"objective": {"kind": "dpo"}}, "deepspeed", "objective"),
        ({"objective": {"kind": "distil", "teacher": "m"}}, "fsdp2", "objective"),
        ({"method": Lora(r=2, average={"decay": 0.9})}, "deepspeed", "method.average"),
        ({"activation_offloading": True}, "fsdp2", "activation_offloading"),
        ({}, "fsdp2", None),
        ({"method": Half()}, "fsdp2", None),
        ({"method": Qlora(r=2)}, "fsdp2", None),
        ({"objective": {"kind": "dpo"}}, "ddp", None),
        ({"objective": {"kind": "dpo"}, "method": Half()}, "fsdp2", None),
        ({"method": Qlora(r=2)}, "deepspeed", None),
    ],
)
def test_what_processes_cannot_do_together_is_said_at_its_key(changes, strategy, place):
    found = list(stage(**changes).unfit(Launch(processes=2, strategy=strategy)))
    assert [".".join(complaint.path) for complaint in found] == ([place] if place else [])


def test_stage_3_takes_weights_away():
    launch = Launch(processes=2, strategy="deepspeed", zero=3)
    found = [*stage(method=Qlora(r=2)).unfit(launch), *stage(method=Lora(r=2, dora=True)).unfit(launch)]
    instead = "set launch.zero to 2, or use launch.strategy fsdp2"
    assert [complaint.message for complaint in found] == [
        f"'qlora' does not go with zero 3, which would split its 4-bit weights; {instead}",
        f"does not go with zero 3: it asks for whole weights beside the layer's own pass; {instead}",
    ]


def test_processes_are_no_part_of_what_a_stage_makes():
    """A stage's key knows nothing of them, so 1 -> 2 -> 1 goes on."""
    alone, together = stage(), stage(launch={"processes": 2, "strategy": "fsdp2"})
    assert keyed_settings(alone) == keyed_settings(together)


def test_a_stage_says_what_it_does_otherwise_than_the_recipe():
    recipe = Launch(processes=4, strategy="fsdp2")
    assert stage().launched(recipe) == recipe
    assert stage().launched(None).processes == 1
    assert stage(launch={"processes": 1}).launched(recipe) == Launch(processes=1, strategy="fsdp2")
    assert stage(launch={"strategy": "ddp"}).launched(recipe) == Launch(processes=4, strategy="ddp")
    split = Launch(processes=4, strategy="deepspeed", zero=3)
    assert stage(launch={"processes": 2}).launched(split) == Launch(processes=2, strategy="deepspeed", zero=3)
    assert not list(stage(launch={"strategy": "ddp"}).launched(split).conflicts())
