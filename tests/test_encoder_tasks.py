"""Modules with task heads on encoders: evaluated and tuned."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from encoder_tasks import RECIPE, STYLE, a_task, examples
from encoders import CARDS, QUERIES, TASKS, encoder, model_of, ours, random_head, random_module
from headstart.backbones import EncoderBackbone, TextFormat, target_loss
from headstart.errors import SettingError, TaskError
from headstart.evaluating.answering import _answer
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.kinds import LoraModule, load_module, save_module, stack_of
from headstart.records import HeadCard, TaskCard
from headstart.tasks import Example, Task, head_of
from headstart.tuning.run import BY_LOSS, CUT_OFF, OTHER_HEAD, UNMOVED, UNTUNED
from headstart.tuning.tune import tune
from naive import assert_close, assert_untouched, photograph
from test_tuning import PowerCut, assert_same_run, kill_at


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


@pytest.fixture(params=["bert", "roberta", "distilbert"])
def backbone(request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder(request.param)


# Evaluation


@pytest.mark.parametrize("task", TASKS)
def test_every_module_answers_through_its_own_head(backbone: EncoderBackbone, task: str) -> None:
    data = a_task(task)
    card = head_of(data.card)
    modules = [random_module(backbone, card, seed=seed, rank=1 + seed % 2) for seed in range(4)]
    before = photograph(backbone)
    found = evaluate_many(modules, data.dev, backbone, metric=data.card.metric, text_format=STYLE)
    assert_untouched(backbone, before)
    rows = backbone.encode([(row.input, row.target) for row in data.dev], STYLE, head=card)
    for module, result in zip(modules, found, strict=True):
        expected, losses = [], []
        for example, row in zip(data.dev, rows, strict=True):
            logits = ours(backbone, [module], [row])
            losses.append(target_loss(logits, backbone.batch([row], [0]).gold).mean().item())
            expected.append(by_hand(logits[0], card, example.input, row.offsets))
        if task == "regression":
            assert [*map(float, result.predictions)] == pytest.approx([*map(float, expected)], abs=1e-3)
        else:
            assert result.predictions == tuple(expected)
        assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5, abs=1e-4)
        assert (result.decoding, result.metric) == ("head", data.card.metric)
        if task != "regression":
            right = sum(a == e.target for a, e in zip(expected, data.dev, strict=True))
            assert result.score == pytest.approx(right / len(expected))
        else:
            pairs = torch.tensor([[float(a), float(e.target)] for a, e in zip(expected, data.dev, strict=True)])
            assert result.score == pytest.approx(torch.corrcoef(pairs.T)[0, 1].item(), abs=1e-3)
    assert len({result.predictions for result in found}) > 1


def by_hand(logits: torch.Tensor, card: HeadCard, text: str, offsets: tuple[tuple[int, int], ...]) -> str:
    if card.task == "classification":
        return card.labels[max(range(card.outputs), key=lambda place: logits[0, place].item())]
    if card.task == "regression":
        return f"{logits[0, 0].item():.6g}"
    best, answer = -math.inf, ""
    for first in range(len(offsets)):
        for last in range(first, min(first + STYLE.max_target, len(offsets))):
            total = (logits[0, first] + logits[1, last]).item()
            if offsets[first][1] and offsets[last][1] and total > best:
                best, answer = total, text[offsets[first][0] : offsets[last][1]].strip()
    return answer


# Of "ab cd" the tokens are <s>, a, b, the space, c, d and </s>, numbered from 0.
@pytest.mark.parametrize(
    ("start", "end", "most", "expected"),
    [
        ([0, 0, 5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 5, 0], 9, "b cd"),
        ([9, 0, 0, 0, 4, 0, 0], [9, 0, 0, 0, 0, 4, 9], 9, "cd"),  # the special tokens are likelier and no answer
        ([0, 0, 0, 0, 0, 6, 0], [0, 5, 0, 0, 0, 0, 0], 9, "d"),  # the end may not lie before the start: 6+0 beats 0+5
        ([0, 5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 5, 0], 5, "ab cd"),  # five tokens
        ([0, 6, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 5, 0], 4, "a"),  # four at most: 6 with any end beats 5 with any start
        ([0, 0, 0, 5, 0, 0, 0], [0, 0, 0, 0, 5, 0, 0], 9, "c"),  # the space before the word is no part of it
        ([0, 5, 0, 0, 0, 0, 0, 99], [0, 0, 5, 0, 0, 0, 0, 99], 9, "ab"),  # places of padding
        ([-9] * 7, [-9] * 7, 9, "a"),  # of equals the first
    ],
)
def test_the_best_span_by_hand(
    bert: EncoderBackbone, start: list[int], end: list[int], most: int, expected: str
) -> None:
    (item,) = bert.encode([("ab cd", "b")], STYLE, head=CARDS["span"])
    logits = torch.tensor([start, end], dtype=torch.float32)
    found = _answer(logits, CARDS["span"], Example("ab cd", ("b",)), item, TextFormat(max_target=most))
    assert found == expected


def test_of_nothing_the_span_is_nothing(bert: EncoderBackbone) -> None:
    (item,) = bert.encode([("", "")], STYLE, head=CARDS["span"])
    assert item.target == (0, 0)
    assert _answer(torch.ones(2, 2), CARDS["span"], Example("", ("",)), item, STYLE) == ""


def test_an_answer_that_was_cut_off_costs_as_the_first_token(bert: EncoderBackbone) -> None:
    cut = TextFormat(max_input=6, max_target=9)
    module = random_module(bert, CARDS["span"])
    (found,) = evaluate_many([module], [Example("a warm film", ("film",))], bert, metric="EM", text_format=cut)
    (row,) = bert.encode([("a warm film", "film")], cut, head=CARDS["span"])
    log_p = ours(bert, [module], [row])[0].log_softmax(-1)
    assert found.loss == pytest.approx(-log_p[:, 0].mean().item(), abs=1e-5)
    assert found.predictions[0] in "a warm film"


def test_heads_of_unequal_labels_are_evaluated_side_by_side(bert: EncoderBackbone) -> None:
    two = HeadCard(task="classification", outputs=2, labels=("negative", "positive"))
    turned = HeadCard(task="classification", outputs=2, labels=("positive", "negative"))
    modules = [random_module(bert, card, seed=n) for n, card in enumerate((CARDS["classification"], two, turned, two))]
    rows = examples("classification")
    found = evaluate_many(modules, rows, bert, metric="ACC", text_format=STYLE)
    for module, result in zip(modules, found, strict=True):
        alone = evaluate_many([module], rows, bert, metric="ACC", text_format=STYLE)[0]
        assert (result.predictions, result.score) == (alone.predictions, alone.score)
        assert set(result.predictions) <= set(module.head.card.labels)  # type: ignore[union-attr]
    other = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
    with pytest.raises(
        TaskError, match=r"none of the head's labels \(no, yes\); correct the row, or tune a head for this"
    ):
        evaluate_many([*modules, random_module(bert, other)], rows, bert, metric="ACC", text_format=STYLE)


@pytest.mark.parametrize("task", TASKS)
def test_a_head_that_is_not_made_of_numbers_has_no_score(bert: EncoderBackbone, task: str) -> None:
    data = a_task(task)
    sound = random_module(bert, head_of(data.card), seed=1)
    assert sound.head is not None
    torn = replace(sound.head, tensors={k: torch.full_like(v, math.nan) for k, v in sound.head.tensors.items()})
    broken, other = evaluate_many(
        [sound.with_head(torn), sound], data.dev, bert, metric=data.card.metric, text_format=STYLE
    )
    assert math.isnan(broken.score)
    assert math.isnan(broken.loss)
    assert math.isfinite(other.loss)


def test_an_encoder_without_a_head_is_not_evaluated(bert: EncoderBackbone) -> None:
    rows = examples("classification")
    with pytest.raises(SettingError, match="tiny-bert is an encoder, which answers through a task head; tune one with"):
        evaluate_many([None], rows, bert, metric="ACC")
    with pytest.raises(SettingError, match="module 'bare' has no task head to answer through on tiny-bert; tune it fi"):
        evaluate_many([random_module(bert, name="bare")], rows, bert, metric="ACC")
    for decoding in ("options", "generate"):
        with pytest.raises(
            SettingError, match="tiny-bert is an encoder and answers through its head; leave decoding at"
        ):
            evaluate_many([random_module(bert, CARDS["classification"])], rows, bert, metric="ACC", decoding=decoding)


# Tuning


@pytest.mark.parametrize("task", TASKS)
def test_module_and_head_learn_together(backbone: EncoderBackbone, task: str, tmp_path: Path) -> None:
    rows, before = examples(task)[:6], photograph(backbone)
    data = replace(a_task(task), splits={"train": rows, "dev": rows})
    layers = QUERIES[backbone.name.removeprefix("tiny-")]
    tuned = tune(data, backbone, recipe=RECIPE.change(max_steps=60, eval_every=20, targets=layers))
    assert_untouched(backbone, before)
    assert tuned.best.dev_loss < 0.8 * tuned.curve[0].dev_loss
    module = tuned.module
    assert module.head is not None
    assert module.card.head == module.head.card
    assert module.card.head.answers_as(head_of(data.card))
    fresh = backbone.fresh_head(head_of(data.card), seed=0)
    assert any(not torch.equal(module.head.tensors[k], v) for k, v in fresh.tensors.items()), "the head must move"
    assert isinstance(module, LoraModule)
    assert any(factor.b.any() for factor in module.factors.values()), "and the module"
    save_module(module, tmp_path / "m")
    loaded = load_module(tmp_path / "m")
    again = evaluate_many([loaded], data.dev, backbone, metric=data.card.metric, text_format=STYLE)[0]
    assert again.loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)


def test_the_loop_minimizes_what_transformers_minimizes(bert: EncoderBackbone) -> None:
    data = a_task("regression")
    head = random_head(bert, head_of(data.card))
    row = bert.encode([(data.train[0].input, data.train[0].target)], STYLE, head=head.card)[0]
    module = random_module(bert).reset(seed=0).with_head(head)
    stack = stack_of([module], bert, dtype=torch.float32)
    with stack.attach(bert):
        for value in stack.parameters.values():
            value.requires_grad_(True)
        batch = bert.batch([row], [0])
        target_loss(bert.target_logits(batch), batch.gold).mean().backward()
    model = model_of(bert, head)
    model(input_ids=torch.tensor([row.prompt]), labels=torch.tensor([row.value])).loss.backward()
    for name in head.tensors:
        found = stack.parameters[f"head.{name}"].grad
        assert found is not None
        assert_close(found[0], model.get_parameter(name).grad, within=1e-4)


def test_a_head_is_kept_for_its_own_task_only(bert: EncoderBackbone) -> None:
    data = a_task("classification")
    card = head_of(data.card)
    start = random_module(bert, card, seed=1)
    short = RECIPE.change(warmup_steps=0, max_steps=1, eval_every=1)

    def begun(name: str, *, head: HeadCard = card, task: Task = data) -> tuple[float, float]:
        """Dev loss before the first step, and what the start's own head would have."""
        own = random_module(bert, head, seed=1)
        given = replace(own, card=own.card.model_copy(update={"task": name}))
        first = tune(task, bert, start=given, recipe=short).curve[0].dev_loss
        return first, evaluate_many([start], task.dev, bert, metric="ACC", text_format=STYLE)[0].loss

    fresh = evaluate_many(
        [start.with_head(bert.fresh_head(card, seed=0))], data.dev, bert, metric="ACC", text_format=STYLE
    )[0]
    kept, own = begun("reviews")
    assert kept == pytest.approx(own, abs=1e-5)
    assert kept != pytest.approx(fresh.loss, abs=1e-3)
    assert begun("something else")[0] == pytest.approx(fresh.loss, abs=1e-5)
    turned = card.model_copy(update={"labels": card.labels[::-1]})
    assert begun("reviews", head=turned)[0] == pytest.approx(fresh.loss, abs=1e-5)
    assert begun("reviews", head=CARDS["classification"])[0] == pytest.approx(fresh.loss, abs=1e-5)
    nameless = card.model_copy(update={"labels": ()})
    assert begun("reviews", head=nameless)[0] == pytest.approx(fresh.loss, abs=1e-5)


def test_the_seed_draws_the_head(bert: EncoderBackbone) -> None:
    data, start = a_task("classification"), random_module(bert)
    short = RECIPE.change(warmup_steps=0, max_steps=1, eval_every=1)
    first, again, other = (tune(data, bert, start=start, recipe=short, seed=seed).curve[0] for seed in (1, 1, 2))
    assert first.dev_loss == again.dev_loss != other.dev_loss


@pytest.mark.parametrize("step", [3, 5])
def test_a_killed_run_continues_with_its_head(bert: EncoderBackbone, tmp_path: Path, step: int) -> None:
    data, checkpoint = a_task("span"), tmp_path / "run.partial"
    whole = tune(data, bert, recipe=RECIPE, store=False)
    with pytest.raises(PowerCut):
        tune(data, bert, recipe=RECIPE, checkpoint=checkpoint, progress=kill_at(step))
    continued = tune(data, bert, recipe=RECIPE, checkpoint=checkpoint)
    assert_same_run(continued, whole)
    assert continued.module.head is not None
    assert whole.module.head is not None
    for name, value in whole.module.head.tensors.items():
        assert torch.equal(continued.module.head.tensors[name], value)


def test_a_checkpoint_with_another_head_is_refused(bert: EncoderBackbone, tmp_path: Path) -> None:
    data, checkpoint = a_task("classification"), tmp_path / "run.partial"
    start = random_module(bert, head_of(data.card))
    start = replace(start, card=start.card.model_copy(update={"task": "reviews"}))
    with pytest.raises(PowerCut):
        tune(data, bert, start=start, recipe=RECIPE, checkpoint=checkpoint, progress=kill_at(5))
    other = start.with_head(random_head(bert, head_of(data.card), seed=8))
    with pytest.raises(
        SettingError, match="is the checkpoint of a run with other settings, data or backbone; remove it"
    ):
        tune(data, bert, start=other, recipe=RECIPE, checkpoint=checkpoint)


def test_a_task_that_no_head_answers_is_refused_before_any_step(bert: EncoderBackbone) -> None:
    rows = tuple(replace(row, options=("a", "b"), outputs=("a",)) for row in examples("span"))
    own_options = Task(TaskCard(name="quiz", options="field"), {"train": rows, "dev": rows})
    with pytest.raises(TaskError, match="every row of task 'quiz' has its own options, which no head of an encoder"):
        tune(own_options, bert, recipe=RECIPE)
    free = Task(TaskCard(name="free"), {"train": (Example("a warm film", ("cold",)),), "dev": examples("span")})
    with pytest.raises(
        TaskError, match="the target 'cold' does not stand in its input 'a warm film', so no span of it"
    ):
        tune(free, bert, recipe=RECIPE)


def test_a_run_says_what_its_caller_may_not_expect(bert: EncoderBackbone) -> None:
    still = RECIPE.change(lr=1e-12, max_steps=4)
    task = a_task("classification")
    tuned = tune(task, bert, recipe=still.change(select="score"))
    assert tuned.best.step == 0
    assert tuned.notes == (UNTUNED.format(by="score", steps=8, other=BY_LOSS),)
    by_loss = still.change(select="loss")
    assert tune(task, bert, start=tuned.module, recipe=by_loss).notes == (UNMOVED,)
    assert (
        tune(task, bert, recipe=by_loss)
        .notes[-1]
        .endswith("(--set max_steps=8, recipe.change(max_steps=8) in Python).")
    )
    other = replace(task, card=task.card.model_copy(update={"labels": tuple(reversed(task.card.labels or ()))}))
    assert OTHER_HEAD in tune(other, bert, start=tuned.module, recipe=still).notes
    assert OTHER_HEAD not in tune(task, bert, start=tuned.module, recipe=still).notes


def test_training_rows_whose_answer_is_cut_off_are_left_out(bert: EncoderBackbone) -> None:
    task = a_task("span")
    late = tuple(replace(row, input=f"{'so ' * 20}{row.input}") for row in task.train[:5])
    mixed = replace(task, splits={**task.splits, "train": (*late, *task.train[5:])})
    tuned = tune(mixed, bert, recipe=RECIPE)
    assert CUT_OFF.format(count=5, rows=len(task.train), most=RECIPE.max_input) in tuned.notes
    assert tuned.module.card.train_rows == len(task.train) - 5
    with pytest.raises(TaskError, match="no answer of the 5 training rows of 'reviews' lies within the first 32"):
        tune(replace(task, splits={**task.splits, "train": late}), bert, recipe=RECIPE)
