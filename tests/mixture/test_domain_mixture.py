"""Stage 2: domain adapters behind gates, a task adapter; causal, exact at the ends, one folder, one plain model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import adapt
from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.cli import app
from adapt.errors import AdaptError
from adapt.export.measures import Text, Window
from adapt.methods.domain_adapter import DomainAdapter as Stage1
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import parallel_layers
from adapt.mixture.change import prune_adapter
from adapt.mixture.domain_folder import CONFIG, WEIGHTS, read_domain_adapter, write_domain_adapter
from adapt.mixture.domain_mixture_folder import save_domain_mixture
from adapt.mixture.domains import DomainMixture, mix_domains
from adapt.mixture.mixture import routers_of
from adapt.mixture.routers.arrow import Arrow
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.enforced import Enforced
from adapt.mixture.routers.mlp import Mlp
from adapt.mixture.routers.sequence import Sequence
from adapt.mixture.routers.token import Token
from tests.mixture.domain_world import ids_of, logits, stir

LAYERS = {"uk": (0, 1), "sums": (1,), "dates": (0, 1)}
ROUTERS = {
    "mlp": Mlp(temperature=0.5),
    "mlp of the token": Mlp(reads="token"),
    "mlp of the prompt": Mlp(span=3),
    "token": Token(k=1),
    "sequence": Sequence(k=2),
    "arrow": Arrow(k=2),
    "enforced": Enforced(default="sums"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model_folder):
    """Three domain adapters of different widths and layers that do something."""
    place = tmp_path_factory.mktemp("domain_adapters")
    base = ModelLocation(str(tiny_model_folder))
    for seed, (name, layers) in enumerate(LAYERS.items()):
        model = Stage1(width=3 + seed, layers=layers).attach(load_model(base))
        stir(model, seed)
        units = {layer: parallel.domains for layer, parallel in parallel_layers(model).items()}
        write_domain_adapter(place / name, units, "domain", Base.of(base))
    return {name: place / name for name in LAYERS}


def mixed(base, folders, router, task=4, stirred=True, **settings):
    location = ModelLocation(str(base))
    adapters = {name: read_domain_adapter(folder) for name, folder in folders.items()}
    torch.manual_seed(4)
    model = mix_domains(
        load_model(location).eval(), DomainMixture(adapters, router, Base.of(location), task, **settings)
    )
    if stirred:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and (".router." in name or name.endswith("task.up")):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module", params=ROUTERS)
def mixture(request, tiny_model_folder, folders):
    return mixed(tiny_model_folder, folders, ROUTERS[request.param])


def test_later_tokens_change_nothing(mixture):
    ids = ids_of()
    changed = ids.clone()
    changed[:, 11:] = ids_of(seed=9)[:, 11:]
    before, after = logits(mixture, ids), logits(mixture, changed)
    assert torch.allclose(before[:, :11], after[:, :11], atol=2e-5)
    assert not torch.allclose(before[:, 11:], after[:, 11:], atol=1e-2)


def test_padding_and_packing_change_nothing(mixture):
    ids = ids_of(2, 9)
    alone = [logits(mixture, row[None]) for row in ids]
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[:, :3] = 0
    padded = torch.cat([torch.full((2, 3), 7), ids], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = logits(mixture, padded, attention_mask=mask, position_ids=positions)
    assert torch.allclose(found[:, 3:], torch.cat(alone), atol=2e-5)
    packed = logits(mixture, ids.view(1, -1), position_ids=torch.arange(9).repeat(2)[None])
    assert torch.allclose(packed, torch.cat(alone, 1), atol=2e-5)


def test_generation_with_a_cache_is_generation_without(mixture):
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    ids = ids_of(2, 6)
    mask = torch.ones_like(ids)
    with_cache = mixture.generate(ids, attention_mask=mask, use_cache=True, **settings)
    assert torch.equal(with_cache, mixture.generate(ids, attention_mask=mask, use_cache=False, **settings))


def test_one_call_loads_it_again(mixture, tmp_path, tiny_model_folder):
    from adapt.checkpoints import load_tokenizer

    save_domain_mixture(mixture, load_tokenizer(ModelLocation(str(tiny_model_folder))), tmp_path / "mixture")
    again, tokenizer = adapt.load_mixture(tmp_path / "mixture")
    assert torch.equal(logits(again, ids_of()), logits(mixture, ids_of()))
    assert tokenizer("45")["input_ids"]
    assert json.loads((tmp_path / "mixture" / "mixture.json").read_text())["kind"] == "bottleneck"


def test_the_start_is_the_base_where_the_adapters_are(tiny_model_folder, tmp_path):
    base = ModelLocation(str(tiny_model_folder))
    plain = load_model(base).eval()
    fresh = Stage1(width=3, layers=(0, 1)).attach(load_model(base))
    units = {layer: parallel.domains for layer, parallel in parallel_layers(fresh).items()}
    write_domain_adapter(tmp_path / "new", units, "domain", Base.of(base))
    for router in (Mlp(), Token(k=1), Dense()):
        model = mixed(tiny_model_folder, {"new": tmp_path / "new"}, router, stirred=False)
        assert torch.equal(logits(model, ids_of()), logits(plain, ids_of()))


def test_a_gate_on_one_adapter_is_that_adapter(tiny_model_folder, folders):
    model = mixed(tiny_model_folder, folders, Enforced(default="base"), task=None)
    base = ModelLocation(str(tiny_model_folder))
    assert torch.equal(logits(model, ids_of()), logits(load_model(base).eval(), ids_of()))
    for name, folder in folders.items():
        alone = Stage1(width=read_domain_adapter(folder).width, layers=LAYERS[name]).attach(load_model(base)).eval()
        for layer, parallel in parallel_layers(alone).items():
            parallel.domains.put("domain", read_domain_adapter(folder).layers[layer])
        with model.adapt_mixture.routing.naming(name):
            assert torch.allclose(logits(model, ids_of()), logits(alone, ids_of()), atol=1e-5)


def test_the_network_may_choose_the_layer_alone(tiny_model_folder, folders):
    model = mixed(tiny_model_folder, folders, Mlp(), task=None)
    with torch.no_grad():
        for router in routers_of(model).values():
            router.last.weight.zero_()
            router.last.bias.copy_(torch.tensor([0, 0, 0, 60.0]))
    plain = load_model(ModelLocation(str(tiny_model_folder))).eval()
    assert torch.allclose(logits(model, ids_of()), logits(plain, ids_of()), atol=1e-5)


def test_over_four_bits_the_frozen_layers_are_the_same(tiny_model_folder, folders, tmp_path):
    from adapt.checkpoints import load_tokenizer
    from adapt.mixture.folder import load_base
    from adapt.training.precision import Precision

    base = ModelLocation(str(tiny_model_folder))
    adapters = {name: read_domain_adapter(folder) for name, folder in folders.items()}
    model = load_base(base, Precision(torch.device("cpu"), bf16=False), "nf4")
    plain = logits(model, ids_of())
    mix_domains(model, DomainMixture(adapters, Mlp(), Base.of(base), 4, "nf4")).eval()
    assert not torch.allclose(logits(model, ids_of()), plain, atol=1e-2)
    save_domain_mixture(model, load_tokenizer(base), tmp_path / "mixture")
    again, _ = adapt.load_mixture(tmp_path / "mixture", dtype=torch.float32)
    assert torch.equal(logits(again, ids_of()), logits(model, ids_of()))


def test_what_does_not_fit_is_one_line(tiny_model_folder, folders, tmp_path):
    other = shutil.copytree(folders["uk"], tmp_path / "other")
    config = json.loads((other / CONFIG).read_text())
    (other / CONFIG).write_text(json.dumps(config | {"activation": "gelu"}))
    with pytest.raises(AdaptError, match=r"have different activations \('sums' has ffn, 'uk' has gelu\)"):
        mixed(tiny_model_folder, {"sums": folders["sums"], "uk": other}, Mlp())
    (other / CONFIG).write_text(json.dumps(config | {"width": 9}))
    with pytest.raises(AdaptError, match=r"'uk' in '.*other' has '.*mlp.down' of shape \[3, 64\], this base takes \[9"):
        mixed(tiny_model_folder, {"uk": other}, Mlp())
    (other / CONFIG).write_text(json.dumps(config | {"base": {**config["base"], "digest": "1"}}))
    with pytest.raises(AdaptError, match="domain adapter 'uk' was trained over another base"):
        mixed(tiny_model_folder, {"uk": other}, Mlp())
    with pytest.raises(AdaptError, match="router 'token': k is 4, but there are 3 adapters"):
        mixed(tiny_model_folder, folders, Token(k=4))


def text_of(rows: int = 3) -> Text:
    return Text(tuple(Window(ids, [0, *[1] * (len(ids) - 1)]) for ids in ids_of(rows, 20).tolist()), 0)


def test_collapsed_it_is_exact_where_gates_are_constant(tiny_model_folder, folders, tmp_path):
    from adapt.mixture.collapse import Way, collapse

    model = mixed(tiny_model_folder, folders, Dense(), stirred=False)
    found = collapse(model, tiny_model_folder, text_of(), tmp_path / "out", Way())
    assert found["measured"]["collapsed"]["kl"] < 1e-6 < found["measured"]["base"]["kl"]
    dense = load_model(ModelLocation(str(tmp_path / "out"))).eval()
    assert dense.config.intermediate_size == 128 + 3 + 4 + 5 + 4
    assert torch.allclose(logits(dense, ids_of()), logits(model, ids_of()), atol=1e-5)
    gated = mixed(tiny_model_folder, folders, Mlp(temperature=0.3))
    cost = collapse(gated, tiny_model_folder, text_of(), tmp_path / "gated", Way())["measured"]["collapsed"]["kl"]
    assert cost > 1e-6
    with pytest.raises(AdaptError, match="domain adapters are channels beside each other; collapse them by average"):
        collapse(gated, tiny_model_folder, text_of(), tmp_path / "svd", Way("svd"))


@pytest.fixture
def folder(tiny_model_folder, folders, tmp_path):
    model = mixed(tiny_model_folder, folders, Mlp())
    save_domain_mixture(model, load_tokenizer(ModelLocation(str(tiny_model_folder))), tmp_path / "mixture")
    return tmp_path / "mixture"


def test_commands_say_what_they_know_of_it(folder, folders, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["mixture", *map(str, arguments)])

    told = run("info", folder)
    assert told.exit_code == 0, told.output
    assert "task adapter: 4 units beside every feed-forward layer" in told.output
    assert "4 beside model.layers.1.mlp" in told.output


def test_one_joins_without_weight_and_another_leaves(folder, folders, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["mixture", *map(str, arguments)])

    grown, opened, smaller = (tmp_path / name for name in ("grown", "opened", "smaller"))
    done = run("add", folder, f"more={folders['uk']}", "-o", grown)
    assert done.exit_code == 0, done.output
    assert "no weight yet" in run("info", grown).output
    assert run("add", folder, f"more={folders['uk']}", "--open", "-o", opened).exit_code == 0
    before, after, weighed = (logits(adapt.load_mixture(place)[0], ids_of()) for place in (folder, grown, opened))
    assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(before, weighed, atol=1e-3)
    assert run("prune", grown, "more", "-o", smaller).exit_code == 0
    assert torch.allclose(logits(adapt.load_mixture(smaller)[0], ids_of()), before, atol=1e-5)
    model, _ = adapt.load_mixture(folder)
    prune_adapter(model, "uk")  # alone in the first of its layers but for one other
    prune_adapter(model, "dates")
    assert model.adapt_mixture.names == ("sums",)
    parallel = parallel_layers(model)["model.layers.0.mlp"]
    assert parallel.domains is None
    assert torch.equal(parallel.task.up, parallel_layers(adapt.load_mixture(folder)[0])["model.layers.0.mlp"].task.up)


def test_what_cannot_join_or_leave_is_one_line(folder, folders, tmp_path, tiny_model_folder):
    def run(*arguments):
        return CliRunner().invoke(app, ["mixture", *map(str, arguments), "-o", str(tmp_path / "other")])

    other = shutil.copytree(folders["uk"], tmp_path / "of another")
    config = json.loads((other / CONFIG).read_text())
    (other / CONFIG).write_text(json.dumps(config | {"base": {**config["base"], "digest": "1"}}))
    whole = shutil.copytree(folders["uk"], tmp_path / "lacking")
    tensors = load_file(whole / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up" not in name}, whole / WEIGHTS)
    grown = shutil.copytree(folders["uk"], tmp_path / "of another vocabulary")
    tokenizer = load_tokenizer(ModelLocation(str(tiny_model_folder)))
    tokenizer.add_tokens(["novel"])
    tokenizer.save_pretrained(grown)
    cases = {
        ("add", folder, f"uk={folders['uk']}"): "has an adapter 'uk' already",
        ("add", folder, f"new={other}"): "domain adapter 'new' was trained over another base",
        ("add", folder, f"new={whole}"): "lacks 'model.layers.1.mlp.up'",
        ("add", folder, f"new={grown}"): "adapter 'new' was trained on another vocabulary: 'novel'",
        ("add", folder, f"new={tmp_path}"): "holds no domain adapter",
        ("prune", folder, "nobody"): "the mixture has no adapter 'nobody'; it has uk, sums, dates",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert done.exit_code == 1
        assert message in " ".join(done.output.split()), done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "other").exists()


def test_a_task_adapter_of_another_mixture_is_refused(folder):
    task = folder / "task"
    config, tensors = json.loads((task / CONFIG).read_text()), load_file(task / WEIGHTS)
    layer = config["layers"][0]
    cases = [
        ({"width": 5}, tensors, r"has 5 units with activation 'ffn', and the mixture's has 4"),
        ({"activation": "relu"}, tensors, r"has 4 units with activation 'relu'"),
        ({}, tensors | {f"{layer}.up": torch.zeros(64, 3)}, r"'task' in '.*task' has '.*up' of shape \[64, 3\]"),
        ({}, {name: t for name, t in tensors.items() if name != f"{layer}.down"}, f"lacks '{layer}.down'"),
        ({"layers": [*config["layers"], "model.layers.9.mlp"]}, tensors, "beyond this model's layers, 'model.layers.9"),
    ]
    for changes, values, message in cases:
        (task / CONFIG).write_text(json.dumps(config | changes))
        save_file(values, task / WEIGHTS)
        with pytest.raises(AdaptError, match=message):
            adapt.load_mixture(folder)
