"""The value of the bare backbone by an indicator: that of its own answers, whatever the kind of the hub's modules."""

import math

import pytest

from encoder_tasks import a_task
from encoders import CARDS, encoder, random_module
from headstart.backbones import Backbone
from headstart.evaluating.evaluate import evaluate
from headstart.fitting.fit import fit
from headstart.hub import Hub
from headstart.kinds import fresh_module
from headstart.ranking.rank import rank, scoring_examples
from headstart.tasks import Task
from program import Run
from small_hub import RECIPE, module

pytest_plugins = ["cli_helper", "small_road"]


def test_it_is_what_the_backbone_answers_by_itself(task: Task, hub: Hub, llama: Backbone) -> None:
    found = rank(task, hub, llama, indicators=("loss", "option_accuracy"), rows=8, bare=True, store=False)
    rows = scoring_examples(task, rows=8)
    alone = evaluate(
        None, Task(task.card, {"test": rows}), llama, text_format=RECIPE.text_format, decoding="options", store=False
    )
    assert found.bare["loss"] == pytest.approx(-alone.loss, rel=1e-5)
    assert found.bare["option_accuracy"] == alone.score
    assert not rank(task, hub, llama, indicators="loss", rows=8, store=False).bare, "nobody asked"


def test_a_fresh_prompt_is_not_the_bare_backbone(task: Task, llama: Backbone) -> None:
    prompts = [fresh_module("prompt", llama, {}, name=f"m{seed}", seed=seed) for seed in range(2)]
    by_prompts = rank(task, prompts, llama, indicators="loss", bare=True, store=False)
    by_lora = rank(task, [module(llama, "ada", seed=1)], llama, indicators="loss", bare=True, store=False)
    assert by_prompts.bare == by_lora.bare
    assert not any(value == pytest.approx(by_prompts.bare["loss"]) for value in by_prompts.scores.values["loss"])
    fitted = fit(
        task, prompts, llama, folds=2, recipe=RECIPE.change(kind="prompt", shape={}), store=False,
        blend="softmax:indicator=loss",
    )  # fmt: skip
    assert fitted.record.settings["bare"] == pytest.approx(by_lora.bare["loss"], rel=1e-5)


def test_what_takes_a_module_has_no_such_value(task: Task, hub: Hub, llama: Backbone) -> None:
    asked = ("cosine", "weight_cosine", "grand", "kl")
    assert set(rank(task, hub, llama, indicators=asked, recipe=RECIPE, bare=True, store=False).bare) == {"cosine"}
    backbone, data = encoder("bert"), a_task("classification")
    headed = [random_module(backbone, CARDS["classification"], seed=seed, name=f"m{seed}") for seed in range(2)]
    assert not rank(data, headed, backbone, indicators="loss", recipe=RECIPE, bare=True, store=False).bare


def test_on_the_command_line(run: Run, here: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    command = ["rank", *here["task"], *here["hub"], *here["on"], "--store", tmp_path_factory.mktemp("store")]
    data = run(*command, "-i", "loss,cosine", "--json").data
    assert set(data["bare"]) == {"loss", "cosine"}
    assert all(math.isfinite(value) for value in data["bare"].values())
    printed = " ".join(run(*command, "-i", "loss,cosine").out.split())
    assert f"The bare backbone, to compare with: loss −{-data['bare']['loss']:.3g}, cosine " in printed
    assert "to compare with" not in run(*command, "-i", "arrow").out
