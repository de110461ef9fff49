"""Schedules: ends, continuity, and that a longer constant phase changes no earlier rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from adapt.training.schedules import SCHEDULES, AnySchedule
from adapt.training.schedules.constant import Constant
from adapt.training.schedules.infinite import Infinite
from adapt.training.schedules.linear import Linear
from adapt.training.schedules.rewarm_cosine import RewarmCosine
from adapt.training.schedules.wsd import Wsd

SHARES = st.floats(0, 0.5)
ANY = st.one_of(
    st.builds(RewarmCosine, warmup=SHARES, floor=SHARES),
    st.builds(Linear, warmup=SHARES, floor=SHARES),
    st.builds(Constant, warmup=SHARES),
    st.builds(
        Wsd, warmup=SHARES, decay=SHARES, floor=SHARES, shape=st.sampled_from(["linear", "cosine", "one_minus_sqrt"])
    ),
    st.builds(
        Infinite,
        warmup=st.integers(0, 50),
        cooldown=st.integers(1, 50),
        anneal=st.integers(0, 50),
        constant=st.floats(0.1, 1),
        floor=st.floats(0.001, 0.1),
        shape=st.sampled_from(["cosine", "inverse_sqrt"]),
    ),
)


@given(ANY, st.integers(200, 2000))
def test_rates_lie_between_0_and_the_peak(schedule, total):
    assert all(0 <= schedule.multiplier(step, total) <= 1 + 1e-12 for step in range(0, total + 1, 7))
    assert all(schedule.rate(update, total) > 0 for update in (0, 1, total // 2, total - 1))


@given(ANY, st.integers(200, 2000), st.floats(0, 1))
def test_rates_are_continuous(schedule, total, place):
    """No jump but at a warm-up of no length; the steepest legal slope is the root's at the start of a decay."""
    step = place * total
    if step > 1e-6:
        assert abs(schedule.multiplier(step, total) - schedule.multiplier(step + 1e-9 * total, total)) < 1e-3


@given(ANY, st.integers(200, 2000))
def test_warm_up_begins_at_0_and_reaches_the_peak(schedule, total):
    warm = schedule.warmup if isinstance(schedule, Infinite) else schedule.warmup * total
    if warm > 1e-9:
        assert schedule.multiplier(0, total) == 0
    if warm < total / 2:
        assert schedule.multiplier(warm, total) == pytest.approx(1, abs=1e-6)


@given(
    st.one_of(*[st.builds(kind, floor=st.floats(0.01, 0.4)) for kind in (RewarmCosine, Linear, Wsd)]),
    st.integers(50, 900),
)
def test_the_end_is_the_floor(schedule, total):
    assert schedule.multiplier(total, total) == pytest.approx(schedule.floor)


def test_infinite_has_its_four_phases():
    schedule = Infinite(warmup=10, cooldown=20, anneal=10, constant=0.4, floor=0.02)
    assert schedule.multiplier(10, 100) == 1
    assert [schedule.multiplier(step, 100) for step in (30, 50, 90)] == [0.4] * 3
    assert schedule.multiplier(95, 100) == pytest.approx((0.4 * 0.02) ** 0.5)
    assert schedule.multiplier(100, 100) == pytest.approx(0.02)
    assert schedule.anneal_begin(100) == 90


@given(st.integers(60, 500), st.integers(1, 500), st.sampled_from(["cosine", "inverse_sqrt"]))
def test_a_longer_constant_phase_changes_no_earlier_rate(total, more, shape):
    schedule = Infinite(warmup=10, cooldown=30, anneal=15, shape=shape)
    for update in range(schedule.anneal_begin(total)):
        assert schedule.rate(update, total) == schedule.rate(update, total + more)


def test_reference_values():
    assert RewarmCosine(warmup=0, floor=0).multiplier(50, 100) == pytest.approx(0.5)
    assert Linear(warmup=0.1, floor=0).multiplier(55, 100) == pytest.approx(0.5)
    assert Wsd(warmup=0, decay=0.4, shape="one_minus_sqrt").multiplier(70, 100) == pytest.approx(0.5)
    cool = Infinite(warmup=0, cooldown=10, shape="inverse_sqrt", constant=0.5, steepness=3)
    assert cool.multiplier(5, 999) == pytest.approx(1 - 0.5 * (1 - 2.5**-0.5) / 0.5)


def test_every_schedule_has_a_name_and_a_short_form():
    adapter = TypeAdapter(AnySchedule)
    for kind in SCHEDULES:
        name = kind.model_fields["kind"].default
        assert adapter.validate_python(name) == adapter.validate_python({"kind": name}) == kind()
    with pytest.raises(ValidationError, match="rewarm_cosine"):
        adapter.validate_python("cosine")
