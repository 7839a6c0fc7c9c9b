"""Predictions, metric and loss of modules on examples."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.errors import SettingError, TaskError
from headstart.evaluating.evaluate_many import evaluate_attached, evaluate_many
from headstart.evaluating.evaluation import Evaluation
from headstart.events import Event, Progress
from headstart.indicators.engine import score
from headstart.kinds import LoraModule
from headstart.records import Calibration
from headstart.tasks import Example
from naive import BACKBONES, REVIEWS, Merged, assert_untouched, load, photograph, random_lora

OPEN = tuple(replace(example, options=None) for example in REVIEWS)
STYLE = TextFormat(max_target=8)


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


def naive_choice(backbone: Backbone, module: LoraModule | None, example: Example) -> str:
    merged = Merged(backbone, module)
    prompt = backbone.encoder.prompt(example.input, STYLE)
    losses = {
        option: merged.cross_entropy([Encoded(prompt, backbone.encoder.target(option, STYLE))]).item()
        for option in example.options or ()
    }
    return min(losses, key=lambda option: losses[option])


def test_options_are_chosen_by_likelihood(backbone: Backbone) -> None:
    modules: list[LoraModule | None] = [None, random_lora(backbone, seed=1), random_lora(backbone, seed=2, rank=2)]
    before = photograph(backbone)
    found = evaluate_many(modules, REVIEWS, backbone, metric="ACC", text_format=STYLE)
    assert_untouched(backbone, before)
    for module, result in zip(modules, found, strict=True):
        expected = tuple(naive_choice(backbone, module, example) for example in REVIEWS)
        assert result.predictions == expected
        right = sum(answer == example.target for answer, example in zip(expected, REVIEWS, strict=True))
        assert result.score == pytest.approx(right / len(REVIEWS))
        assert (result.metric, result.decoding) == ("ACC", "options")


def test_open_answers_are_generated(backbone: Backbone) -> None:
    modules = [random_lora(backbone, seed=seed) for seed in (1, 2)]
    found = evaluate_many(modules, OPEN, backbone, metric="EM", text_format=STYLE)
    for module, result in zip(modules, found, strict=True):
        assert result.decoding == "generate"
        with torch.inference_mode(), LoraModule.stack([module], backbone).attach(backbone):
            for example, answer in zip(OPEN, result.predictions, strict=True):
                prompt = backbone.encoder.prompt(example.input, STYLE)
                assert backbone.generate([prompt], max_new_tokens=8) == [[answer]]
    assert found[0].predictions != found[1].predictions


def test_the_loss_is_the_one_that_scoring_finds(backbone: Backbone) -> None:
    modules = [random_lora(backbone, seed=seed) for seed in (1, 2)]
    wanted = [
        -value for value in score(modules, REVIEWS, backbone, indicators=["loss"], text_format=STYLE).values["loss"]
    ]
    for examples in (REVIEWS, OPEN):
        found = evaluate_many(modules, examples, backbone, metric="ACC", text_format=STYLE)
        assert [result.loss for result in found] == pytest.approx(wanted, abs=1e-4)


def test_the_bare_backbone_is_a_module_of_zeros(backbone: Backbone) -> None:
    empty = random_lora(backbone, seed=1).reset(seed=0)
    bare, zeros, again = evaluate_many([None, empty, None], REVIEWS, backbone, metric="ACC", text_format=STYLE)
    assert bare.predictions == zeros.predictions
    assert bare.loss == pytest.approx(zeros.loss, abs=1e-5)
    assert again == bare


def test_results_stand_in_the_order_of_the_modules(llama: Backbone) -> None:
    modules = [None, *(random_lora(llama, seed=seed, rank=1 + seed % 3) for seed in range(11)), None]
    found = evaluate_many(modules, REVIEWS[:3], llama, metric="ACC", text_format=STYLE)
    alone = [evaluate_many([module], REVIEWS[:3], llama, metric="ACC", text_format=STYLE)[0] for module in modules]
    assert [result.predictions for result in found] == [result.predictions for result in alone]
    assert [result.loss for result in found] == pytest.approx([result.loss for result in alone], abs=1e-4)
    assert evaluate_many([], REVIEWS, llama, metric="ACC") == []


def test_of_equal_options_the_first_wins(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(self: Backbone, prompts: list[object], options: list[list[object]], *, modules: int = 1) -> object:
        return [[[-1.0] * len(listed) for listed in options] for _ in range(modules)]

    monkeypatch.setattr(Backbone, "option_scores", equal)
    (found,) = evaluate_many([None], REVIEWS, llama, metric="ACC")
    assert found.predictions == ("negative",) * len(REVIEWS)


def test_an_option_listed_twice_does_not_move_the_others(llama: Backbone) -> None:
    once = [Example(example.input, ("x",), ("yes", "positive", "no", "negative")) for example in REVIEWS]
    twice = [replace(example, options=("yes", "yes", "positive", "no", "negative")) for example in once]
    first, second = (evaluate_many([None], examples, llama, metric="ACC")[0].predictions for examples in (once, twice))
    assert first == second
    assert len(set(first)) > 1


def test_a_gold_answer_outside_the_options_is_never_chosen_but_has_a_loss(llama: Backbone) -> None:
    outside = [replace(example, outputs=("not_entailment",)) for example in REVIEWS]
    (found,) = evaluate_many([None], outside, llama, metric="ACC", text_format=STYLE)
    assert set(found.predictions) <= {"positive", "negative"}
    items = llama.encode([(example.input, example.target) for example in outside], STYLE)
    wanted = Merged(llama, None).cross_entropy(items).item() / sum(len(item.target) for item in items)
    assert found.loss == pytest.approx(wanted, abs=1e-4)


def test_decoding_can_be_chosen(llama: Backbone) -> None:
    (found,) = evaluate_many([None], REVIEWS, llama, metric="ACC", decoding="generate", text_format=STYLE)
    (opened,) = evaluate_many([None], OPEN, llama, metric="ACC", text_format=STYLE)
    assert found == opened
    mixed = (*REVIEWS[:2], *OPEN[2:])
    assert evaluate_many([None], mixed, llama, metric="ACC", text_format=STYLE)[0].decoding == "generate"


def test_an_undefined_metric_is_not_a_zero(llama: Backbone) -> None:
    same = [replace(example, outputs=("positive",)) for example in REVIEWS]
    (found,) = evaluate_many([None], same, llama, metric="Matthew-Correlation")
    assert math.isnan(found.score)


def test_predictions_that_are_not_numbers_have_no_score(llama: Backbone) -> None:
    # Of NaN likelihoods the first option would win: half of REVIEWS right, by nothing that the module did.
    sound = random_lora(llama, seed=1)
    broken = sound.with_parameters(
        {name: torch.full_like(value, math.nan) for name, value in sound.parameters().items()}
    )
    found, other = evaluate_many([broken, sound], REVIEWS, llama, metric="ACC")
    assert math.isnan(found.score)
    assert math.isnan(found.loss)
    assert 0 <= other.score <= 1


def test_progress(llama: Backbone) -> None:
    seen: list[Event] = []
    modules = [random_lora(llama, seed=1, rank=2), random_lora(llama, seed=1, rank=3)]
    evaluate_many(modules, REVIEWS[:2], llama, metric="ACC", progress=seen.append)
    assert seen == [Progress("evaluating rows", 2, 4), Progress("evaluating rows", 4, 4)]
    seen.clear()
    evaluate_many([None, *modules], REVIEWS, llama, metric="ACC", decoding="generate", progress=seen.append)
    counts = [event.done for event in seen if isinstance(event, Progress)]
    assert counts == sorted(set(counts))
    assert counts[-1] == 3 * len(REVIEWS)


def test_errors(llama: Backbone) -> None:
    with pytest.raises(TaskError, match="there are no examples to evaluate on; give the task a test split"):
        evaluate_many([None], [], llama, metric="ACC")
    with pytest.raises(TaskError, match="this task's examples list no options; use decoding 'generate'"):
        evaluate_many([None], OPEN, llama, metric="ACC", decoding="options")
    with pytest.raises(SettingError, match="unknown decoding 'beam'; choose one of: auto, options, generate"):
        evaluate_attached(llama, REVIEWS, metric="ACC", decoding="beam")
    with pytest.raises(SettingError, match="unknown metric 'luck'"):
        evaluate_many([None], REVIEWS, llama, metric="luck")


def test_without_a_metric_it_says_which_there_are(llama: Backbone) -> None:
    with pytest.raises(SettingError, match=r"unknown metric 'None'; choose one of: ACC, "):
        evaluate_many([None], REVIEWS, llama, metric=None, text_format=STYLE)  # type: ignore[arg-type]


def evaluation(scores: list[list[float]], *, targets: list[str], **changes: Any) -> Evaluation:
    options = tuple(("no", "yes") for _ in scores)
    rows = tuple(Example("?", (target,), ("no", "yes")) for target in targets)
    fields = {"losses": tuple(9.0 for _ in scores), "options": options, "scores": tuple(map(tuple, scores)),
              "lengths": tuple((1, 2) for _ in scores), "examples": rows}  # fmt: skip
    return Evaluation("ACC", 0.5, 1.0, tuple("no" for _ in scores), "options", **(fields | changes))


def test_the_loss_of_a_row_is_that_of_the_probability_that_predict_gives() -> None:
    # ln 3 against 0: the right answer has 3 of 4 parts, so −ln 3/4; the wrong one −ln 1/4.
    found = list(evaluation([[math.log(3), 0.0]] * 2, targets=["no", "yes"]).answer_losses)
    assert found == pytest.approx([-math.log(0.75), -math.log(0.25)])


def test_the_loss_of_a_row_is_calibrated() -> None:
    offsets = Calibration(method="batch", offsets={"no": math.log(3), "yes": 0.0})
    assert list(evaluation([[math.log(3), 0.0]], targets=["no"], calibration=offsets).answer_losses) == pytest.approx(
        [math.log(2)]
    )
    length = Calibration(method="length")  # ln 3 / 1 against 2 ln 3 / 2
    assert list(
        evaluation([[math.log(3), 2 * math.log(3)]], targets=["no"], calibration=length).answer_losses
    ) == pytest.approx([math.log(2)])


def test_any_right_answer_counts_and_open_answers_have_the_loss_of_the_target() -> None:
    both = Example("?", ("no", "yes"), ("no", "yes"))
    found = evaluation([[1.0, 1.0]], targets=["no"], examples=(both,))
    assert found.answer_loss == pytest.approx(0.0, abs=1e-12)
    written = replace(found, scores=(), options=(), lengths=())
    assert written.answer_losses == (9.0,)
    assert math.isnan(replace(written, losses=()).answer_loss), "nothing is known of these rows"
    other = Example("?", ("maybe",), ("no", "yes"))
    assert evaluation([[1.0, 1.0]], targets=["no"], examples=(other,)).answer_losses == (9.0,)


def test_the_interval_of_a_score_is_over_rows_and_over_groups() -> None:
    def of(right: list[bool], groups: list[str] | None = None) -> tuple[float, float]:
        made = evaluation([[1.0, 0.0]] * len(right), targets=["no" if yes else "yes" for yes in right])
        names = groups or [""] * len(right)
        rows = tuple(replace(row, group=name or None) for row, name in zip(made.examples, names, strict=True))
        return replace(made, score=sum(right) / len(right), examples=rows).interval

    low, high = of([True] * 30 + [False] * 10)
    # √(0.75 · 0.25 / 39) is the error of a share of 40 rows, and Student's t of 39 degrees of freedom 2.02
    assert (low, high) == pytest.approx((0.75 - 2.02 * 0.0693, 0.75 + 2.02 * 0.0693), abs=0.01)
    wider = of([True] * 30 + [False] * 10, [f"g{row // 5}" for row in range(40)])
    assert wider[0] < low
    assert wider[1] == pytest.approx(1.0), "rows of one group are alike, and a share ends at 1"
    least, most = of([True] * 40)
    assert (least < 1.0, most) == (True, 1.0), "40 rows that agree are no proof that all would"
    assert all(math.isnan(end) for end in of([True])), "one row says nothing of others"
