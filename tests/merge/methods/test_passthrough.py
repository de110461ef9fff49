from __future__ import annotations

import pytest
import torch

from merge.methods.passthrough import Passthrough
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, merged, strangers


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_mergekit(shape):
    models = strangers(shape, 1)
    assert torch.equal(merged(Passthrough(), models), models[0])
    assert_as_mergekit(Passthrough(), models, scale=[-0.3])


def test_a_factor_of_zero():
    assert not merged(Passthrough(), strangers((3, 4), 1), scale=0.0).any()
