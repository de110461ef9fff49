"""Small adapters as peft writes them, of different ranks and targets, over the tests' tiny model."""

from __future__ import annotations

from pathlib import Path

import torch

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base

KINDS = {
    "dates": {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "numbers": {"r": 2, "target_modules": ["q_proj", "k_proj", "gate_proj"], "use_rslora": True},
    "places": {"r": 3, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 6}},
}


def write_adapter(base: Path, folder: Path, seed: int, **settings) -> Path:
    """A LoRA whose B is not zero, saved by peft."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(load_model(ModelLocation(str(base))), LoraConfig(lora_alpha=8, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def write_adapters(base: Path, folder: Path) -> dict[str, Path]:
    return {
        name: write_adapter(base, folder / name, seed, **kind) for seed, (name, kind) in enumerate(KINDS.items(), 1)
    }


def mixed(base: Path, adapters, router=None, seed: int = 0, **settings):
    """The base with a mixture in it. Gates that learn are drawn at random, so that they choose."""
    from adapt.mixture.mixture import routers_of

    location = ModelLocation(str(base))
    model, tokenizer = load_model(location), load_tokenizer(location)
    torch.manual_seed(seed)
    mixture_of(model, adapters, router, base=Base.of(location), tokenizer=tokenizer, **settings)
    with torch.no_grad():
        for gate in routers_of(model).values():
            for tensor in gate.state_dict().values():
                tensor.normal_(std=1.0)
    return model.eval()


def logits(model, ids, **others):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **others).logits


def some_ids(rows: int = 2, length: int = 12, seed: int = 5) -> torch.Tensor:
    return torch.randint(6, 300, (rows, length), generator=torch.Generator().manual_seed(seed))
