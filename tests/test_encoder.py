"""Encoders with task heads: identity, tokens, and logits equal to transformers' own on one example at a time."""

import copy
import math
from pathlib import Path

import pytest
import torch

from encoders import (
    CARDS,
    ENCODERS,
    LABELS,
    STYLE,
    TASKS,
    encoder,
    items,
    model_of,
    ours,
    plain,
    random_head,
    random_module,
)
from headstart.backbones import Encoded, EncoderBackbone, HeadStack, TextFormat, target_loss
from headstart.errors import BackboneError, SettingError, TaskError
from headstart.kinds import LoraModule, fresh_module, stack_of
from headstart.records import HeadCard
from headstart.testing.case import copied
from naive import assert_close, assert_untouched, photograph


@pytest.fixture(params=ENCODERS)
def backbone(request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder(request.param)


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


# Tokens


def test_inputs_are_read_whole_and_cut_where_the_encoder_ends(backbone: EncoderBackbone) -> None:
    card = CARDS["regression"]
    (item,) = backbone.encode([("warm", "1")], TextFormat(), head=card)
    assert backbone.tokenizer.decode(item.prompt) == "<s>warm</s>"
    assert (item.target, item.value) == ((0,), 1.0)
    (long,) = backbone.encode([("warm " * 200, "1")], TextFormat(max_input=512), head=card)
    assert len(long.prompt) == 256, "its positions end there"
    assert ours(backbone, [random_module(backbone, card)], [long]).isfinite().all()
    (short,) = backbone.encode([("warm " * 200, "1")], TextFormat(max_input=9), head=card)
    assert (len(short.prompt), short.prompt[-1]) == (9, backbone.tokenizer.eos_token_id)


def test_roberta_counts_positions_from_behind_its_padding() -> None:
    model = encoder("roberta").model
    assert model.config.max_position_embeddings > 256
    tokenizer = copy.deepcopy(encoder("roberta").tokenizer)
    tokenizer.model_max_length = 10**30
    assert EncoderBackbone(model, tokenizer, name="roberta").encoder.longest == 256


def test_labels_are_numbered_in_the_head_s_order(bert: EncoderBackbone) -> None:
    pairs = [("x", label) for label in LABELS]
    assert [item.target for item in bert.encode(pairs, STYLE, head=CARDS["classification"])] == [(0,), (1,), (2,)]
    turned = CARDS["classification"].model_copy(update={"labels": LABELS[::-1]})
    assert [item.target for item in bert.encode(pairs, STYLE, head=turned)] == [(2,), (1,), (0,)]


def test_a_batch(bert: EncoderBackbone) -> None:
    rows = items(bert, CARDS["classification"])
    batch = bert.batch(rows, [2, 0])
    width = len(rows[2].prompt)
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape == (2, width)
    assert batch.inputs["attention_mask"].sum(1).tolist() == [width, len(rows[0].prompt)]
    assert batch.inputs["input_ids"][1, len(rows[0].prompt) :].eq(bert.tokenizer.pad_token_id).all()
    assert (batch.gold.tolist(), batch.owner.tolist(), batch.indices) == ([2, 0], [0, 1], (2, 0))
    values = bert.batch(items(bert, CARDS["regression"]), [2, 0])
    assert values.gold.tolist() == [3.25, 0.5]
    spans = bert.batch(items(bert, CARDS["span"]), [2, 0])
    assert spans.owner.tolist() == [0, 0, 1, 1]
    assert spans.gold.tolist() == [item for index in (2, 0) for item in items(bert, CARDS["span"])[index].target]


# Spans: every token of this tokenizer is one byte, and `<s>` stands first, so character c is token c + 1.


@pytest.mark.parametrize(
    ("text", "target", "max_input", "expected"),
    [
        ("a warm film", "warm", 64, (3, 6)),
        ("warm and warm", "warm", 64, (1, 4)),  # where it first stands
        ("a warm film", "film", 64, (8, 11)),
        ("a warm film", "film", 12, (0, 0)),  # 10 characters are left: "a warm fil"
        ("a warm film", "warm", 8, (3, 6)),  # just whole
        ("a warm film", "warm", 7, (0, 0)),  # just not
        ("é film", "film", 64, (4, 7)),  # é is two bytes
        ("a café", "é", 64, (6, 7)),
    ],
)
def test_a_span_is_its_first_and_last_token(
    bert: EncoderBackbone, text: str, target: str, max_input: int, expected: tuple[int, int]
) -> None:
    (item,) = bert.encode([(text, target)], TextFormat(max_input=max_input), head=CARDS["span"])
    assert (item.target, item.cut_off) == (expected, expected == (0, 0))
    assert len(item.offsets) == len(item.prompt) <= max_input
    if expected != (0, 0):
        assert text[item.offsets[expected[0]][0] : item.offsets[expected[1]][1]] == target


def test_an_answer_in_the_first_token_is_not_cut_off(bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    # a tokenizer that puts no token of its own before the text
    read = Encoded((5, 6), (), offsets=((0, 1), (1, 2)))
    monkeypatch.setattr(bert.encoder, "with_offsets", lambda *_: read)
    found = bert.encode([("ab", "a"), ("abc", "c")], STYLE, head=CARDS["span"])
    assert [(item.target, item.cut_off) for item in found] == [((0, 0), False), ((0, 0), True)]


def test_special_tokens_stand_for_no_characters(bert: EncoderBackbone) -> None:
    (item,) = bert.encode([("ab", "b")], STYLE, head=CARDS["span"])
    assert item.offsets == ((0, 0), (0, 1), (1, 2), (0, 0))


def test_a_tokenizer_must_tell_the_characters_of_its_tokens(
    bert: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(bert.tokenizer), "is_fast", False)
    with pytest.raises(BackboneError, match="does not tell which characters a token stands for, so no span of the inp"):
        items(bert, CARDS["span"])
    assert len(items(bert, CARDS["classification"])) == 3


# What no head can answer


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("classification", "superb", r"target 'superb' of input 'a warm film' is none of .* \(negative, neutral, pos"),
        ("regression", "much", "target 'much' of input 'a warm film' is not a number, which a regression needs;"),
        ("regression", "nan", "target 'nan' of input 'a warm film' is not a number"),
        ("regression", "1e999", "target '1e999' of input 'a warm film' is not a number"),
        ("span", "cold", "target 'cold' does not stand in its input 'a warm film', so no span of it is the answ"),
    ],
)  # fmt: skip
def test_a_target_that_no_head_answers_is_named(bert: EncoderBackbone, task: str, target: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        bert.encode([("a warm film", target)], STYLE, head=CARDS[task])


def test_a_head_without_stated_labels_has_no_gold_answers(bert: EncoderBackbone) -> None:
    nameless = CARDS["classification"].model_copy(update={"labels": ()})
    with pytest.raises(TaskError, match=r"none of the head's labels \(none are stated\)"):
        bert.encode([("a warm film", "positive")], STYLE, head=nameless)


def test_without_a_head_there_is_no_answer(bert: EncoderBackbone) -> None:
    with pytest.raises(SettingError, match="tiny-bert is an encoder, which answers through a task head; tune one with"):
        bert.encode([("x", "y")], STYLE)
    with pytest.raises(SettingError, match="tiny-bert is an encoder and answers through its task head; leave `decodi"):
        bert.option_scores([[1]], [[[2]]])
    with pytest.raises(SettingError, match="tiny-bert is an encoder and writes no text; leave `decoding` at auto"):
        bert.generate([[1]], max_new_tokens=2)
    with pytest.raises(SettingError, match="module 'random-0' has no task head to answer through on tiny-bert; tune"):
        stack_of([random_module(bert, CARDS["span"], seed=1), random_module(bert)], bert)


# Logits


@pytest.mark.parametrize("task", TASKS)
def test_logits_are_those_of_transformers(backbone: EncoderBackbone, task: str) -> None:
    head = random_head(backbone, CARDS[task], seed=3)
    silent = random_module(backbone).reset(seed=0).with_head(head)  # B is 0: the bare encoder answers
    rows = items(backbone, CARDS[task])
    assert len({len(row.prompt) for row in rows}) == 3, "the batch must hold padding"
    found = ours(backbone, [silent], rows)[0]
    model = model_of(backbone, head)
    for place, row in enumerate(rows):
        expected = plain(model, row, task=task)
        if task == "span":
            assert_close(found[2 * place : 2 * place + 2, : len(row.prompt)], expected, within=1e-5)
            assert (found[2 * place : 2 * place + 2, len(row.prompt) :] < -1e30).all(), "padding is no answer"
        else:
            assert_close(found[place : place + 1], expected, within=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_head_s_weights_are_the_only_ones(backbone: EncoderBackbone, task: str) -> None:
    rows, module = items(backbone, CARDS[task]), random_module(backbone, CARDS[task])
    other = EncoderBackbone(copy.deepcopy(backbone.model), backbone.tokenizer, name=backbone.name)
    for layer in other.head_layers(task).values():
        layer.weight.data.fill_(7.0)
    assert torch.equal(ours(other, [module], rows), ours(backbone, [module], rows))


@pytest.mark.parametrize("task", TASKS)
def test_three_heads_together_are_those_alone_and_a_naive_computation(backbone: EncoderBackbone, task: str) -> None:
    modules = [random_module(backbone, CARDS[task], seed=seed) for seed in (1, 2, 3)]
    rows = items(backbone, CARDS[task])
    before = photograph(backbone)
    together = ours(backbone, modules, rows)
    assert_untouched(backbone, before)
    for number, module in enumerate(modules):
        assert_close(together[number : number + 1], ours(backbone, [module], rows), within=1e-5)
        for place, row in enumerate(rows):
            expected = naive(backbone, module, row.prompt)
            width = expected.shape[-1]
            step = len(expected)
            assert_close(together[number, step * place : step * (place + 1), :width], expected, within=1e-4)


def naive(backbone: EncoderBackbone, module: LoraModule, prompt: tuple[int, ...]) -> torch.Tensor:
    """In float64: the encoder with W + s·B·A, and the head written out for each family."""
    model = copy.deepcopy(backbone.model).double()
    for path, factor in module.factors.items():
        layer = model.get_submodule(path)
        layer.weight.data += factor.scaling * factor.b.double() @ factor.a.double()
    assert module.head is not None
    head = {name: value.double() for name, value in module.head.tensors.items()}
    with torch.inference_mode():
        found = model.base_model(input_ids=torch.tensor([prompt]))
    hidden = found.last_hidden_state[0]

    def linear(path: str, x: torch.Tensor) -> torch.Tensor:
        return x @ head[f"{path}.weight"].T + head[f"{path}.bias"]

    if "qa_outputs.weight" in head:
        return linear("qa_outputs", hidden).T
    if "classifier.out_proj.weight" in head:
        return linear("classifier.out_proj", linear("classifier.dense", hidden[:1]).tanh())
    if "pre_classifier.weight" in head:
        return linear("classifier", linear("pre_classifier", hidden[:1]).relu())
    return linear("classifier", found.pooler_output)


@pytest.mark.parametrize("task", TASKS)
def test_padding_has_no_effect(backbone: EncoderBackbone, task: str) -> None:
    module, rows = random_module(backbone, CARDS[task]), items(backbone, CARDS[task])
    step = 2 if task == "span" else 1
    together = ours(backbone, [module], rows)[0]
    for place, row in enumerate(rows):
        alone = ours(backbone, [module], [row])[0]
        assert_close(together[step * place : step * (place + 1), : alone.shape[1]], alone, within=1e-5)


def test_heads_of_other_shapes_do_not_stack(bert: EncoderBackbone) -> None:
    two = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
    heads = [random_head(bert, card) for card in (two, CARDS["classification"])]
    with pytest.raises(RuntimeError):
        HeadStack(heads, device=bert.device, dtype=bert.dtype)


def test_a_fresh_head_begins_as_transformers_begins_one(backbone: EncoderBackbone) -> None:
    head = backbone.fresh_head(CARDS["classification"], seed=1)
    drawn = torch.cat([v.flatten() for name, v in head.tensors.items() if name.endswith("weight")])
    assert drawn.std().item() == pytest.approx(backbone.model.config.initializer_range, rel=0.2)
    assert all(not v.any() for name, v in head.tensors.items() if name.endswith("bias"))
    assert head.card.shapes == {name: tuple(value.shape) for name, value in head.tensors.items()}
    again, other = (backbone.fresh_head(CARDS["classification"], seed=seed) for seed in (1, 2))
    assert all(torch.equal(head.tensors[name], again.tensors[name]) for name in head.tensors)
    weights = [name for name in head.tensors if name.endswith("weight")]
    assert not any(torch.equal(head.tensors[name], other.tensors[name]) for name in weights)


def test_making_a_backbone_draws_no_random_numbers(bert: EncoderBackbone) -> None:
    before = torch.get_rng_state()
    EncoderBackbone(bert.model, bert.tokenizer, name="again")
    assert torch.equal(torch.get_rng_state(), before)


# Losses


def test_target_loss_by_hand() -> None:
    # Classes: softmax of (0, ln 3) is (1/4, 3/4), so class 0 costs ln 4 and class 1 ln 4/3; of (0, 0) each costs ln 2.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]], [[math.log(3), 0.0], [1000.0, 0.0]]])
    expected = torch.tensor([[math.log(4), math.log(2)], [math.log(4 / 3), 1000.0]])
    assert_close(target_loss(logits, torch.tensor([0, 1])), expected, within=1e-6)
    # Values: (0.5 - 2)² = 2.25, (-1 + 1)² = 0; the second module is off by 3 and by 0.5.
    values = torch.tensor([[[0.5], [-1.0]], [[5.0], [-0.5]]])
    assert_close(target_loss(values, torch.tensor([2.0, -1.0])), torch.tensor([[2.25, 0.0], [9.0, 0.25]]), within=1e-6)
    # bfloat16 logits are compared in float32.
    assert target_loss(logits.bfloat16(), torch.tensor([0, 1])).dtype == torch.float32


def test_the_loss_of_a_span_does_not_see_padding(bert: EncoderBackbone) -> None:
    module, rows = random_module(bert, CARDS["span"]), items(bert, CARDS["span"])
    together = target_loss(ours(bert, [module], rows), bert.batch(rows, range(3)).gold)
    alone = [target_loss(ours(bert, [module], [row]), bert.batch([row], [0]).gold) for row in rows]
    assert_close(together, torch.cat(alone, 1), within=1e-5)
    assert module.head is not None
    model = model_of(bert, module.head)
    silent = module.reset(seed=0).with_head(module.head)
    found = target_loss(ours(bert, [silent], rows[:1]), bert.batch(rows, [0]).gold)
    ids = torch.tensor([rows[0].prompt])
    start, end = (torch.tensor([place]) for place in rows[0].target)
    with torch.inference_mode():
        wanted = model(input_ids=ids, start_positions=start, end_positions=end).loss
    assert found.mean().item() == pytest.approx(wanted.item(), abs=1e-5), "transformers' loss is the mean of the two"


def test_a_prefix_has_no_place_in_an_encoder_that_takes_no_keys() -> None:
    with pytest.raises(SettingError, match="'distilbert' does not cache plain keys and values of one shape"):
        fresh_module("prefix", encoder("distilbert"), {}, name="m", seed=0)


def test_a_head_that_is_first_needed_while_evaluating_can_still_be_tuned() -> None:
    backbone = copied(encoder("bert"))
    assert isinstance(backbone, EncoderBackbone)
    backbone.model.to(torch.bfloat16)
    with torch.inference_mode():
        (layer,) = backbone.head_layers("span").values()
    assert layer.weight.dtype == torch.bfloat16
    assert not layer.weight.is_inference()


def test_only_its_own_models_are_loaded_by_name_of_the_class(tiny_llama: Path) -> None:
    with pytest.raises(BackboneError, match="is no model that EncoderBackbone runs; load it with"):
        EncoderBackbone.load(tiny_llama, device="cpu", dtype="float32")
