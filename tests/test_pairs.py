"""Sentence pairs: made of a task's rows, read by encoders as transformers reads them, joined by language models."""

import json
from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone, EncoderBackbone, TextFormat
from headstart.errors import TaskError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.kinds import fresh_module, stack_of
from headstart.records import HeadCard
from headstart.tasks import Example, Task
from headstart.tasks.example import TextPair
from headstart.testing import tiny_backbone

ROWS = [
    {"a": "It rains.", "b": "It is wet.", "y": "yes"},
    {"a": "A dog", "b": "sleeps soundly here", "y": "no"},
    {"a": "One", "b": "Two", "y": "yes"},
]
LABELS = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
SPAN = HeadCard(task="span", outputs=2)
PAIRS = [TextPair(f"{row['a']} [SEP] {row['b']}", len(row["a"]), len(row["a"]) + 7) for row in ROWS]


def task_of(tmp_path: Path, rows: list[dict[str, object]], template: dict[str, str]) -> Task:
    tmp_path.mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = {"name": "pairs", "labels": ["no", "yes"], "template": {"target": "{y}", **template}}
    (tmp_path / "task.json").write_text(json.dumps(card))
    return Task.load(tmp_path)


def test_a_template_of_two_parts(tmp_path: Path) -> None:
    task = task_of(tmp_path, ROWS, {"input": "{a} [SEP] {b}", "separator": "[SEP]"})
    assert [row.text for row in task.train] == PAIRS
    assert [(row.text.first, row.text.second) for row in task.train if isinstance(row.text, TextPair)] == [
        (row["a"], row["b"]) for row in ROWS
    ]


def test_a_separator_in_a_field_belongs_to_its_text_where_the_template_has_one(tmp_path: Path) -> None:
    rows = [{"a": "x [SEP] y", "b": "z", "y": "no"}]
    (row,) = task_of(tmp_path, rows, {"input": "{a} [SEP] {b}", "separator": "[SEP]"}).train
    assert row.text == TextPair("x [SEP] y [SEP] z", 9, 16)


def test_a_separator_in_every_row(tmp_path: Path) -> None:
    rows = [{"input": f"{row['a']} [SEP] {row['b']}", "y": row["y"]} for row in ROWS]
    task = task_of(tmp_path, rows, {"separator": "[SEP]"})
    assert [row.text for row in task.train] == PAIRS
    for text, count in (("none here", 0), ("one [SEP] two [SEP] three", 2)):
        with pytest.raises(
            TaskError, match=rf"line 1: the input holds the separator '\[SEP\]' {count} times, not once; correct"
        ):
            task_of(tmp_path, [{"input": text, "y": "no"}], {"separator": "[SEP]"})


def test_a_list_of_two(tmp_path: Path) -> None:
    rows = [{"input": [row["a"], row["b"]], "y": row["y"]} for row in ROWS]
    task = task_of(tmp_path, rows, {})
    assert [row.input for row in task.train] == ["It rains.\nIt is wet.", "A dog\nsleeps soundly here", "One\nTwo"]
    assert task.train[0].text == TextPair("It rains.\nIt is wet.", 9, 10)
    with pytest.raises(TaskError, match="field 'input' is a list, not a text"):
        task_of(tmp_path, [{"input": ["a", "b", "c"], "y": "no"}], {})


@pytest.mark.parametrize(
    ("template", "rows", "message"),
    [
        ({"input": "{a} | {b} |", "separator": "|"}, ROWS, r"has the separator '\|' more than once; leave one"),
        ({"separator": " "}, ROWS, "template separator ' ' is blank; give a text, or leave it out"),
        (
            {"input": "{a} | {b}", "separator": "|"}, [{"a": "x", "b": " ", "y": "no"}],
            "line 1: the second text of the input is empty; fill it in",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_pair(
    tmp_path: Path, template: dict[str, str], rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        task_of(tmp_path, rows, template)


def test_rows_of_one_text_are_hashed_as_ever() -> None:
    one, two = Example("a b", ("c",)), Example("a b", ("c",), pair=(1, 2))
    assert one.to_json() == '["a b",["c"],null]'
    assert two.to_json() == '["a b",["c"],null,[1,2]]'


def test_csv_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("premise,hypothesis,label\n" + "It rains.,It is wet.,yes\nA dog,sleeps,no\nOne,Two,yes\n")
    task = Task.load(path, input="{premise} [SEP] {hypothesis}", target="label", separator="[SEP]")
    assert {row.text for split in task.splits.values() for row in split} == {
        PAIRS[0], PAIRS[2], TextPair("A dog [SEP] sleeps", 5, 12)
    }  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "deberta-v2", "modernbert"])
def test_encoders_read_a_pair_as_transformers_does(family: str) -> None:
    """The tokenizer's own separator and, where the model has any, its token types."""
    backbone = tiny_backbone(family)
    assert isinstance(backbone, EncoderBackbone)
    head = backbone.fresh_head(LABELS, seed=1)
    module = fresh_module("lora", backbone, {}, name="m", seed=1).with_head(head)
    items = backbone.encode([(pair, "yes") for pair in PAIRS], TextFormat(), head=LABELS)
    batch = backbone.batch(items, range(len(items)))
    with torch.inference_mode(), stack_of([module], backbone).attach(backbone):
        (found,) = backbone.target_logits(batch)
        made = backbone.tokenizer(
            [p.first for p in PAIRS], [p.second for p in PAIRS], padding=True, return_tensors="pt"
        )
        expected = backbone.model(**made).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ("token_type_ids" in batch.inputs) == (family in ("bert", "electra"))


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_are_of_the_first_type_as_in_peft(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    from headstart.kinds import save_module

    backbone = tiny_backbone("bert")
    assert isinstance(backbone, EncoderBackbone)
    head = backbone.fresh_head(LABELS.model_copy(update={"outputs": 3, "labels": ("a", "b", "c")}), seed=1)
    module = fresh_module(kind, backbone, {"length": 3}, name="m", seed=1).with_head(head)
    (item,) = backbone.encode([(PAIRS[1], "b")], TextFormat(), head=head.card)
    with torch.inference_mode(), stack_of([module], backbone).attach(backbone):
        (found,) = backbone.target_logits(backbone.batch([item], [0]))
    save_module(module, tmp_path / "m")
    model = PeftModel.from_pretrained(backbone.model, tmp_path / "m").eval()
    made = backbone.tokenizer(PAIRS[1].first, PAIRS[1].second, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(found, model(**made).logits, rtol=1e-5, atol=1e-5)


def test_the_answer_of_a_pair_lies_in_the_second_text() -> None:
    backbone = tiny_backbone("bert")
    pair = TextPair("dog or cat?\na dog and a cat", 11, 12)
    (item,) = backbone.encode([(pair, "dog")], TextFormat(), head=SPAN)
    first, last = item.target
    assert pair.joined[item.offsets[first][0] : item.offsets[last][1]] == "dog"
    assert item.offsets[first][0] == 14
    assert [span for span in item.offsets if span != (0, 0)] == [(12 + i, 13 + i) for i in range(15)]
    with pytest.raises(TaskError, match="the target 'or' does not stand in its input 'a dog and a cat'"):
        backbone.encode([(pair, "or")], TextFormat(), head=SPAN)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_language_models_read_a_pair_joined(family: str) -> None:
    backbone: Backbone = tiny_backbone(family)
    joined = [(pair.joined, "yes") for pair in PAIRS]
    assert backbone.encode([(pair, "yes") for pair in PAIRS], TextFormat()) == backbone.encode(joined, TextFormat())


def test_a_task_of_pairs_is_evaluated(tmp_path: Path) -> None:
    backbone = tiny_backbone("bert")
    assert isinstance(backbone, EncoderBackbone)
    task = task_of(tmp_path, ROWS, {"input": "{a} [SEP] {b}", "separator": "[SEP]"})
    alike = task_of(tmp_path / "one", ROWS, {"input": "{a} [SEP] {b}"})
    module = fresh_module("lora", backbone, {}, name="m", seed=1).with_head(backbone.fresh_head(LABELS, seed=1))
    (of_pairs,), (of_one,) = (evaluate_many([module], t.test, backbone, metric="ACC") for t in (task, alike))
    assert of_pairs.loss != of_one.loss
