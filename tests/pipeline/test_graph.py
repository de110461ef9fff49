"""The order of stages, and what depends on what."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import Count, Score, make_graph, three_stages

from adapt.errors import AdaptError


def graph_of(reads: dict[str, tuple[str, ...]]):
    return make_graph(Path(), {name: Score(models=models) for name, models in reads.items()})


@st.composite
def acyclic(draw):
    """Stages in any order of the file, each reading some of those that come before it in a hidden order."""
    count = draw(st.integers(1, 8))
    reads = {f"s{index}": tuple(f"s{other}" for other in range(index) if draw(st.booleans())) for index in range(count)}
    names = draw(st.permutations(sorted(reads)))
    return {name: reads[name] for name in names}


@given(acyclic())
def test_every_stage_comes_after_what_it_reads(reads):
    order = graph_of(reads).order()
    assert sorted(order) == sorted(reads)
    assert all(order.index(read) < order.index(name) for name in reads for read in reads[name])


@given(acyclic())
def test_an_order_that_already_fits_is_kept(reads):
    order = graph_of(reads).order()
    assert graph_of({name: reads[name] for name in order}).order() == order


@given(acyclic(), st.data())
def test_until_runs_exactly_what_the_stage_needs(reads, data):
    graph = graph_of(reads)
    name = data.draw(st.sampled_from(sorted(reads)))
    assert set(graph.order(until=name)) == graph.upstream(name) | {name}
    assert graph.order(until=name)[-1] == name
    assert all(name in graph.upstream(reader) for reader in graph.downstream([name]))


def test_a_circle_is_one_error():
    with pytest.raises(AdaptError, match="read each other in a circle: a, b"):
        graph_of({"a": ("b",), "b": ("a",), "c": ()}).order()


def test_an_unknown_stage_is_answered_with_the_nearest():
    with pytest.raises(AdaptError, match="no stage 'steped'; did you mean 'stepped'"):
        make_graph(Path(), three_stages()).order(until="steped")


def test_names_that_nothing_has_are_errors():
    with pytest.raises(AdaptError, match="stage 'a' reads 'b', but there is no model or stage"):
        graph_of({"a": ("b",)}).input_models("a")
    with pytest.raises(AdaptError, match="stage 'a' reads 'nothing', but there is no source"):
        make_graph(Path(), {"a": Count(corpus="nothing")}).input_sources("a")
