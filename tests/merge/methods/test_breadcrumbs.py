"""Model Breadcrumbs against mergekit, alone and with elected signs."""

from __future__ import annotations

import pytest
import torch

from merge.methods.breadcrumbs import Breadcrumbs, band
from merge.methods.breadcrumbs_ties import BreadcrumbsTies
from merge.methods.trimming import Counts
from tests.merge.methods.thinning import assert_close, family, ours, same_bits, theirs


@pytest.mark.parametrize("method", [Breadcrumbs, BreadcrumbsTies])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    ("density", "gamma"), [(0.5, 0.01), (0.9, 0.3), (0.2, 0.0), (0.0, 0.1), (1.0, 0.5), (1e-9, 0.01), (0.3, 1.0)]
)
def test_as_mergekit(method, rescale, density, gamma):
    models, base = family()
    given = {"weight": [1.0, 0.5, -0.3], "density": [density, 0.4, 1.0], "gamma": gamma, "rescale": rescale}
    assert_close(same_bits(method, models, base, **given), theirs(method, models, base, **given))


@pytest.mark.parametrize("method", [Breadcrumbs, BreadcrumbsTies])
def test_as_mergekit_normalised_and_scaled(method):
    models, base = family(2, (300,))
    given = {"weight": [1.0, 0.5], "density": 0.5, "gamma": 0.1, "normalize": True, "lambda": -1.5}
    assert_close(same_bits(method, models, base, **given), theirs(method, models, base, **given))


def test_weights_that_sum_to_nothing_are_not_divided_by():
    models, base = family(2)
    given = {"weight": [1.0, -1.0], "normalize": True}
    result = ours(Breadcrumbs, models, base, **given)
    assert_close(result, base + (models[0] - models[1]))
    assert_close(result, theirs(Breadcrumbs, models, base, **given))


def test_the_largest_and_the_smallest_go():
    base = torch.zeros(10)
    model = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10])
    result = ours(Breadcrumbs, [model], base, density=0.5, gamma=0.2)
    assert result.tolist() == [0, 0, 0, -4, 5, -6, 7, -8, 0, 0]


def test_of_equal_magnitudes_as_many_stay_as_of_others():
    result = same_bits(Breadcrumbs, [torch.ones(8, 25)], torch.zeros(8, 25), density=0.3, gamma=0.1)
    assert int(result.sum()) == 60


def test_how_many_are_kept_and_dropped():
    assert band(0.5, 0.01, 1000) == Counts(10, 500)
    assert band(0.9, 0.3, 1000) == Counts(100, 900)
    assert band(1.0, 0.3, 1000) is None
