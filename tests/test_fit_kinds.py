"""`fit` where modules are no LoRA of a language model: encoders with heads, open answers, other kinds."""

import pytest

from encoder_tasks import RECIPE as HEADED
from encoder_tasks import a_task
from encoders import CARDS, encoder, random_module
from headstart.backbones import Backbone
from headstart.evaluating.evaluate import evaluate
from headstart.fitting.fit import fit
from headstart.kinds import fresh_module
from headstart.records import TaskCard
from headstart.reports.html import fit_page
from headstart.tasks import Example, Task
from small_hub import RECIPE


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_on_an_encoder_the_saved_module_has_a_head(task: str) -> None:
    backbone, data = encoder("bert"), a_task(task)
    modules = [random_module(backbone, CARDS[task], seed=seed, name=f"m{seed}") for seed in range(3)]
    found = fit(data, modules, backbone, folds=2, recipe=HEADED, blend="softmax:indicator=loss", store=False)
    assert found.verdict.choice in ("use", "abstain")
    assert found.module.head is not None
    assert len(found.record.frames["donors"]) == 0, "modules of a hub answer through the heads of other tasks"
    assert evaluate(found, data, backbone, store=False).score == pytest.approx(found.record.score, nan_ok=True)
    page = fit_page(found.record)
    assert "What the guard found" in page
    assert "On an encoder, a module of the hub has only the head of its own task." in page


@pytest.mark.parametrize("kind", ["ia3", "prefix", "prompt"])
def test_open_answers_and_other_kinds(llama: Backbone, kind: str) -> None:
    def rows(word: str) -> tuple[Example, ...]:
        return tuple(Example(f"{word} {number} +", (f"{number + 1}",)) for number in range(8))

    data = Task(TaskCard(name="sums", metric="EM"), {name: rows(name) for name in ("train", "dev", "test")})
    recipe = RECIPE.change(kind=kind, shape={})
    modules = []
    for seed in range(3):
        made = fresh_module(kind, llama, {}, name=f"m{seed}", seed=seed)
        modules.append(made.with_parameters({name: value + 0.1 for name, value in made.parameters().items()}))
    found = fit(data, modules, llama, folds=2, recipe=recipe, store=False)
    assert found.module.kind == kind
    assert found.verdict.table["loss"].notna().all()
    assert "What the guard found" in fit_page(found.record)
