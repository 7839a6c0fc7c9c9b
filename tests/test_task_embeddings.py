"""Embeddings of a task's history, card, rows and other modules, by hand and against loops in float64."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import headstart as hs
from headstart.backbones import Backbone, TextFormat
from headstart.embeddings import (
    EMBEDDINGS,
    Embedding,
    Subject,
    cosines,
    embed,
    joined,
    make_embedding,
    slopes,
    tuned_parameters,
)
from headstart.embeddings.taskemb import fisher_diagonal
from headstart.errors import ModuleError, SettingError
from headstart.hub import Hub
from headstart.kinds import History, Module, fresh_module, load_module, save_module
from headstart.ranking.search import search
from headstart.tasks import Task
from headstart.testing import check_embedding
from headstart.tuning.recipes import RECIPES, Recipe
from headstart.tuning.tune import tune
from naive import REVIEWS, plain_logits
from small_hub import RECIPE, module, write_task

# Early and late


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.load(write_task(tmp_path / "reviews"))


def test_the_early_state_is_that_of_a_shorter_run(task: Task, llama: Backbone, tmp_path: Path) -> None:
    recipe = RECIPE.change(max_steps=4, eval_every=2, warmup_steps=0, schedule="constant", select="loss")
    whole = tune(task, llama, recipe=recipe.change(early_steps=2), store=False)
    short = tune(task, llama, recipe=recipe.change(max_steps=2), store=False)
    history = whole.module.history
    assert history is not None
    assert history.early is not None
    assert history.early_step == 2
    assert [step for step, _ in history.losses] == [2, 4]
    assert [loss for _, loss in history.losses] == [point.train_loss for point in whole.curve[1:]]
    if short.best.step == 2:
        for name, value in short.module.parameters().items():
            assert torch.allclose(history.early[name], value, atol=1e-6)
    # It goes with the module to the disk and into a hub, and the digest is that of the module without it.
    save_module(whole.module, tmp_path / "tuned")
    hub = Hub.create(tmp_path / "hub")
    hub.add(tmp_path / "tuned")
    again = load_module(hub["tuned"])
    assert again.history is not None
    assert again.history.losses == history.losses
    assert again.digest() == replace(whole.module, history=None).digest()
    early = again.with_parameters(history.early)
    assert early.history is None
    assert embed(again, "early", store=False).values.tolist() == tuned_parameters(early).tolist()
    assert embed(again, "late", store=False).values.tolist() == tuned_parameters(again).tolist()


def test_epochs_are_rounded_up_to_steps(task: Task, llama: Backbone) -> None:
    rows, size = len(task.train), RECIPE.batch_size
    steps = -(-2 * rows // size)
    tuned = tune(task, llama, recipe=RECIPE.change(max_steps=steps, early_epochs=2), store=False)
    assert tuned.module.history is not None
    assert tuned.module.history.early_step == steps
    tuned = tune(task, llama, recipe=RECIPE.change(max_steps=1, early_epochs=2), store=False)
    assert tuned.module.history is not None
    assert tuned.module.history.early is None
    assert f"It ended before step {steps}, so no early state was kept." in tuned.notes


def test_a_recipe_names_one_time() -> None:
    with pytest.raises(SettingError, match="early_steps and early_epochs both say when; leave one out"):
        RECIPES["quick"].change(early_steps=3, early_epochs=1)
    assert "early_steps" not in RECIPES["quick"].canonical(), "what keeps no early state has the key it had"
    assert isinstance(RECIPES["quick"].change(early_epochs=2), Recipe)


def test_a_history_of_another_module_is_refused(llama: Backbone, tmp_path: Path) -> None:
    one = module(llama, "one", seed=1)
    early = {name: value[:, :1] for name, value in one.parameters().items()}
    save_module(replace(one, history=History((), early, 3)), tmp_path / "one")
    with pytest.raises(ModuleError, match="is not an early state of the module beside it; remove it"):
        load_module(tmp_path / "one")
    (tmp_path / "one" / "headstart_history.json").write_text("{")
    with pytest.raises(ModuleError, match=r"or remove headstart_history\.json, which the module does without"):
        load_module(tmp_path / "one")


# Baselines


def test_slopes_by_hand() -> None:
    # 4, 2, 1 at steps 0, 50, 100: −2 per 50 steps is −4 per run, then −1 per 50 is −2; at 50 % the later line counts.
    assert slopes([(0, 4.0), (50, 2.0), (100, 1.0)]).tolist() == [-4.0, -4.0, -4.0, -2.0, -2.0]
    assert slopes([(50, 2.0), (100, 1.0)], at=(0.1,)).tolist() == [-2.0], "before the first point, its line goes on"


def test_curve_gradient_and_data_size(llama: Backbone) -> None:
    known = replace(module(llama, "known", seed=1, train_rows=300), history=History(((2, 4.0), (4, 2.0))))
    assert embed(known, "curve_gradient", store=False).values.tolist() == [-4.0] * 5
    assert embed(known, "data_size", store=False).values.tolist() == [300.0]
    size = make_embedding("data_size")
    assert size.similarities(np.array([7.0]), np.array([[300.0], [20.0]])).tolist() == [300.0, 20.0]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("early", r"'bare' has no early state; tune it with early_epochs=2 \(--set early_epochs=2\) to keep one"),
        ("curve_gradient", "the losses of 'bare' while it was tuned were not recorded"),
        ("data_size", "the card of 'bare' does not say how many rows it was tuned on; add train_rows to it"),
        ("3e", "3e compares modules of 3 kinds of one task, and there are: lora; give others="),
        ("textemb", "'textemb' reads the task's own rows; give task= and backbone="),
        ("taskemb:rows=3", "'taskemb' reads the task's own rows; give task= and backbone="),
    ],
)
def test_what_is_missing_has_a_reason(llama: Backbone, method: str, message: str) -> None:
    with pytest.raises(hs.HeadstartError, match=message):
        embed(module(llama, "bare", seed=1), method, store=False)


def test_a_search_by_data_size(llama: Backbone, tmp_path: Path) -> None:
    for name, rows in (("few", 10), ("many", 500), ("some", 50), ("unknown", None)):
        save_module(module(llama, name, seed=len(name) + (rows or 0), train_rows=rows), tmp_path / "made" / name)
    hub = Hub.create(tmp_path / "hub")
    hub.add_all([tmp_path / "made"])
    found = search(None, hub, like="few", embedding="data_size", store=False)
    assert [(row["module"], row["similarity"]) for row in found.rows()] == [("many", 500.0), ("some", 50.0)]
    assert [one.name for one in found.left_out] == ["unknown"]
    with pytest.raises(SettingError, match="rows of the modules' own tasks, which 'textemb' reads"):
        search(None, hub, like="few", embedding="textemb", store=False)


# 3E


def test_three_kinds_are_the_mean_of_their_cosines() -> None:
    draw = np.random.default_rng(0)
    one, other = ([draw.normal(size=size) for size in (3, 5, 2)] for _ in range(2))
    expected = np.mean([cosines(a[None], b[None])[0, 0] for a, b in zip(one, other, strict=True)])
    assert joined(one) @ joined(other) == pytest.approx(expected)
    assert joined(one) @ joined(one) == pytest.approx(1.0)


def test_3e_of_modules(gpt2: Backbone) -> None:
    modules: list[Module] = []
    for kind in ("lora", "bitfit", "prefix"):
        recipe = RECIPES["quick"].change(kind=kind)

        modules.append(fresh_module(kind, gpt2, recipe.shape if kind == "lora" else {}, name=kind, seed=1))
    found = [embed(modules[0], "3e", others=[modules[2], modules[1]], store=False), None]
    expected = joined([tuned_parameters(one) for one in (modules[1], modules[0], modules[2])])
    assert found[0] is not None
    assert found[0].values.tolist() == pytest.approx(expected.tolist())


# What reads the task's rows


def test_textemb_is_that_of_a_loop(llama: Backbone, task: Task) -> None:
    means = []
    for example in task.train[:5]:
        ids = torch.tensor([llama.encoder.prompt(example.text, TextFormat())])
        with torch.inference_mode():
            hidden = llama.model.model(input_ids=ids).last_hidden_state[0]
        means.append(hidden.double().mean(0))
    found = embed(module(llama, "m", seed=1), "textemb:rows=5", task=task, backbone=llama, store=False)
    assert found.values == pytest.approx(torch.stack(means).mean(0).numpy(), abs=1e-5)
    other = embed(module(llama, "other", seed=2), "textemb:rows=5", task=task, backbone=llama, store=False)
    assert other.values.tolist() == found.values.tolist(), "the module is not attached"


def test_taskemb_is_that_of_a_loop(llama: Backbone, task: Task) -> None:
    one = module(llama, "m", seed=1)
    examples = task.train[:3]
    items = llama.encode([(example.text, example.target) for example in examples], TextFormat())
    sums: dict[str, torch.Tensor] = {}
    for item in items:
        stack = type(one).stack([one], llama, dtype=torch.float32)
        with stack.attach(llama), stack.gradients():
            log_p = plain_logits(llama.model, item).double().log_softmax(-1)
            torch.autograd.backward(log_p[torch.arange(len(item.target)), torch.tensor(item.target)].sum())
            for name, value in stack.parameters.items():
                assert value.grad is not None
                squared = value.grad[0].double().pow(2)
                sums[name] = squared if name not in sums else sums[name] + squared
    found = fisher_diagonal(one, items, llama)
    for name, value in sums.items():
        assert found[name] == pytest.approx((value / 3).numpy(), rel=1e-3, abs=1e-9)
    vector = embed(one, "taskemb:rows=3", task=task, backbone=llama, store=False)
    expected = np.concatenate([found[name].ravel() for name in sorted(found)])
    assert vector.values == pytest.approx(expected, rel=1e-6)
    assert (vector.values >= 0).all()


def test_rows_are_read_once(llama: Backbone, task: Task, tmp_path: Path) -> None:
    one = module(llama, "m", seed=1)
    first = embed(one, "textemb:rows=2", task=task, backbone=llama, store=tmp_path)
    heard: list[object] = []
    again = embed(one, "textemb:rows=2", task=task, backbone=llama, store=tmp_path, progress=heard.append)
    assert again.values.tolist() == first.values.tolist()
    assert [getattr(event, "state", None) for event in heard] == ["reused"]
    assert first.method == "textemb:rows=2"


def test_a_card_that_names_its_backbone_later(llama: Backbone, tmp_path: Path) -> None:
    whole = module(llama, "one", seed=1)
    bare = replace(whole, card=whole.card.model_copy(update={"backbone": None}))
    assert bare.digest() == whole.digest()
    assert embed(bare, store=tmp_path).backbone == ""
    assert embed(whole, store=tmp_path).backbone == llama.fingerprint.weights
    assert embed(bare, store=tmp_path).backbone == ""


def test_a_variant_has_no_fisher_information(llama: Backbone) -> None:
    odd = module(llama, "odd", seed=1)
    items = Subject(odd, examples=REVIEWS, backbone=llama)
    assert make_embedding("taskemb:rows=1").of(items).shape == (sum(v.numel() for v in odd.parameters().values()),)


# Every embedding


@pytest.mark.parametrize("name", list(EMBEDDINGS))
def test_the_contract_is_kept(name: str) -> None:
    outcomes = check_embedding(name)
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []
    assert [outcome.check for outcome in outcomes if outcome.result == "passed"][:1] == ["vector"]
    refused = {outcome.kind for outcome in outcomes if outcome.result == "refused"}
    not_lora = {"bitfit", "prefix"}
    known = {"canonical": not_lora, "gram": not_lora, "pooled": {"lora", "bitfit"}}
    assert refused == known.get(name, set())


@dataclass(frozen=True)
class Broken(Embedding):
    """It counts, reads the name, and does not say what it is."""

    name = "broken"
    source = "nowhere"
    wrong: str = "names"

    def of(self, subject: Subject) -> np.ndarray:
        values = tuned_parameters(subject.module)
        match self.wrong:
            case "vector":
                return np.append(values, np.nan)
            case "names":
                return values + len(subject.module.card.name)
            case "repeats":
                return values + next(COUNTER)
            case _:
                return values

    def similarities(self, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        return -super().similarities(query, vectors) if self.wrong == "itself" else super().similarities(query, vectors)


COUNTER = itertools.count()


@pytest.mark.parametrize("wrong", ["vector", "names", "repeats", "itself"])
def test_the_suite_sees_what_is_wrong(wrong: str) -> None:
    failed = {outcome.check for outcome in check_embedding(Broken(wrong), kinds=["lora"]) if outcome.result == "failed"}
    assert wrong in failed
    assert "spec" in failed, "it is not registered"
