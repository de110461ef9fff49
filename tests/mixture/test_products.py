"""All products give the sum that a loop over the adapters gives, and its gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from adapt.errors import AdaptError
from adapt.mixture.gates import Gates
from adapt.mixture.layer import MixtureLinear
from adapt.mixture.products.choice import PRODUCTS, choose, low_rank_sum
from adapt.mixture.products.few import few
from adapt.mixture.products.grouped import grouped
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors, Stack


def make_stack(ranks, size=(12, 10), trainable=(), seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    inner, outer = size
    factors = {}
    for index, rank in enumerate(ranks):
        a = torch.randn(rank, inner, generator=draw, dtype=torch.float64).to(dtype)
        b = torch.randn(outer, rank, generator=draw, dtype=torch.float64).to(dtype)
        factors[f"a{index}"] = Factors(a, b, 0.5 + index) if rank else None
    return Stack(factors, size, trainable)


def loop(inputs, stack, gates):
    """The reference: every adapter on every token. Differentiable in the stack's parameters."""
    weights = gates.dense(len(stack.names))
    total = torch.zeros(*inputs.shape[:-1], stack.size[1], dtype=inputs.dtype)
    for block in stack.blocks:
        for index, (begin, end) in block.spans.items():
            update = inputs @ block.a[begin:end].T @ block.b[:, begin:end].T
            total = total + weights[..., index : index + 1] * float(stack.scales[index]) * update
    return total


def draw_gates(tokens, count, k, seed, dense):
    draw = torch.Generator().manual_seed(seed)
    if dense:
        return Gates(torch.rand(*tokens, count, generator=draw).double())
    chosen = torch.rand(*tokens, count, generator=draw).topk(k, -1).indices
    return Gates(torch.rand(*tokens, k, generator=draw).double(), chosen)


def gradients(product, stack, inputs, gates):
    inputs = inputs.clone().requires_grad_()
    weights = gates.weights.clone().requires_grad_()
    stack.zero_grad(set_to_none=True)
    output = product(inputs, stack, Gates(weights, gates.chosen))
    if output.requires_grad:
        (output * torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype)).sum().backward()
    return [output.detach(), inputs.grad, weights.grad, *(p.grad for p in stack.parameters())]


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    trains=st.sampled_from(["none", "some", "all"]),
    dense=st.booleans(),
    k=st.integers(1, 6),
    length=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_every_product_is_the_loop(ranks, trains, dense, k, length, seed):
    names = [f"a{index}" for index in range(len(ranks))]
    stack = make_stack(ranks, trainable={"none": [], "some": names[::2], "all": names}[trains], seed=seed)
    gates = draw_gates((2, length), len(ranks), min(k, len(ranks)), seed, dense)
    inputs = torch.randn(2, length, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = gradients(loop, stack, inputs, gates)
    if not dense:
        found = few(inputs, stack, gates)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-6)
    for product in PRODUCTS.values():
        if product is grouped and dense:
            continue
        for value, reference in zip(gradients(product, stack, inputs, gates), expected, strict=True):
            if reference is not None and value is not None:
                torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-6)
            else:  # nothing to differentiate, or no token
                assert all(t is None or not t.any() for t in (value, reference))


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_one_hot_gates_are_that_adapter_and_no_gates_nothing(product):
    stack = make_stack([3, 0, 4, 2])
    inputs = torch.randn(5, 12, dtype=torch.float64)
    for index, name in enumerate(stack.names):
        chosen = torch.full((5, 1), index)
        got = product(inputs, stack, Gates(torch.ones(5, 1).double(), chosen))
        own = stack.factors(name)
        expected = torch.zeros(5, 10).double() if own is None else own.scale * inputs @ own.a.T @ own.b.T
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        assert not product(inputs, stack, Gates(torch.zeros(5, 1).double(), chosen)).any()


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_the_order_of_adapters_does_not_matter(product):
    stack, order = make_stack([3, 1, 4, 2]), [2, 0, 3, 1]
    moved = Stack({stack.names[i]: stack.factors(stack.names[i]) for i in order}, stack.size)
    gates = draw_gates((6,), 4, 2, 0, False)
    inputs = torch.randn(6, 12, dtype=torch.float64)
    back = torch.tensor(order).argsort()
    torch.testing.assert_close(
        product(inputs, moved, Gates(gates.weights, back[gates.chosen])), product(inputs, stack, gates)
    )


def test_constant_gates_are_the_merged_update():
    stack, inputs = make_stack([3, 2, 4]), torch.randn(7, 12, dtype=torch.float64)
    shares = torch.tensor([0.2, 0.5, 0.3]).double()
    merged = sum(
        share * own.scale * own.b @ own.a for share, own in zip(shares, map(stack.factors, stack.names), strict=True)
    )
    torch.testing.assert_close(low_rank_sum(inputs, stack, Gates(shares.expand(7, 3))), inputs @ merged.T)


def test_one_hot_and_constant_gates_are_peft_s_adapters():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"linear": torch.nn.Linear(12, 10)})
    net.forward = lambda x: net["linear"](x)
    names, ranks, shares = ("default", "second"), (3, 5), (0.3, 0.7)
    configs = [LoraConfig(r=rank, lora_alpha=8, target_modules=["linear"], init_lora_weights=False) for rank in ranks]
    peft = get_peft_model(net, configs[0])
    peft.add_adapter(names[1], configs[1])
    peft.add_weighted_adapter(list(names), list(shares), "sum", combination_type="cat")
    layer = peft.base_model.model["linear"]
    factors = {n: Factors(layer.lora_A[n].weight, layer.lora_B[n].weight, layer.scaling[n]) for n in names}
    stack, inputs = Stack(factors, (12, 10)), torch.randn(6, 12)
    gates = {name: Gates(torch.ones(6, 1), torch.full((6, 1), index)) for index, name in enumerate(names)}
    gates["sum"] = Gates(torch.tensor(shares).expand(6, 2), torch.tensor([0, 1]).expand(6, 2))
    for name, own in gates.items():
        peft.set_adapter(name)
        for product in PRODUCTS.values():
            got = layer.base_layer(inputs) + product(inputs, stack, own)
            torch.testing.assert_close(got, layer(inputs), rtol=1e-5, atol=1e-5)


def test_the_choice_follows_shapes():
    assert choose(4096, (16,) * 28, 2, 1024, 1024, "cpu") == "grouped"
    assert choose(4096, (16,) * 28, None, 1024, 1024, "cpu") == "concat"
    assert choose(4096, (16,) * 28, 2, 1024, 1024, "cuda") == "concat"
    assert choose(4096, (8,) * 2, 2, 1024, 1024, "cpu") == "concat"
    assert choose(64, (4,) * 28, 2, 64, 64, "cpu") == "concat"
    assert choose(1, (16,) * 28, 2, 1024, 1024, "cpu") == "concat"
    assert choose(1, (16,) * 28, 2, 1024, 1024, "cpu", learning=False) == "few"
    assert choose(4096, (16,) * 28, 2, 1024, 1024, "cpu", learning=False) == "grouped"


def test_many_rows_are_sorted_in_pieces(monkeypatch):
    stack, gates = make_stack([3, 0, 4, 2, 1], trainable=["a0", "a3"]), draw_gates((40,), 5, 2, 1, False)
    inputs = torch.randn(40, 12, dtype=torch.float64)
    whole = gradients(grouped, stack, inputs, gates)
    monkeypatch.setattr("adapt.mixture.products.grouped._AT_ONCE", 16)
    for one, other in zip(gradients(grouped, stack, inputs, gates), whole, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-9)


class Fixed(Router):
    """Gates from a weight: top-2 of a linear score."""

    def __init__(self, inner, count):
        super().__init__()
        self.count, self.score = count, torch.nn.Linear(inner, count, bias=False)

    def forward(self, inputs, routing):
        with torch.autocast(inputs.device.type, enabled=False):
            weights, chosen = self.score(inputs.float()).topk(2, -1)
            return Gates(weights.softmax(-1), chosen)


def make_layer(base=None, size=(12, 10), ranks=(3, 0, 4, 2), trainable=("a0", "a3"), dropout=0.0):
    torch.manual_seed(0)
    stack = make_stack(ranks, size, trainable, dtype=torch.float32)
    base = base or torch.nn.Linear(*size)
    return MixtureLinear(base.requires_grad_(False), stack, Fixed(size[0], len(ranks)), Routing(), dropout)


def test_only_named_adapters_train():
    layer = make_layer()
    before = {name: layer.stack.factors(name) for name in ("a0", "a2", "a3")}
    before = {name: (own.a.clone(), own.b.clone()) for name, own in before.items()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(2, 30, 12)).square().sum().backward()
        optimizer.step()
    for name, (a, b) in before.items():
        own = layer.stack.factors(name)
        assert torch.equal(own.a, a) is torch.equal(own.b, b) is (name == "a2")


def test_a_stack_that_trains_whole_or_not_is_not_copied():
    for trainable in ((), ("a0", "a1")):
        stack = make_stack([2, 3], trainable=trainable)
        assert stack.a is stack.blocks[0].a
        assert stack.a.requires_grad is bool(trainable)


def test_autocast_and_mixed_types():
    layer, inputs = make_layer(), torch.randn(2, 6, 12)
    exact = layer(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(inputs)
        rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    assert layer.stack.trained.a.grad.dtype == torch.float32
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.15)
    layer.base.to(torch.bfloat16)
    mixed = layer(inputs.bfloat16())
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0.05, atol=0.15)


def test_scales_keep_their_digits_when_the_model_is_cast():
    layer = make_layer()
    layer.stack = Stack({"a": Factors(torch.ones(1, 12), torch.ones(10, 1), 1 / 3)}, (12, 10))
    assert layer.bfloat16().stack.scales.item() == pytest.approx(1 / 3, abs=1e-8)


def test_checkpointing_inference_copies_and_state():
    layer = make_layer(dropout=0.3)
    inputs = torch.randn(2, 6, 12, requires_grad=True)
    results = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(3)
        layer.zero_grad()
        inputs.grad = None
        run(inputs).square().sum().backward()
        results.append([inputs.grad.clone(), *(p.grad.clone() for p in layer.parameters() if p.requires_grad)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    layer.eval()
    twin, other = copy.deepcopy(layer), make_layer()
    other.load_state_dict(layer.state_dict())
    with torch.inference_mode():
        for again in (twin, other.eval()):
            assert torch.equal(again(inputs), layer(inputs))


def test_over_a_base_in_four_bits():
    bnb = pytest.importorskip("bitsandbytes")
    plain = torch.nn.Linear(64, 64)
    base = bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4")
    base.load_state_dict(plain.state_dict())
    layer = make_layer(base.to("cpu"), (64, 64), (4, 8, 2), ("a0", "a1", "a2")).to("cpu")
    inputs = torch.randn(2, 9, 64, requires_grad=True)
    gates = layer.router(inputs, Routing())
    torch.testing.assert_close(layer(inputs), base(inputs) + loop(inputs, layer.stack, gates), rtol=1e-4, atol=1e-4)
    layer(inputs).sum().backward()
    assert layer.stack.trained.a.grad.any()
    assert layer.router.score.weight.grad.any()


def test_adapters_come_and_go():
    stack = make_stack([3, 2], trainable=["a1"])
    new = Factors(torch.ones(1, 12).double(), torch.ones(10, 1).double(), 2.0)
    more = stack.add("new", new, train=True)
    assert more.names == ("a0", "a1", "new")
    assert more.ranks == (3, 2, 1)
    assert more.trainable == {"a1", "new"}
    less = more.without("a0")
    assert less.names == ("a1", "new")
    assert less.frozen is None
    for name in less.names:
        assert torch.equal(less.factors(name).a, more.factors(name).a)
    assert make_stack([0, 0]).blocks == ()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.add("a0", None), "the mixture already has an adapter 'a0'; give the new one another name"),
        (lambda s: s.without("b"), "the mixture has no adapter 'b'; it has a0, a1"),
        (
            lambda s: s.add("b", Factors(torch.ones(1, 7), torch.ones(10, 1), 1.0)),
            "the adapter 'b' has factors [10, 1] x [1, 7], which is no update of a layer with 12 inputs and 10 "
            "outputs; it was trained over another model",
        ),
        (lambda s: Stack({"a": None}, (2, 2), ["x"]), "no adapter 'x' to train; there are a"),
    ],
)
def test_bad_stacks_say_so(act, message):
    with pytest.raises(AdaptError) as error:
        act(make_stack([1, 2]))
    assert str(error.value) == message
