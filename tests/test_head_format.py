"""Task heads in module folders, read without torch: what PEFT saves beside a module, and what is refused by name."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handmade import lora_config, lora_tensors, pack, write_module
from headstart.errors import ModuleError, TaskError
from headstart.filenames import HEAD_FILE
from headstart.formats import read_module
from headstart.formats.libraries.peft_head import TASK_TYPES
from headstart.hub import Hub
from headstart.hub.model_card import readme
from headstart.records import HeadCard, ModuleCard, TaskCard
from headstart.tasks import head_of

PREFIX = "base_model.model."
LAYER = "bert.encoder.layer.0.attention.self.query"
CONFIG = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"], "target_modules": ["query"]}
Tensors = dict[str, np.ndarray]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def bert_head(outputs: int = 3) -> Tensors:
    return {f"{PREFIX}classifier.weight": values(outputs, 4), f"{PREFIX}classifier.bias": values(outputs)}


def written(folder: Path, head: Tensors, **config: Any) -> Path:
    tensors = {**lora_tensors(layers=(LAYER,)), **head}
    return write_module(folder, config=lora_config(**(CONFIG | config)), tensors=tensors)


def test_a_head_is_parted_from_its_module(tmp_path: Path) -> None:
    stored = read_module(written(tmp_path / "m", bert_head()))
    assert sorted(stored.head) == ["classifier.bias", "classifier.weight"]
    assert stored.card.head == HeadCard(
        task="classification", outputs=3, shapes={"classifier.bias": (3,), "classifier.weight": (3, 4)}
    )
    assert all(name.startswith(f"{PREFIX}{LAYER}") for name in stored.tensors)
    assert stored.card.parameters == 2 * 4 + 3 * 2, "A and B alone"
    assert (stored.config["modules_to_save"], stored.config["task_type"]) == (None, "SEQ_CLS")


@pytest.mark.parametrize(
    ("head", "config", "expected"),
    [
        (bert_head(1), {}, ("regression", 1)),
        (bert_head(2), {}, ("classification", 2)),
        ({f"{PREFIX}classifier.weight": values(2, 4)}, {}, ("classification", 2)),
        (
            {
                f"{PREFIX}classifier.dense.weight": values(4, 4), f"{PREFIX}classifier.dense.bias": values(4),
                f"{PREFIX}classifier.out_proj.weight": values(5, 4), f"{PREFIX}classifier.out_proj.bias": values(5),
            },
            {},
            ("classification", 5),
        ),
        (
            {f"{PREFIX}qa_outputs.weight": values(2, 4), f"{PREFIX}qa_outputs.bias": values(2)},
            {"task_type": "QUESTION_ANS", "modules_to_save": ["qa_outputs"]},
            ("span", 2),
        ),
        # PEFT takes "classifier" for an end of a name, and so saves DistilBERT's first layer too.
        (bert_head(2) | {f"{PREFIX}pre_classifier.weight": values(4, 4)}, {}, ("classification", 2)),
        # Prompts and prefixes have a shorter beginning.
        ({"base_model.classifier.weight": values(3, 4)}, {}, ("classification", 3)),
    ],
)  # fmt: skip
def test_what_a_head_answers_is_told_by_its_tensors(
    tmp_path: Path, head: Tensors, config: dict[str, Any], expected: tuple[str, int]
) -> None:
    stored = read_module(written(tmp_path / "m", head, **config))
    found = stored.card.head
    assert found is not None
    assert (found.task, found.outputs, found.labels) == (*expected, ())
    assert len(stored.head) == len(found.shapes) == len(head)


def test_equal_hash_equal_head(tmp_path: Path) -> None:
    hashes = {
        read_module(written(tmp_path / name, head)).card.tensor_hash
        for name, head in (("a", bert_head()), ("b", bert_head(2)), ("c", {k: v + 1 for k, v in bert_head().items()}))
    }
    assert len(hashes) == 3
    again = read_module(written(tmp_path / "again", bert_head())).card.tensor_hash
    assert again in hashes


NAN = {**bert_head(), f"{PREFIX}classifier.bias": np.array([1, np.nan, 2], np.float32)}
OTHER = f"{PREFIX}bert.pooler.dense.weight"


@pytest.mark.parametrize(
    ("head", "config", "message"),
    [
        ({}, {}, r"'modules_to_save' names a task head \(classifier, score\) but no tensor of one is there; save"),
        (bert_head(), {"modules_to_save": ["classifier", "pooler"]}, "'modules_to_save' names 'pooler' but no tensor"),
        (bert_head(), {"modules_to_save": ["classifier", 3]}, r"'modules_to_save' is \['classifier', 3\], not a li"),
        (bert_head(), {"modules_to_save": [["classifier"]]}, "not a list of names"),
        (bert_head(), {"modules_to_save": [""]}, "not a list of names"),
        (bert_head(), {"modules_to_save": "classifier"}, "field 'modules_to_save' is set: it carries whole layers"),
        (bert_head(), {"modules_to_save": None}, r"tensor 'base_model\.model\.classifier\.(bias|weight)'"),
        (bert_head(), {"task_type": None}, "field 'modules_to_save' is set: it carries whole layers, such as"),
        (bert_head(), {"task_type": "TOKEN_CLS"}, "field 'modules_to_save' is set"),
        (bert_head(), {"task_type": "CAUSAL_LM"}, "field 'modules_to_save' is set"),
        (bert_head(), {"task_type": ["SEQ_CLS"]}, "field 'modules_to_save' is set"),
        (NAN, {}, r"tensor 'base_model\.model\.classifier\.bias' holds NaN or infinite values"),
        ({f"{PREFIX}classifier.bias": values(3)}, {}, r"has classifier\.bias \(3,\), which is no linear layer"),
        ({**bert_head(), f"{PREFIX}classifier.bias": values(2)}, {}, r"classifier\.bias \(2,\).*, which is no linear"),
        ({f"{PREFIX}classifier.weight": values(3, 4, 1)}, {}, r"classifier\.weight \(3, 4, 1\), which is no linear"),
        ({f"{PREFIX}classifier.weight": values(0, 4)}, {}, r"classifier\.weight \(0, 4\), which is no linear layer"),
        ({**bert_head(), f"{PREFIX}classifier.running_mean": values(3)}, {}, r"classifier\.running_mean \(3,\)"),
        ({f"{PREFIX}score_of_sorts.weight": values(3, 4)}, {"modules_to_save": ["score_of_sorts"]},
         "which of score_of_sorts gives the task head's answer is not known; Headstart cannot use this module"),
        # A layer of the encoder itself is no head: no kind has a place for it.
        ({**bert_head(), OTHER: values(4, 4)}, {"modules_to_save": ["classifier", "pooler"]}, r"bert\.pooler\.dense"),
        ({**bert_head(), OTHER: values(4, 4)}, {"modules_to_save": ["bert", "classifier"]}, "names 'bert', with ten"),
        (
            {f"{PREFIX}qa_outputs.weight": values(3, 4)},
            {"task_type": "QUESTION_ANS", "modules_to_save": ["qa_outputs"]},
            r"tensor 'qa_outputs\.weight' gives 3 answers where a span has 2",
        ),
        ({f"{PREFIX}classifier.weight": np.zeros((3, 4), np.int8)}, {}, "is I8, not a float"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, head: Tensors, config: dict[str, Any], message: str) -> None:
    folder = written(tmp_path / "m", head, **config)
    with pytest.raises(ModuleError, match=message) as refusal:
        read_module(folder)
    assert str(folder) in str(refusal.value)


# Our card beside it


def stated(folder: Path, head: HeadCard | None) -> Path:
    """The folder with a card that says this of its head."""
    card = read_module(folder).card.model_copy(update={"head": head})
    (folder / "headstart.json").write_text(card.to_json())
    return folder


SHAPES: dict[str, tuple[int, ...]] = {"classifier.bias": (3,), "classifier.weight": (3, 4)}


def test_the_card_gives_the_labels(tmp_path: Path) -> None:
    said = HeadCard(task="classification", outputs=3, labels=("a", "b", "c"), shapes=SHAPES)
    assert read_module(stated(written(tmp_path / "m", bert_head()), said)).card.head == said
    silent = read_module(stated(written(tmp_path / "n", bert_head()), None)).card.head
    assert silent == said.model_copy(update={"labels": ()}), "a card of before heads says nothing of one"


@pytest.mark.parametrize(
    "head",
    [
        HeadCard(task="classification", outputs=3, labels=("a", "b"), shapes=SHAPES),
        HeadCard(task="classification", outputs=3, labels=("a", "b", "a"), shapes=SHAPES),
        HeadCard(task="classification", outputs=2, labels=("a", "b"), shapes=SHAPES),
        HeadCard(task="classification", outputs=3, labels=("a", "b", "c")),
        HeadCard(task="classification", outputs=3, shapes=SHAPES | {"classifier.weight": (3, 5)}),
        HeadCard(task="regression", outputs=3, shapes=SHAPES),
        HeadCard(task="span", outputs=2, shapes=SHAPES),
    ],
)
def test_a_card_that_contradicts_the_head_is_refused(tmp_path: Path, head: HeadCard) -> None:
    folder = stated(written(tmp_path / "m", bert_head()), head)
    with pytest.raises(
        ModuleError, match=r"headstart\.json: field 'head' is not what the tensors of the task head are"
    ):
        read_module(folder)


def test_a_card_with_a_head_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", config=lora_config(target_modules=["query"], task_type="SEQ_CLS"),
                          tensors=lora_tensors(layers=(LAYER,)))  # fmt: skip
    stated(folder, HeadCard(task="classification", outputs=3, shapes=SHAPES))
    with pytest.raises(ModuleError, match="field 'head' is not what the tensors of the task head are; remove the card"):
        read_module(folder)


def test_a_card_with_a_task_that_no_head_has_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", bert_head())
    card = json.loads(read_module(folder).card.to_json())
    card["head"]["task"] = "tagging"
    (folder / "headstart.json").write_text(json.dumps(card))
    with pytest.raises(ModuleError, match=r"headstart\.json: field 'head\.task'"):
        read_module(folder)


def test_the_readme_tells_of_the_head() -> None:
    card = ModuleCard(name="m", kind="lora", parameters=1, tensor_hash="")
    assert "Task head" not in readme(card)
    head = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
    assert "| Task head | classification among no, yes |" in readme(card.model_copy(update={"head": head}))
    span = HeadCard(task="span", outputs=2)
    assert "| Task head | span |" in readme(card.model_copy(update={"head": span}))


# In hubs, and without torch


def test_a_hub_keeps_the_file_of_a_head(tmp_path: Path) -> None:
    from headstart.hub.folder import KEPT

    assert HEAD_FILE in KEPT
    hub = Hub.create(tmp_path / "hub")
    hub.add(written(tmp_path / "m", bert_head()))
    assert hub.read("m").card.head == read_module(tmp_path / "m").card.head
    assert sorted(hub.read("m").head) == ["classifier.bias", "classifier.weight"]


def test_no_torch_is_needed(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", bert_head())
    program = (
        "import sys, pathlib; from headstart.formats import read_module; "
        f"print(read_module(pathlib.Path({str(folder)!r})).card.head.outputs, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["3", "False"]


def test_every_answer_has_a_task_type_of_peft() -> None:
    assert TASK_TYPES.keys() == set(HeadCard.model_fields["task"].annotation.__args__)  # type: ignore[union-attr]


# Which head a task needs


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (TaskCard(name="t", labels=("no", "yes")), ("classification", 2, ("no", "yes"))),
        (TaskCard(name="t", metric="Pearson-Correlation"), ("regression", 1, ())),
        (TaskCard(name="t", metric="EM"), ("span", 2, ())),
    ],
)
def test_the_head_of_a_task(card: TaskCard, expected: tuple[str, int, tuple[str, ...]]) -> None:
    head = head_of(card)
    assert (head.task, head.outputs, head.labels) == expected


def test_a_task_that_no_head_answers() -> None:
    with pytest.raises(
        TaskError, match="every row of task 't' has its own options, which no head of an encoder choose"
    ):
        head_of(TaskCard(name="t", options="field"))
    for labels in (("only",), ("a", "b", "a")):
        with pytest.raises(
            TaskError, match="a classifier chooses among at least two different ones; correct its labels"
        ):
            head_of(TaskCard(name="t", labels=labels))


def test_the_helper_packs_what_it_is_given(tmp_path: Path) -> None:
    # Or a test of a broken head would test nothing.
    (tmp_path / "x.safetensors").write_bytes(pack(NAN))
    assert np.isnan(NAN[f"{PREFIX}classifier.bias"]).any()
