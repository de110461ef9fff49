"""What holds of every initialisation in the table (methods F: A-10, A-13, A-20, A-21, A-24)."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from pydantic import TypeAdapter

from adapt.vocabulary.initialisation import INITIALISATIONS, AnyInitialisation
from tests.conftest import ENGLISH
from tests.vocabulary.initialisation.grown import CONVEX, SEEDLESS, case, settings

NAMES = [
    "mean",
    "mean with noise",
    "random",
    "random with std",
    "gaussian",
    *CONVEX[1:],
    "last_first",
    "omp",
    "auto",
    "distil",
]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Of a method's name, whether it is tied, and the seed: the grown model, its report and the new rows by side."""
    known = settings(tmp_path_factory.mktemp("files"))
    assert set(known) == set(NAMES)

    @cache
    def make(name: str, tied: bool, seed: int = 0):
        init = TypeAdapter(AnyInitialisation).validate_python(known[name])
        model, report = case().grow(init, tied, seed)
        weights = [module.weight.detach() for module in (model.get_input_embeddings(), model.get_output_embeddings())]
        return model, report, [weight[case().ids] for weight in weights]

    make.settings = known
    return make


def test_every_method_of_the_table_is_tested_here(grown):
    tested = {TypeAdapter(AnyInitialisation).validate_python(value).method for value in grown.settings.values()}
    assert tested == {kind.model_fields["method"].default for kind in INITIALISATIONS}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_new_rows_change(grown, name, tied):
    model, report, rows = grown(name, tied)
    before = case().model(tied)
    sides = ("get_input_embeddings", "get_output_embeddings")
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert set(report) >= ({"tied"} if tied else {"input", "output"})
    old = [row for row in range(case().height) if row not in set(case().ids)]
    assert len(old) < case().height, "some of the new pieces stand on rows that were padding"
    for side, new in zip(sides, rows, strict=True):
        was, now = getattr(before, side)().weight, getattr(model, side)().weight
        assert torch.equal(now[old], was[old])
        assert new.isfinite().all()
        assert (new.norm(dim=1) > 0).all()
    state = {name: value for name, value in model.state_dict().items() if "embed" not in name and "lm_head" not in name}
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", NAMES)
def test_norms_are_not_above_those_of_old_rows(grown, name, tied):
    for norms in (value for key, value in grown(name, tied)[1].items() if key in ("tied", "input", "output")):
        if name in CONVEX or name == "random":
            assert norms["new_norm_max"] <= norms["old_norm_max"] * (1 + 1e-5)
        elif name != "last_first":  # whose prior goes along a direction of any length
            assert norms["new_norm_max"] <= norms["old_norm_max"] * 1.5, "not another scale, either"
        if name == "random":
            assert norms["new_norm_min"] >= norms["old_norm_min"] * (1 - 1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", CONVEX)
def test_convex_methods_never_change_greedy_output(grown, name, tied):
    """`min z <= z_new <= max z` for every hidden state, over the old rows: a tie with a copied row at most."""
    model, _, rows = grown(name, tied)
    weight = model.get_output_embeddings().weight.detach()
    hidden = torch.randn(200, weight.shape[1], generator=torch.Generator().manual_seed(1))
    old, new = hidden @ weight[case().ordinary].T, hidden @ rows[1].T
    assert (new.max(1).values <= old.max(1).values + 1e-4).all()
    assert (new.min(1).values >= old.min(1).values - 1e-4).all()
    ids = torch.tensor([case().old(ENGLISH[2], add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        before, after = case().model(tied)(input_ids=ids).logits, model(input_ids=ids).logits
    assert torch.allclose(after[..., : len(case().old)], before[..., : len(case().old)], atol=1e-4)
    best = before[..., : len(case().old)].max(-1).values
    assert (after[..., case().ids].max(-1).values <= best + 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_in_the_seed(grown, name):
    first = grown(name, False)[2]
    grown.cache_clear()
    again, other = grown(name, False)[2], grown(name, False, 1)[2]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    same = all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert same == (name in SEEDLESS)


@pytest.mark.parametrize("name", NAMES)
def test_each_side_comes_from_its_own_matrix(grown, name):
    rows = grown(name, False)[2]
    assert not torch.allclose(rows[0], rows[1], atol=1e-2)
