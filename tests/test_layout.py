"""How a prompt is laid out: suffix, prefix and chat template, tokenized as one text, cut whole, kept on the card."""

from pathlib import Path

import pytest

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.cli.options import RecipeOptions
from headstart.errors import BackboneError, TaskError
from headstart.evaluating.evaluate import evaluate
from headstart.evaluating.predict import predict
from headstart.kinds import load_module, save_module
from headstart.ranking.rank import rank
from headstart.tasks import Task
from headstart.testing import tiny_backbone
from headstart.tuning.recipes import RECIPES
from headstart.tuning.tune import text_format_of, tune
from headstart.tuning.unit import TuneUnit
from program import Run, assert_mistake
from small_hub import RECIPE, module, write_task

pytest_plugins = ["cli_helper"]

SAID = "{% for m in messages %}the man said : {{ m['content'] }} . {% endfor %}"
TEMPLATE = SAID + "{% if add_generation_prompt %}answer :{% endif %}"
CHAT = TextFormat(chat_template=True)


@pytest.fixture(scope="module")
def chatty() -> Backbone:
    """A backbone of its own, whose tokenizer has a chat template."""
    backbone = tiny_backbone("llama")
    backbone.tokenizer.chat_template = TEMPLATE
    return backbone


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("layout") / "reviews"))


def plain(backbone: Backbone, text: str) -> tuple[int, ...]:
    return tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_prefix_input_and_suffix_are_one_text(llama: Backbone) -> None:
    layout = TextFormat(prefix="the review : ", suffix=" positive or negative ?")
    wanted = plain(llama, "the review : superb positive or negative ?")
    assert llama.encoder.prompt("superb", layout)[-len(wanted) :] == wanted
    assert layout.words == 'the review : ", then the input, then " positive or negative ?"'.join(['"', ""])
    assert TextFormat(suffix="").words == "the input as it is"


def test_the_input_is_the_user_s_turn(chatty: Backbone) -> None:
    wanted = plain(chatty, "the man said : superb . answer :")
    assert chatty.encoder.prompt("superb", CHAT) == wanted
    given = TextFormat(chat_template=True, prefix="is it", suffix=" ?")
    assert chatty.encoder.prompt(" dull", given) == plain(chatty, "the man said : is it dull ? . answer :")
    assert (CHAT.suffix, TextFormat().suffix) == ("", "\nAnswer:")
    assert CHAT.words == "the input, as the user's turn in the tokenizer's chat template"


def test_a_target_follows_a_chat_without_a_space(chatty: Backbone) -> None:
    end = chatty.tokenizer.eos_token_id
    together = plain(chatty, "the man said :  . answer :positive")
    prompt = plain(chatty, "the man said :  . answer :")
    assert (*prompt, *chatty.encoder.target("positive", CHAT)) == (*together, end)


def test_of_a_chat_only_the_input_is_cut(chatty: Backbone) -> None:
    words = "the film is warm and funny"
    whole = chatty.encoder.prompt(words, CHAT)
    short = CHAT.model_copy(update={"max_input": len(whole) - 2})
    found = chatty.encoder.prompt(words, short)
    assert len(found) <= len(whole) - 2
    ends = plain(chatty, " . answer :")
    assert found[-len(ends) :] == ends
    assert found[:4] == whole[:4]
    with pytest.raises(TaskError, match="leaves no room for the input; raise it above"):
        chatty.encoder.prompt(words, CHAT.model_copy(update={"max_input": 3}))


def test_a_tokenizer_without_a_template_is_refused_with_the_remedy(llama: Backbone, t5: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"has no chat template; leave out --chat .*, or choose a backbone"):
        llama.encoder.prompt("superb", CHAT)
    with pytest.raises(BackboneError, match="reads inputs as they are; leave out --chat"):
        t5.encoder.prompt("superb", CHAT)


def test_a_chat_s_template_counts_for_keys_only_where_it_is_used(chatty: Backbone) -> None:
    other = Backbone(chatty.model, chatty.tokenizer, name="other")
    one, before = BackboneInput.of(chatty, CHAT), BackboneInput.of(chatty)
    other.tokenizer.chat_template = TEMPLATE.replace("said", "wrote")
    try:
        assert BackboneInput.of(other, CHAT) != one
        assert BackboneInput.of(other) == before == BackboneInput.of(other, TextFormat())
    finally:
        other.tokenizer.chat_template = TEMPLATE


def test_what_a_recipe_leaves_open_changes_no_key(task: Task, llama: Backbone) -> None:
    assert not {"suffix", "prefix", "chat_template"} & RECIPE.canonical().keys()
    assert text_format_of(RECIPES["few-shot"]) == TextFormat()
    identity = BackboneInput.of(llama)
    start = module(llama, "start", seed=1, text_format=TextFormat())
    standard = RECIPE.laid_out_as(start.card.text_format)
    keys = {
        TuneUnit.of(task, identity, start=start, recipe=recipe, seed=0).key
        for recipe in (RECIPE, standard, RECIPE.laid_out_as(None))
    }
    assert len(keys) == 1
    assert RECIPE.change(suffix=" ?").canonical()["suffix"] == " ?"


def test_the_layout_travels_on_the_card(task: Task, chatty: Backbone, tmp_path: Path) -> None:
    first = tune(task, chatty, recipe=RECIPE.change(chat_template=True), store=tmp_path / "store")
    save_module(first.module, tmp_path / "mine")
    kept = load_module(tmp_path / "mine").card.text_format
    assert kept == TextFormat(chat_template=True, max_input=48, max_target=8)
    readme = (tmp_path / "mine" / "README.md").read_text()
    assert "apply_chat_template" in readme
    found = evaluate(first, task, chatty, store=False)
    assert found == evaluate(first, task, chatty, text_format=kept, store=False)
    assert found.loss != evaluate(first, task, chatty, text_format=TextFormat(), store=False).loss
    again = tune(task, chatty, start=first, recipe=RECIPE, store=tmp_path / "store")
    assert again.module.card.text_format == kept, "a start keeps the layout that it was tuned on"
    other = tune(task, chatty, start=first, recipe=RECIPE.change(suffix=" ?"), store=tmp_path / "store")
    assert other.module.card.text_format == TextFormat(suffix=" ?", max_input=48, max_target=8)
    rows = [{"input": row.input} for row in task.test]
    assert tuple(predict(first, rows, chatty)["label"]) == found.predictions


def test_modules_are_scored_on_the_recipe_s_layout(task: Task, llama: Backbone) -> None:
    found, other = (
        rank(task, [module(llama, "ada", seed=1)], llama, indicators="loss", recipe=recipe, store=False)
        for recipe in (RECIPE, RECIPE.change(suffix=" positive or negative ?"))
    )
    assert found.scores.values["loss"] != other.scores.values["loss"]


def test_options_of_the_layout() -> None:
    found = RecipeOptions(suffix=r"\nlabel:", chat=True, recipe="quick").load()
    assert (found.suffix, found.prefix, found.chat_template) == ("\nlabel:", None, True)
    plain_options = RecipeOptions(recipe="quick")
    assert plain_options.load() == RECIPES["quick"]
    assert plain_options.text_format(CHAT) is None
    assert RecipeOptions(chat=True).text_format(TextFormat(max_input=9)) == TextFormat(chat_template=True, max_input=9)
    assert RecipeOptions(prefix="a").text_format(CHAT) == TextFormat(chat_template=True, prefix="a")


def test_on_the_command_line(run: Run, here: dict[str, list[str]], llama: Backbone, task: Task) -> None:
    found = run("evaluate", "none", *here["task"], *here["on"], "--suffix", " ?", "--json").data
    layout = TextFormat(suffix=" ?")
    assert found["score"] == evaluate(None, task, llama, text_format=layout, store=False).score
    assert found["loss"] == pytest.approx(evaluate(None, task, llama, text_format=layout, store=False).loss)
    assert_mistake(
        run("evaluate", "none", *here["task"], *here["on"], "--chat"), "has no chat template; leave out --chat"
    )
