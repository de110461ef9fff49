"""The search: a model whose weights are set in place, goals, planted optima, going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.data.sources import Files
from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import bits_per_byte
from adapt.merging.free import Free
from adapt.merging.live import LiveModel
from adapt.merging.objective import goals_of, loss, task_goal, text_goal, weighted
from adapt.merging.search import search
from adapt.merging.template import template_of
from adapt.merging.trials import TRIALS
from merge.engine import write
from merge.errors import MergeError
from tests.conftest import CHAT_TEMPLATE, make_model
from tests.merge.family import EMBED, make_family, nudge, plain_tokenizer, save

CHAT_VECTOR = "cpt + w * (instruct - base)"
W = (Free("w", 0.0, 1.5),)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family")).folders


@pytest.fixture(scope="module")
def tied_family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("tied"), tied=True).folders


@pytest.fixture
def text(write):
    return str(write("uk.txt", "Число 45 пишеться.\nСтолиця Франції Париж.\nOn 5 March it was Thursday.\n"))


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def template(folders, expression, frees=W, **settings):
    names = {name for name in folders if name in expression}
    return template_of(expression, {name: folders[name] for name in names}, frees, **settings)


@pytest.mark.parametrize(
    ("expression", "frees", "point", "dtype"),
    [
        (CHAT_VECTOR, W, {"w": 0.7}, None),
        (CHAT_VECTOR, W, {"w": 0.0}, torch.bfloat16),
        ("cpt + w * (chatml - base)", W, {"w": 1.2}, None),
        ("(1 - a) * base + a * instruct", (Free("a", 0, 1),), {"a": 1.0}, torch.bfloat16),
        ("ties(base, [cpt: w, instruct: 1], density=d)", (*W, Free("d", 0.1, 0.9)), {"w": 0.5, "d": 0.4}, None),
        (CHAT_VECTOR, (Free("w", 0, 1, "layers", 2),), {"w[layers 0-0]": 0.2, "w[layers 1-1]": 0.9}, None),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_model_set_in_place_is_the_one_that_is_written(
    family, tied_family, tmp_path, tied, expression, frees, point, dtype
):
    plan = template(tied_family if tied else family, expression, frees, dtype=dtype)
    live = LiveModel(plan.merge, "cpu")
    other = {label: value / 2 + 0.1 for label, value in point.items()}
    live.set(plan.at(other))
    live.set(plan.at(point))
    write(plan.at(point), tmp_path / "out")
    written = load_model(ModelLocation(str(tmp_path / "out")), dtype=torch.float32).eval()
    ids = torch.randint(0, plan.merge.rows.height, (2, 24), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(live.model, ids), logits(written, ids))
    assert live.model.generation_config.eos_token_id == written.generation_config.eos_token_id
    tokenizer = load_tokenizer(ModelLocation(str(tmp_path / "out")))
    assert live.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert live.tokenizer.chat_template == tokenizer.chat_template


def test_only_the_layers_of_a_group_change(family):
    plan = template(family, CHAT_VECTOR, (Free("w", 0.0, 1.0, "layers", 2),))
    live = LiveModel(plan.merge, "cpu")
    assert live.set(plan.at({"w[layers 0-0]": 0.5, "w[layers 1-1]": 0.5})) == len(plan.merge.outputs)
    before = {name: tensor.clone() for name, tensor in live.model.state_dict().items()}
    count = live.set(plan.at({"w[layers 0-0]": 0.5, "w[layers 1-1]": 0.6}))
    changed = {name for name, tensor in live.model.state_dict().items() if not torch.equal(tensor, before[name])}
    last = {name for name in before if ".layers.1." in name} | {"model.norm.weight", "lm_head.weight"}
    assert changed <= last
    assert len(last) == count
    assert {name for name in last if before[name].ndim > 1} <= changed
    assert live.set(plan.at({"w[layers 0-0]": 0.5, "w[layers 1-1]": 0.6})) == 0


def test_the_written_record_of_groups_says_their_values(family, tmp_path):
    plan = template(family, CHAT_VECTOR, (Free("w", 0.0, 1.0, "kinds"),))
    point = {coefficient.label: 0.25 * rank for rank, coefficient in enumerate(plan.groups.coefficients)}
    assert list(point) == ["w[embeddings]", "w[attention]", "w[mlp]", "w[norms]"]
    record = write(plan.at(point), tmp_path / "out")
    assert record["expression"].endswith("w[embeddings] = 0, w[attention] = 0.25, w[mlp] = 0.5, w[norms] = 0.75")
    assert record["coefficients"] == {}
    mlp = template(family, CHAT_VECTOR)
    write(mlp.at({"w": 0.5}), tmp_path / "half")
    name = "model.layers.0.mlp.up_proj.weight"
    ours, half = (load_file(tmp_path / place / "model.safetensors")[name] for place in ("out", "half"))
    assert torch.equal(ours, half)


def least_along(hidden, wanted, head):
    """The step along the loss's gradient by the head at which the loss is least, by halving; and the gradient."""

    def gradient(weights):
        weights = weights.detach().requires_grad_()
        return torch.autograd.grad(torch.nn.functional.cross_entropy(hidden @ weights.T, wanted), weights)[0]

    step, low, high = gradient(head), 0.0, 1e6
    for _ in range(60):
        middle = (low + high) / 2
        falls = float((gradient(head - middle * step) * step).sum()) > 0
        low, high = (middle, high) if falls else (low, middle)
    return low, step


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """`far = base + v` and a text that `base + 0.6 v` predicts best: v changes the head along the loss's gradient, in
    which direction the loss is convex, and 0.6 v is the step to its least."""
    root = tmp_path_factory.mktemp("planted")
    tokenizer, base = plain_tokenizer(CHAT_TEMPLATE), make_model(384, seed=3)
    path = root / "text.txt"
    lines = ["On 5 March 2020 it was Thursday.", "The capital of France is Paris."]
    path.write_text("\n".join(lines), encoding="utf-8")
    folders = {"base": save(root / "base", base, tokenizer)}
    ids = [torch.tensor([tokenizer.eos_token_id, *tokenizer(line)["input_ids"]]) for line in lines]
    hidden = torch.cat([base.model(input_ids=row[None]).last_hidden_state[0, :-1].detach() for row in ids])
    size, step = least_along(hidden, torch.cat([row[1:] for row in ids]), base.lm_head.weight)
    with torch.no_grad():
        base.lm_head.weight -= size * step / 0.6
    folders["far"] = save(root / "far", base, tokenizer)
    return folders, str(path)


@pytest.mark.parametrize(
    ("method", "trials", "tolerance"), [("grid", 11, 1e-6), ("random", 60, 0.05), ("tpe", 30, 0.05)]
)
def test_a_planted_optimum_is_found(planted, tmp_path, method, trials, tolerance):
    folders, path = planted
    plan = template_of("base + w * (far - base)", folders, (Free("w", 0.0, 1.0),))
    outcome = search(plan, goals_of([path], [], 10_000, 10), tmp_path, method, trials, seed=1)
    record = outcome.record(method, 1)
    assert record["best"]["values"]["w"] == pytest.approx(0.6, abs=tolerance)
    values = [trial["values"]["w"] for trial in record["trials"]]
    assert len(values) == trials
    assert record["best"]["loss"] == min(trial["loss"] for trial in record["trials"])
    if method == "grid":
        assert values == pytest.approx([index / 10 for index in range(11)])
        losses = [trial["loss"] for trial in record["trials"]]
        assert losses[:7] == sorted(losses[:7], reverse=True)
        assert losses[6:] == sorted(losses[6:])
        assert record["best"]["expression"] == "base + 0.6 * (far - base)"


def test_two_coefficients_by_cma(planted, tmp_path):
    """Only the head differs, so only the coefficient of the last layers counts."""
    folders, path = planted
    plan = template_of("base + w * (far - base)", folders, (Free("w", 0.0, 1.0, "layers", 2),))
    outcome = search(plan, goals_of([path], [], 10_000, 10), tmp_path, "cma", 40, seed=2)
    assert outcome.trials[outcome.best].values["w[layers 1-1]"] == pytest.approx(0.6, abs=0.08)


def test_scores_are_those_of_the_written_model(family, text, tmp_path):
    plan = template(family, CHAT_VECTOR)
    outcome = search(plan, goals_of([text], [], 10_000, 10), tmp_path / "search", "grid", 2)
    for trial in outcome.trials:
        folder = tmp_path / f"out-{trial.values['w']}"
        write(plan.at(trial.values), folder)
        model = load_model(ModelLocation(str(folder)), dtype=torch.float32)
        lines = Path(text).read_text(encoding="utf-8").splitlines()
        expected = bits_per_byte(model, load_tokenizer(ModelLocation(str(folder))), lines).value
        assert trial.scores[text] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_a_search_that_was_stopped_goes_on(family, text, tmp_path, method):
    plan, goals = template(family, CHAT_VECTOR), goals_of([text], [], 10_000, 10)
    straight = search(plan, goals, tmp_path / "straight", method, 6, seed=5)

    def stop(number, *_):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(plan, goals, tmp_path / "stopped", method, 6, seed=5, report=stop)
    file = tmp_path / "stopped" / TRIALS
    file.write_text(file.read_text() + '{"values": {"w": 0.1', encoding="utf-8")  # cut off in the middle of a line
    again = search(plan, goals, tmp_path / "stopped", method, 6, seed=5)
    assert [trial.values for trial in again.trials] == [trial.values for trial in straight.trials]
    assert [trial.scores for trial in again.trials] == [trial.scores for trial in straight.trials]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 1 + 6
    seconds = [line["seconds"] for line in lines[1:]]
    search(plan, goals, tmp_path / "stopped", method, 6, seed=5)
    assert [json.loads(line)["seconds"] for line in file.read_text().splitlines()[1:]] == seconds


def test_another_search_in_the_same_folder_is_refused(family, text, tmp_path):
    goals = goals_of([text], [], 10_000, 10)
    search(template(family, CHAT_VECTOR), goals, tmp_path, "grid", 2)
    with pytest.raises(AdaptError, match="holds the trials of another search"):
        search(template(family, CHAT_VECTOR, (Free("w", 0.0, 1.0),)), goals, tmp_path, "grid", 2)


def test_roles_are_the_same_at_every_value(family):
    plan = template(family, CHAT_VECTOR)
    assert plan.at({"w": 0.0}).roles == plan.merge.roles
    assert plan.merge.roles.special_from == "instruct"


def test_several_goals(family, text, write, tmp_path):
    rows = [{"prompt": "one", "completion": "two"}, {"prompt": "two", "completion": "three"}]
    task = str(write("task.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    goals = goals_of([f"{text}:0.75"], [f"{task}:0.25"], 10_000, 1)
    assert [(goal.weight, len(goal.items)) for goal in goals] == [(0.75, 3), (0.25, 1)]
    assert loss(goals, {text: 2.0, task: 0.2}) == pytest.approx(0.75 * 2.0 + 0.25 * 0.8)
    assert loss(goals, {text: None, task: 0.2}) == float("inf")
    outcome = search(template(family, CHAT_VECTOR), goals, tmp_path, "grid", 2)
    assert set(outcome.trials[0].scores) == {text, task}
    assert 0 <= outcome.trials[0].scores[task] <= 1


def test_files_and_weights(write):
    path = str(write("a.txt", "text"))
    assert weighted(f"{path}:0.7") == (path, 0.7)
    assert weighted(path) == (path, 1.0)
    assert weighted("C:folder") == ("C:folder", 1.0)
    with pytest.raises(AdaptError, match="is 0; it must be above 0"):
        goals_of([f"{path}:0"], [], 10, 10)
    with pytest.raises(AdaptError, match=r"give a held-out text: --text FILE$"):
        goals_of([], [], 10, 10)
    with pytest.raises(AdaptError, match="is given twice"):
        goals_of([path, f"{path}:2"], [], 10, 10)
    with pytest.raises(AdaptError, match="match nothing"):
        goals_of(["nowhere.txt"], [], 10, 10)


def test_held_out_documents_of_a_source(write):
    source = Files(files=(str(write("a.txt", "".join(f"line {n}\n" for n in range(200)))),), held_out=0.2)
    goal = text_goal("target", source, 1.0, 10_000)
    assert 0 < len(goal.items) < 100
    rows = Files(files=(str(write("b.jsonl", '{"prompt": "a", "answer": "b"}\n')),))
    assert task_goal("task", rows, 1.0, 5).items[0].accepted == ("b",)


def test_a_model_that_breaks_is_no_best(family, text, tmp_path):
    names = {name: family[name] for name in ("cpt", "instruct", "base")}
    plan = template_of(CHAT_VECTOR, names, (Free("w", 0.0, 1e12),))
    outcome = search(plan, goals_of([text], [], 10_000, 10), tmp_path / "a", "grid", 2)
    assert outcome.best == 0
    assert outcome.trials[1].scores == {text: None}
    assert outcome.record("grid", 0)["trials"][1]["loss"] is None


def test_expressions_that_cannot_be_searched(family):
    with pytest.raises(MergeError, match="sum to"):
        template(family, "cpt + w * instruct")
    with pytest.raises(AdaptError, match="'v' is free, but 'cpt' does not name it; its names are cpt"):
        template_of("cpt", {"cpt": family["cpt"]}, (Free("v", 0, 1),))
    with pytest.raises(MergeError, match="density"):
        template(family, "ties(base, [cpt: 1, instruct: 1], density=w)")
    with pytest.raises(AdaptError, match="5 groups of layers, but the model has 2 layers"):
        _ = template(family, CHAT_VECTOR, (Free("w", 0, 1, "layers", 5),)).groups


def test_files_that_name_tensors_in_another_way(tmp_path):
    model, tokenizer = make_model(384), plain_tokenizer()
    folder = save(tmp_path / "base", model, tokenizer)
    other = save(tmp_path / "other", nudge(model, 1), tokenizer)
    from safetensors.torch import save_file

    for place in (folder, other):
        tensors = load_file(place / "model.safetensors")
        renamed = {name.replace("model.layers", "layers"): tensor for name, tensor in tensors.items()}
        save_file(renamed, place / "model.safetensors", metadata={"format": "pt"})
    plan = template_of("base + w * (other - base)", {"base": folder, "other": other}, W)
    with pytest.raises(AdaptError, match="is not named alike in the files and in LlamaForCausalLM"):
        LiveModel(plan.merge)
    assert EMBED in {output.name for output in plan.merge.outputs}
