"""Rows of one batch with adapters of their own: equal to each adapter alone, and bounded in memory."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adapt.errors import AdaptError
from adapt.mixture.many import Layout, ManyAdapters
from adapt.mixture.pool import Pool
from adapt.mixture.stack import Factors

SHAPES = {
    "all": (4, None),
    "few": (2, ["q_proj", "down_proj"]),
    "wide": (7, ["v_proj", "up_proj"]),
    "two": (4, ["o_proj"]),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def small_llama(seed=0, width=32):
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and adapters of several ranks and targets over it, as folders."""
    folder = tmp_path_factory.mktemp("many")
    small_llama().save_pretrained(folder / "base")
    for index, (name, (rank, targets)) in enumerate(SHAPES.items()):
        model = LlamaForCausalLM.from_pretrained(folder / "base")
        torch.manual_seed(index)
        config = LoraConfig(r=rank, lora_alpha=5, target_modules=targets or ALL, use_rslora=index == 2)
        model = get_peft_model(model, config)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture
def many(place):
    made = ManyAdapters(LlamaForCausalLM.from_pretrained(place / "base").eval(), budget=1 << 20)
    for name in SHAPES:
        made.register(name, place / name)
    return made


def alone(place, name, **batch):
    model = LlamaForCausalLM.from_pretrained(place / "base").eval()
    model = PeftModel.from_pretrained(model, place / name).eval() if name else model
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize(
    "names",
    [["all"], ["all", "few", "wide", None], ["few", "few", "all", "few", "wide", "few", None], ["two", "two"], [None]],
    ids=str,
)
def test_each_row_is_its_adapter_alone(many, place, names):
    ids = torch.randint(1, 64, (len(names), 6), generator=torch.Generator().manual_seed(1))
    with many.using(names), torch.inference_mode():
        got = many.model(input_ids=ids).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(got[row], alone(place, name, input_ids=ids[row : row + 1])[0], rtol=1e-4, atol=1e-5)


def test_a_batch_outside_and_after_closing_is_the_base(many, place):
    ids = torch.arange(1, 9).view(1, 8)
    base = alone(place, None, input_ids=ids)
    with torch.inference_mode():
        assert torch.equal(many.model(input_ids=ids).logits, base)
        with many.using(["all"]):
            assert not torch.allclose(many.model(input_ids=ids).logits, base)
        many.close()
        assert torch.equal(many.model(input_ids=ids).logits, base)
    assert many.names == ()
    assert many.pool.bytes == 0


def test_generation_with_a_cache_padding_and_beams(many):
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5], [0, 3, 1, 4, 1]])
    names = ["all", "wide", "all"]
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "max_new_tokens": 5, "do_sample": False}
    for beams in (1, 2):
        with many.using(names):
            got = many.model.generate(**batch, num_beams=beams)
            slow = many.model.generate(**batch, num_beams=beams, use_cache=False)
        assert torch.equal(got, slow)
        for row, name in enumerate(names):
            own = ids[row][ids[row] > 0].unsqueeze(0)
            with many.using([name]):
                single = many.model.generate(own, max_new_tokens=5, do_sample=False, num_beams=beams)
            assert torch.equal(single[0, -5:], got[row, -5:])


def test_the_pool_keeps_what_was_used_last_within_its_budget(many):
    sizes = {name: sum(r * (i + o) * 4 for r, i, o in many._sizes[name].values()) for name in SHAPES}
    many.pool.budget = sizes["few"] * 2 + sizes["two"]
    for name in ("two", "few", "two"):
        with many.using([name]):
            assert many.pool.bytes <= many.pool.budget
    loads = many.pool.loads
    with many.using(["two"]):
        pass
    assert many.pool.loads == loads  # held
    with many.using(["few"]):
        assert many.pool.bytes <= sizes["few"] + sizes["two"]
    with pytest.raises(AdaptError, match=r"take 0\.0\d* MB|take \d+\.\d MB, more than the budget"), many.using(["all"]):
        pass


def test_eviction_is_by_last_use():
    made = {name: {"m": Factors(torch.ones(1, 4), torch.ones(4, 1), 1.0)} for name in "abc"}  # 32 bytes each
    pool = Pool(made.__getitem__, 64)
    for name in ("a", "b", "a", "c"):
        pool.get(name)
    assert ["a" in pool, "b" in pool, "c" in pool] == [True, False, True]
    assert pool.bytes == 64
    pool.get("a", room=32)
    assert "c" not in pool
    assert pool.bytes == 32
    assert pool.loads == 3
    pool.get("b", room=8)
    assert pool.bytes == 0


@pytest.mark.parametrize(
    "names", [["a"] * 100 + ["b"], ["a", "b", "a", "b"], list("abcdefg"), [None, "a", None, "a", "b"]]
)
def test_a_layout_holds_every_row_once_and_little_else(names):
    layout = Layout.of(names, torch.device("cpu"))
    source = layout.source if layout.source is not None else torch.arange(len(names))
    place = layout.place if layout.place is not None else torch.arange(len(names))
    assert [layout.lines[p // layout.height] for p in place.tolist()] == names
    assert source[place].tolist() == list(range(len(names)))
    assert len(source) <= 2 * len(names) + len(set(names))


def test_another_type_and_registering_again(place):
    model = LlamaForCausalLM.from_pretrained(place / "base", dtype=torch.bfloat16).eval()
    many = ManyAdapters(model, 1 << 20)
    many.register("all", place / "all")
    ids = torch.arange(1, 9).view(1, 8)
    with many.using(["all"]), torch.inference_mode():
        got = model(input_ids=ids).logits
    torch.testing.assert_close(got.float(), alone(place, "all", input_ids=ids), rtol=0.1, atol=0.15)
    many.unregister("all")
    many.register("all", place / "few")
    assert many.names == ("all",)


def test_bad_use_says_so(many, place, tmp_path):
    ids = torch.ones(3, 4, dtype=torch.long)
    cases = {
        "no adapter 'x' is registered; 4 are": lambda: many.using(["all", "x"]).__enter__(),
        f"an adapter 'all' is registered already, from '{place / 'all'}'": lambda: many.register("all", place / "few"),
        "name one adapter per row of the batch, or None for the base alone": lambda: many.using([]).__enter__(),
    }
    for message, act in cases.items():
        with pytest.raises(AdaptError) as error:
            act()
        assert str(error.value) == message
    with many.using(["two", None]):
        with pytest.raises(AdaptError, match=r"input of shape \[3, 4, 32\], but `using` named adapters for 2 rows"):
            many.model(input_ids=ids)
        with pytest.raises(AdaptError, match="a batch with adapters is at work already"), many.using(["two"]):
            pass


def test_adapters_of_another_model_are_refused(many, place, tmp_path):
    small_llama(seed=1).save_pretrained(tmp_path / "other")
    for name, change in {"elsewhere": "other base", "shaped": "other shape"}.items():
        target = tmp_path / name
        target.mkdir()
        config = (place / "few" / "adapter_config.json").read_text()
        tensors = load_file(place / "few" / "adapter_model.safetensors")
        if change == "other base":
            config = config.replace(str(place / "base"), str(tmp_path / "other"))
        else:
            tensors = {key: t[..., :-1].contiguous() if "lora_A" in key else t for key, t in tensors.items()}
        (target / "adapter_config.json").write_text(config)
        save_file(tensors, target / "adapter_model.safetensors")
        with pytest.raises(AdaptError) as error:
            many.register(name, target)
        assert "another base" in str(error.value)
        assert "\n" not in str(error.value)
        assert name not in many.names
