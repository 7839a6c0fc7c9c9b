"""The road of a task on encoders: evaluate, tune, score, rank, blend and compare modules with task heads."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from encoders import CARDS, QUERIES, TASKS, encoder, in_peft, model_of, ours, random_head, random_module
from headstart import comparing, pipeline
from headstart.backbone import EncoderBackbone, TextFormat, target_loss
from headstart.blending import ensemble
from headstart.comparing import UNTUNED_HEAD, Blend, compare
from headstart.errors import SettingError, TaskError
from headstart.evaluation import _answer, evaluate
from headstart.kinds import LoraModule, Module, load_module, save_module, stack_of
from headstart.merging import RULES
from headstart.pipeline import rank
from headstart.recipes import Recipe
from headstart.records import HeadCard, TaskCard
from headstart.reports.verdict import verdict
from headstart.scoring import INDICATORS, score
from headstart.tasks import Example, Task, head_of
from headstart.tuning import style_of, tune
from naive import assert_close, assert_same_arrays, assert_untouched, photograph
from test_tuning import PowerCut, assert_same_run, kill_at

RECIPE = Recipe(
    name="tiny", lr=2e-2, batch_size=4, max_steps=8, eval_every=4, patience=9, optimizer="adamw", schedule="linear",
    warmup_steps=1, clip=1.0, max_input=32, max_target=12, rank=2, alpha=4.0, select="loss",
)  # fmt: skip
STYLE = style_of(RECIPE)
PLACES = ("film", "book", "play", "song", "tale", "show")
WORDS = {"positive": ("warm", "funny", "superb"), "negative": ("dull", "tired", "silly")}


def examples(task: str) -> tuple[Example, ...]:
    """Rows that a head can learn: a class, a number or the very word, by the adjective."""
    rows = []
    for place, (label, words) in itertools.product(PLACES[:4], WORDS.items()):
        for number, word in enumerate(words):
            text = f"the {place} is {word}"
            target = {"classification": label, "regression": str(number - 1.5), "span": word}[task]
            rows.append(Example(text, (target,), tuple(WORDS) if task == "classification" else None))
    return tuple(rows)


def a_task(task: str, *, name: str = "reviews") -> Task:
    metric = {"classification": "ACC", "regression": "Pearson-Correlation", "span": "EM"}[task]
    card = TaskCard(name=name, metric=metric, labels=tuple(WORDS) if task == "classification" else None)
    rows = examples(task)
    return Task(card, {"train": rows, "dev": rows[::2], "test": rows[1::2]})


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
    found = evaluate(modules, data.dev, backbone, metric=data.card.metric, style=STYLE)
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
    (found,) = evaluate([module], [Example("a warm film", ("film",))], bert, metric="EM", style=cut)
    (row,) = bert.encode([("a warm film", "film")], cut, head=CARDS["span"])
    log_p = ours(bert, [module], [row])[0].log_softmax(-1)
    assert found.loss == pytest.approx(-log_p[:, 0].mean().item(), abs=1e-5)
    assert found.predictions[0] in "a warm film"


def test_heads_of_unequal_labels_are_evaluated_side_by_side(bert: EncoderBackbone) -> None:
    two = HeadCard(task="classification", outputs=2, labels=("negative", "positive"))
    turned = HeadCard(task="classification", outputs=2, labels=("positive", "negative"))
    modules = [random_module(bert, card, seed=n) for n, card in enumerate((CARDS["classification"], two, turned, two))]
    rows = examples("classification")
    found = evaluate(modules, rows, bert, metric="ACC", style=STYLE)
    for module, result in zip(modules, found, strict=True):
        alone = evaluate([module], rows, bert, metric="ACC", style=STYLE)[0]
        assert (result.predictions, result.score) == (alone.predictions, alone.score)
        assert set(result.predictions) <= set(module.head.card.labels)  # type: ignore[union-attr]
    other = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
    with pytest.raises(
        TaskError, match=r"none of the head's labels \(no, yes\); mend the row, or tune a head for this"
    ):
        evaluate([*modules, random_module(bert, other)], rows, bert, metric="ACC", style=STYLE)


@pytest.mark.parametrize("task", TASKS)
def test_a_head_that_is_not_made_of_numbers_has_no_score(bert: EncoderBackbone, task: str) -> None:
    data = a_task(task)
    sound = random_module(bert, head_of(data.card), seed=1)
    assert sound.head is not None
    torn = replace(sound.head, tensors={k: torch.full_like(v, math.nan) for k, v in sound.head.tensors.items()})
    broken, other = evaluate([sound.with_head(torn), sound], data.dev, bert, metric=data.card.metric, style=STYLE)
    assert math.isnan(broken.score)
    assert math.isnan(broken.loss)
    assert math.isfinite(other.loss)


def test_an_encoder_without_a_head_is_not_evaluated(bert: EncoderBackbone) -> None:
    rows = examples("classification")
    with pytest.raises(SettingError, match="tiny-bert is an encoder, which answers through a task head; tune one with"):
        evaluate([None], rows, bert, metric="ACC")
    with pytest.raises(SettingError, match="module 'bare' has no task head to answer through on tiny-bert; tune it fi"):
        evaluate([random_module(bert, name="bare")], rows, bert, metric="ACC")
    for decoding in ("options", "generate"):
        with pytest.raises(
            SettingError, match="tiny-bert is an encoder and answers through its head; leave decoding at"
        ):
            evaluate([random_module(bert, CARDS["classification"])], rows, bert, metric="ACC", decoding=decoding)


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
    again = evaluate([loaded], data.dev, backbone, metric=data.card.metric, style=STYLE)[0]
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
    short = RECIPE.change(max_steps=1, eval_every=1)

    def begun(name: str, *, head: HeadCard = card, task: Task = data) -> tuple[float, float]:
        """Dev loss before the first step, and what the start's own head would have."""
        own = random_module(bert, head, seed=1)
        given = replace(own, card=own.card.model_copy(update={"task": name}))
        first = tune(task, bert, start=given, recipe=short).curve[0].dev_loss
        return first, evaluate([start], task.dev, bert, metric="ACC", style=STYLE)[0].loss

    fresh = evaluate([start.with_head(bert.fresh_head(card, seed=0))], data.dev, bert, metric="ACC", style=STYLE)[0]
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
    short = RECIPE.change(max_steps=1, eval_every=1)
    first, again, other = (tune(data, bert, start=start, recipe=short, seed=seed).curve[0] for seed in (1, 1, 2))
    assert first.dev_loss == again.dev_loss != other.dev_loss


@pytest.mark.parametrize("step", [3, 5])
def test_a_killed_run_continues_with_its_head(bert: EncoderBackbone, tmp_path: Path, step: int) -> None:
    data, checkpoint = a_task("span"), tmp_path / "run.partial"
    whole = tune(data, bert, recipe=RECIPE)
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


# Scoring


def reference(backbone: EncoderBackbone, task: str) -> Module:
    return random_module(backbone, head_of(a_task(task).card), seed=50, name="reference")


@pytest.mark.parametrize("task", TASKS)
def test_all_modules_answer_through_the_reference_s_head(backbone: EncoderBackbone, task: str) -> None:
    data, like = a_task(task), reference(backbone, task)
    cards = [CARDS["classification"], None, CARDS["span"], CARDS["regression"]]
    modules = [random_module(backbone, card, seed=seed) for seed, card in enumerate(cards)]
    names = ["loss", "el2n", "cosine", "kl", "grand", "tupate"]
    found = score(modules, data.dev, backbone, indicators=names, reference=like, style=STYLE)
    bare = score(
        [m.with_head(None) for m in modules], data.dev, backbone, indicators=names, reference=like, style=STYLE
    )
    assert repr(found) == repr(bare), "a module's own head plays no part"
    shared = [module.with_head(like.head) for module in modules]
    wanted = evaluate(shared, data.dev, backbone, metric=data.card.metric, style=STYLE)
    assert found.values["loss"] == pytest.approx([-result.loss for result in wanted], abs=1e-4)
    assert found.tokens == len(data.dev) * (2 if task == "span" else 1)
    missing = {name for name in names if INDICATORS[name].distribution} if task == "regression" else set()
    assert missing == ({"el2n", "cosine", "kl"} if task == "regression" else set())
    for name in names:
        assert all(math.isnan(value) is (name in missing) for value in found.values[name]), name
        assert (name in found.reasons) is (name in missing)
    for name in missing:
        assert set(found.reasons[name].values()) == {
            "it compares distributions over answers, and a regression answers with one number"
        }


@pytest.mark.parametrize("task", TASKS)
def test_grand_is_of_the_module_s_parameters_alone(bert: EncoderBackbone, task: str) -> None:
    data, like = a_task(task), reference(bert, task)
    module = random_module(bert, seed=3)
    (found,) = score(
        [module], data.dev, bert, indicators=["grand"], reduction="sum", reference=like, style=STYLE
    ).values["grand"]
    stack = stack_of([module.with_head(like.head)], bert, dtype=torch.float32)
    rows = bert.encode([(row.input, row.target) for row in data.dev], STYLE, head=like.card.head)
    with stack.attach(bert):
        for value in stack.parameters.values():
            value.requires_grad_(True)
        batch = bert.batch(rows, range(len(rows)))
        target_loss(bert.target_logits(batch), batch.gold).sum().backward()
    squares = {name: value.grad.double().square().sum().item() for name, value in stack.parameters.items()}  # type: ignore[union-attr]
    assert any(name.startswith("head.") and square > 0 for name, square in squares.items())
    wanted = -math.sqrt(sum(square for name, square in squares.items() if not name.startswith("head.")))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_variants_that_run_through_peft_are_scored_with_the_reference_s_head(
    bert: EncoderBackbone, tmp_path: Path
) -> None:
    from peft import LoraConfig

    data, like = a_task("classification"), reference(bert, "classification")
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", use_dora=True)
    in_peft(bert, random_head(bert, CARDS["classification"]), config).save_pretrained(tmp_path / "dora")
    modules = [load_module(tmp_path / "dora"), random_module(bert, seed=1)]
    found = score(modules, data.dev, bert, indicators=["loss", "grand"], reference=like, style=STYLE)
    wanted = evaluate([m.with_head(like.head) for m in modules], data.dev, bert, metric="ACC", style=STYLE)
    assert found.values["loss"] == pytest.approx([-result.loss for result in wanted], abs=1e-4)
    assert all(value < 0 for value in found.values["grand"])


def test_comparing_parameters_needs_no_head_and_reads_no_text(
    bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [random_module(bert, CARDS["span"], seed=seed) for seed in range(3)]
    monkeypatch.setattr(EncoderBackbone, "encode", lambda *_, **__: pytest.fail("a text was read"))
    found = score(modules, examples("span"), bert, indicators=["tupate"], reference=modules[1].with_head(None))
    assert found.values["tupate"][1] == pytest.approx(1.0)
    assert found.tokens == 0


def test_without_a_tuned_head_there_is_no_score(bert: EncoderBackbone) -> None:
    for like in (None, random_module(bert)):
        with pytest.raises(
            SettingError, match="on the encoder tiny-bert modules answer through a task head that was tun"
        ):
            score([random_module(bert)], examples("span"), bert, indicators=["loss"], reference=like)


# The whole road


def hub_of(backbone: EncoderBackbone) -> list[Module]:
    """Modules of tasks of every sort, with a head and without."""
    cards = [CARDS["classification"], CARDS["span"], CARDS["regression"], None]
    return [random_module(backbone, card, seed=seed, name=name) for seed, (card, name) in
            enumerate(zip(cards, ("ada", "bob", "cyd", "dan"), strict=True))]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_rank_tunes_a_reference_for_its_head(bert: EncoderBackbone, task: str) -> None:
    data = a_task(task)
    ranking = rank(data, hub_of(bert), bert, indicators=("loss",), recipe=RECIPE)
    made = ranking.reference
    assert made is not None
    assert made.card.head is not None
    assert made.card.head.answers_as(head_of(data.card))
    again = rank(data, hub_of(bert), bert, indicators=("loss",), recipe=RECIPE, reference=made)
    assert again.scores == ranking.scores
    assert set(ranking.scores.names) == {"ada", "bob", "cyd", "dan"}


@pytest.mark.parametrize("rule", ["softmax", "uniform", "best_single", "top_k"])
def test_a_start_has_no_head(bert: EncoderBackbone, rule: str) -> None:
    data = a_task("classification")
    top = {"top_k": 2} if "top_k" in RULES[rule].reads and rule == "top_k" else {}
    start = ensemble(data, hub_of(bert), bert, rule=rule, recipe=RECIPE, **top)
    assert (start.module.head, start.module.card.head) == (None, None)
    tuned = tune(data, bert, start=start.module, recipe=RECIPE)
    assert tuned.module.card.head is not None
    assert tuned.module.card.head.labels == data.card.labels
    assert {donor.name for donor in tuned.module.card.donors} <= {"ada", "bob", "cyd", "dan"}


def test_compare_before_tuning_there_is_nothing_to_compare(bert: EncoderBackbone) -> None:
    data = a_task("classification")
    found = compare(data, hub_of(bert), bert, seeds=2, shots=2, blend=Blend(temperature=0.5), recipe=RECIPE)
    zero, tuned = (found.scores[found.scores["stage"] == stage] for stage in ("zero-shot", "tuned"))
    assert zero["score"].isna().all()
    assert set(zero["reason"]) == {UNTUNED_HEAD}
    assert tuned["score"].between(0, 1).all()
    assert set(tuned["reason"]) == {""}
    assert found.settings["decoding"] == "head"
    text = verdict(found)
    assert text.count(UNTUNED_HEAD) == 1
    assert (
        "Before tuning, the ensemble could not be compared with scratch, the average and the best single module "
        f"(no seed has both scores; seeds 0, 1: {UNTUNED_HEAD})."
    ) in text
    assert "After tuning, " in text


def test_the_methods_of_a_seed_share_one_fresh_head(bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, Any]] = []

    def watched(*args: Any, **settings: Any) -> Any:
        starts.append(settings)
        return tune(*args, **settings)

    monkeypatch.setattr(comparing, "tune", watched)
    compare(a_task("regression"), hub_of(bert), bert, seeds=2, shots=1, blend=Blend(indicator="loss"), recipe=RECIPE)
    assert [call["seed"] for call in starts] == [0] * 4 + [1] * 4
    assert all(call["start"].head is None for call in starts)


def test_an_indicator_without_values_is_refused_before_any_tuning(
    bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "tune", lambda *_, **__: pytest.fail("it tuned"))
    message = "'cosine' has no value for 'reviews': it compares distributions .* use one of: loss, .*grand"
    for run in (compare, ensemble):
        with pytest.raises(SettingError, match=message):
            run(a_task("regression"), hub_of(bert), bert)
    with pytest.raises(
        SettingError, match="tiny-bert is an encoder and answers through its head; leave decoding at auto"
    ):
        compare(a_task("classification"), hub_of(bert), bert, decoding="options")
    with pytest.raises(TaskError, match="has its own options, which no head of an encoder chooses among"):
        ensemble(replace(a_task("span"), card=TaskCard(name="q", options="field")), hub_of(bert), bert)


def test_a_hub_of_tuned_modules_is_evaluated_with_their_heads(bert: EncoderBackbone, tmp_path: Path) -> None:
    data = a_task("classification")
    tuned = [
        tune(data, bert, recipe=RECIPE.change(rank=rank_), seed=rank_, name=f"m{rank_}").module for rank_ in (1, 2)
    ]
    for module in tuned:
        save_module(module, tmp_path / module.name)
    loaded = [load_module(tmp_path / module.name) for module in tuned]
    found = evaluate(loaded, data.test, bert, metric="ACC", style=STYLE)
    assert [r.predictions for r in found] == [
        evaluate([module], data.test, bert, metric="ACC", style=STYLE)[0].predictions for module in tuned
    ]
    for one, other in zip(loaded, tuned, strict=True):
        assert_same_arrays(one, other)
