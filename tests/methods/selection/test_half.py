"""Half fine-tuning in real runs: what moves, what does not, what is computed, what is written."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.methods.full import Full
from adapt.methods.half import Every, Half
from adapt.methods.selection.plan import digest
from adapt.training.optimizer import Optimizer
from adapt.training.precision import Precision
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.training.workshop import equal, finished, is_number, make_run, weights

CPU = Precision(torch.device("cpu"), False)
BF16 = Precision(torch.device("cpu"), True)


def everything(run) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


@pytest.fixture(scope="module")
def bf16_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "bf16"
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer), tied=True).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", [CPU, BF16], ids=["fp32", "bf16"])
def test_ratio_one_is_full_fine_tuning_bit_for_bit(precision, tmp_path, tiny_model_folder):
    runs = []
    for name, method in (("full", Full()), ("half", Half(ratio=1))):
        run = make_run(tiny_model_folder, tmp_path / name, method, precision=precision, accumulation=2)
        run.execute()
        runs.append(weights(run))
    assert equal(*runs)


def test_ratio_zero_is_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        Half(ratio=0)


@pytest.mark.parametrize("precision", [CPU, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("frozen", ["plain", "nf4"])
def test_the_frozen_half_stays_bit_for_bit_under_weight_decay(frozen, precision, tmp_path, bf16_folder):
    method = Half(frozen=frozen)
    optimizer = Optimizer(weight_decay=0.1)
    run = make_run(bf16_folder, tmp_path, method, precision=precision, optimizer=optimizer, steps=8)
    before = everything(run)
    numbers = run.execute()
    names = set(numbers["selection"]["trained"])
    for name, tensor in everything(run).items():
        moves = name in names or "embed" in name
        assert torch.equal(tensor, before[name]) != moves, name
        assert tensor.dtype == torch.float32 or not moves
    saved = method.save(finished(run, bf16_folder), tmp_path)
    old, new = (load_file(folder / "model.safetensors") for folder in (bf16_folder, tmp_path / "model"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name for name in names if "norm" not in name} <= changed <= names | {"model.embed_tokens.weight"}
    record = json.loads((tmp_path / "model" / "adapt_selection.json").read_text())
    assert record == {"rounds": 1, "trained": sorted(names), "digest": digest(names)}
    assert is_number(saved["reload_difference"])


def test_the_optimiser_holds_the_trained_half_only(tmp_path, tiny_model_folder):
    sizes = {}
    for name, method in (("full", Full()), ("half", Half(granularity="parameters", train_embeddings="frozen"))):
        run = make_run(tiny_model_folder, tmp_path / name, method, steps=2)
        numbers = run.execute()
        state = load_file(tmp_path / name / "checkpoints" / "checkpoint-2" / "optimizer.safetensors")
        sizes[name] = sum(tensor.numel() for path, tensor in state.items() if path.endswith("exp_avg"))
        assert sizes[name] == numbers["trainable"]["parameters"] + (6 * 2 * 64 if name == "full" else 0)
    assert numbers["trainable"]["blocks_share"] == pytest.approx(0.5, abs=0.01)
    assert sizes["half"] < 0.4 * sizes["full"]


class Products(TorchDispatchMode):
    """Counts matrix products by the shape of their result."""

    def __init__(self):
        super().__init__()
        self.shapes: Counter = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.shapes[tuple(result.shape)] += 1
        return result


@pytest.mark.parametrize("frozen", ["plain", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_weight_gradient_of_a_frozen_matrix_is_not_computed(frozen, checkpointing, tmp_path, tiny_model_folder):
    """A gradient of a weight `[out, in]` is a product of that shape, and nothing else in the model has one."""
    found = {}
    for name, method in (("full", Full(train_embeddings="frozen")), ("half", Half(frozen=frozen))):
        run = make_run(tiny_model_folder, tmp_path / name, method)
        if checkpointing:
            run.model.gradient_checkpointing_enable({"use_reentrant": False})
        ids = torch.arange(7, 28).unsqueeze(0)
        with Products() as products:
            run.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found[name] = products.shapes
        names = {n for n, p in run.model.named_parameters() if p.requires_grad}
        for shape, kinds in {(128, 64): ("gate", "up"), (64, 128): ("down",), (32, 64): ("k_", "v_")}.items():
            expected = sum(any(kind in n for kind in kinds) for n in names if "proj" in n)
            assert products.shapes[shape] == expected, (name, shape)
    assert sum(found["full"].values()) > sum(found["half"].values())


def test_the_next_stage_draws_anew_and_the_same_stage_does_not(tmp_path, tiny_model_folder):
    method = Half(train_embeddings="frozen")
    first, again = (make_run(tiny_model_folder, tmp_path / name, method, steps=2) for name in "ab")
    first.execute()
    method.save(finished(first, tiny_model_folder), tmp_path / "a")
    second = make_run(tmp_path / "a" / "model", tmp_path / "c", method, steps=2)
    names = [set(weights(run)) for run in (first, again, second)]
    assert names[0] == names[1] != names[2]
    assert second.model.adapt_selection.round == 1
    told = second.execute()["selection"]
    assert told["round"] == 1
    assert told["trained"] == sorted(names[2])
    method.save(finished(second, tmp_path / "a" / "model"), tmp_path / "c")
    assert json.loads((tmp_path / "c" / "model" / "adapt_selection.json").read_text())["rounds"] == 2


def test_what_the_exchange_of_the_matrices_costs_is_measured(tmp_path, tiny_model_folder):
    from bitsandbytes.nn import Linear4bit

    method = Half(frozen="nf4")
    run = make_run(tiny_model_folder, tmp_path, method, steps=10)
    held = {name for name, module in run.model.named_modules() if isinstance(module, Linear4bit)}
    assert len(held) == 7
    assert not {f"{name}.weight" for name in held} & set(weights(run))
    run.execute()
    told = method.save(finished(run, tiny_model_folder), tmp_path)["exchange"]
    assert told["written"] == "original"
    assert (told["matrices_in_nf4"], told["matrices"]) == (7, 14)
    assert told["dequantised"]["kl"] < told["original"]["kl"] < 0.1
    assert told["dequantised"]["top1_agreement"] >= told["original"]["top1_agreement"] - 0.05
    assert told["dequantised"]["bits_per_byte"] == pytest.approx(told["live"]["bits_per_byte"], rel=1e-3)
    old, new = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, tmp_path / "model"))
    assert all(torch.equal(old[f"{name}.weight"], new[f"{name}.weight"]) for name in held)


def test_a_model_without_linear_layers_cannot_be_held_in_four_bits(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer(ENGLISH)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    run = make_run(tmp_path / "gpt2", tmp_path / "plain", Half(), steps=2)
    assert run.execute()["changed_tensors_ok"]
    with pytest.raises(AdaptError, match=r"frozen: nf4 finds no frozen linear layer.*set frozen to plain"):
        make_run(tmp_path / "gpt2", tmp_path / "nf4", Half(frozen="nf4"))


def test_experts_train_as_one_tensor(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = make_tokenizer(ENGLISH)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "num_local_experts": 4, "pad_token_id": 1}
    MixtralForCausalLM(MixtralConfig(**size, **more)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    method = Half(frozen="nf4")
    run = make_run(tmp_path / "base", tmp_path, method, steps=2)
    told = run.execute()["selection"]
    experts = [name for name in told["trained"] if ".experts." in name]
    assert len(experts) == 2
    assert told["turns"][0]["shares"]["feed_forward"] > 0
    assert method.save(finished(run, tmp_path / "base"), tmp_path)["exchange"]["matrices_in_nf4"] == 4


def test_settings_that_do_not_go_together():
    assert [key for key, _ in Half(frozen="nf4", reselect=Every(every=3)).conflicts()] == ["frozen"]
    assert [key for key, _ in Half(frozen="nf4", ratio=1).conflicts()] == ["frozen"]
    assert not list(Half(frozen="nf4").conflicts())


def test_the_location_of_a_base_without_a_record_is_round_zero(tiny_model_folder):
    from adapt.methods.selection.plan import rounds_before

    assert rounds_before(ModelLocation(str(tiny_model_folder))) == 0
    assert rounds_before(ModelLocation("some/where")) == 0
