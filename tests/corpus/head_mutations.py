"""Alterations of task heads: their tensors, what the configuration says of them, and what the card does."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from tests.corpus.case import Expectation, Mutation
from torch import Tensor

from headstart.records import CARD_FILE
from headstart.testing.oracles.stored import (
    config_of,
    head_path,
    read_file,
    save_file_of,
    weights_of,
    write_config,
)

__all__ = ["HEAD_MUTATIONS"]

Made = tuple[str, Expectation] | None
HEAD = re.compile(r"(?:base_model\.(?:model\.)?)?(?:classifier|qa_outputs)\.")
ANSWERING = re.compile(r".*(?:classifier|classifier\.out_proj|qa_outputs)\.(?:weight|bias)")


class Stored(NamedTuple):
    """The file that holds a head, all of its tensors, and the names of the head's."""

    path: Path
    tensors: dict[str, Tensor]
    names: list[str]


def _head(folder: Path) -> Stored | None:
    path = head_path(folder) if head_path(folder).exists() else weights_of(folder)
    tensors = read_file(path)
    names = sorted(name for name in tensors if HEAD.match(name))
    return Stored(path, tensors, names) if names else None


def _missing(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    gone = head.names if rng.random() < 0.3 else [rng.choice(head.names)]
    save_file_of(head.path, {name: value for name, value in head.tensors.items() if name not in gone})
    return f"no {', '.join(gone)}", "refused"


def _renamed(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    name = rng.choice(head.names)
    changes = (
        name.replace("classifier", "score"), name.replace("classifier", "qa_outputs"), f"{name}s",
        name.replace("classifier", "clasifier"), name.replace("weight", "default.weight"),
        name.replace("classifier", "classifier.modules_to_save"), name.replace("classifier", "classifier.dense"),
        name.replace("qa_outputs", "classifier"), name.replace("classifier.", "pre_classifier."), f"x.{name}",
        name.replace("base_model.", ""), name.replace(".", "..", 1),
    )  # fmt: skip
    new = rng.choice([change for change in changes if change not in head.tensors])
    if _body(new) == _body(name):
        return None
    save_file_of(head.path, {new if key == name else key: value for key, value in head.tensors.items()})
    return f"'{name}' renamed to {new!r}", "refused"


def _body(name: str) -> str:
    """The name in the backbone: what PEFT puts before it differs between kinds."""
    return re.sub(r"^base_model\.(model\.)?", "", name)


def _misshapen(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    name = rng.choice(head.names)
    value = head.tensors[name]
    forms = (value[None], value[..., None], value.flatten(), value[..., :-1], value[:0], value[:-1], value.repeat(2, 1))
    made = rng.choice([form for form in forms if form.shape != value.shape])
    save_file_of(head.path, head.tensors | {name: made.contiguous()})
    return f"'{name}' of shape {tuple(value.shape)} made {tuple(made.shape)}", "refused"


def _other_answers(folder: Path, rng: Random) -> Made:
    """A head of fewer or more answers is a sound head of another task."""
    head = _head(folder)
    if head is None:
        return None
    answering, rows = [name for name in head.names if ANSWERING.fullmatch(name)], rng.choice((1, 2, 4))
    made = {name: torch.cat([head.tensors[name]] * 4)[:rows].contiguous() for name in answering}
    save_file_of(head.path, head.tensors | made)
    return f"{rows} answers", "oracle"


def _not_finite(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    name, odd = rng.choice(head.names), rng.choice(("nan", "inf", "-inf"))
    value = head.tensors[name].clone()
    value.view(-1)[rng.randrange(value.numel())] = float(odd)
    save_file_of(head.path, head.tensors | {name: value})
    return f"{odd} in '{name}'", "refused"


def _extra(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    name = rng.choice(head.names)
    stem, _, part = name.rpartition(".")
    new = rng.choice((f"{stem}.gamma", f"{stem}.2.{part}", name.replace(_body(name), f"pooler.dense.{part}")))
    save_file_of(head.path, head.tensors | {new: head.tensors[name].clone()})
    return f"a tensor {new!r} more", "refused"


def _planted(folder: Path, rng: Random) -> Made:
    """Headstart's own file of a head beside a module in AdapterHub's layout that has none."""
    config = config_of(folder)
    if head_path(folder).exists() or not isinstance(config.get("config"), dict):
        return None
    layer, labels = rng.choice((("classifier", 3), ("qa_outputs", 2), ("classifier", 1), ("qa_outputs", 3)))
    generator = torch.Generator().manual_seed(rng.randrange(1000))
    weight = 0.3 * torch.randn(labels, config["hidden_size"], generator=generator)
    save_file_of(head_path(folder), {f"{layer}.weight": weight, f"{layer}.bias": weight[:, 0].contiguous()})
    return f"a head '{layer}' of {labels} answers", "oracle"


def _values(folder: Path, rng: Random) -> Made:
    head = _head(folder)
    if head is None:
        return None
    name = rng.choice(head.names)
    value = head.tensors[name]
    kind = rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int32))
    made = rng.choice((value.to(kind), value.flip(0), -value, value + 0.1 * torch.ones_like(value)))
    save_file_of(head.path, head.tensors | {name: made.contiguous()})
    return f"other values of {made.dtype} in '{name}'", "oracle"


def _bytes(folder: Path, rng: Random) -> Made:
    path = head_path(folder)
    if not path.exists():
        return None
    content = bytearray(path.read_bytes())
    if rng.random() < 0.4:
        path.write_bytes(content[: rng.randrange(len(content))])
        return f"{path.name} cut short", "refused"
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"a bit of {path.name} flipped", "oracle"


SAVED: tuple[Any, ...] = (
    None, [], ["score"], ["classifier", "pooler"], ["classifier", "query"], ["classifier", "value"], ["pooler"],
    ["query"], ["dense"], ["qa_outputs"], ["classifier", "qa_outputs"], ["classifier", "nothing"], "classifier",
    ["classifier", 7], [""], ["r"], ["er"], ["classifier", "classifier"], ["score", "classifier"], {"classifier": 1},
    ["bert"], ["encoder"], ["classifier", "LayerNorm"], ["classifier", "word_embeddings"], 7,
)  # fmt: skip
"""For `modules_to_save`: PEFT matches every end of a layer's path."""

TASKS: tuple[Any, ...] = (
    "SEQ_CLS", "QUESTION_ANS", "TOKEN_CLS", "FEATURE_EXTRACTION", "CAUSAL_LM", "SEQ_2_SEQ_LM", None, "", 7,
    ["SEQ_CLS"], "seq_cls",
)  # fmt: skip


def _named(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    field = "unfrozen_modules" if "delta_type" in config else "modules_to_save"
    if _head(folder) is None or field not in config:
        return None
    value = rng.choice([value for value in SAVED if value != config[field]])
    write_config(folder, config | {field: value})
    return f"'{field}' from {config[field]} to {value!r}", "oracle"


def _task(folder: Path, rng: Random) -> Made:
    config = config_of(folder)
    if _head(folder) is None or "task_type" not in config:
        return None
    value = rng.choice([value for value in TASKS if value != config["task_type"]])
    write_config(folder, config | {"task_type": value})
    return f"'task_type' from {config['task_type']} to {value!r}", "oracle"


def _card(folder: Path, rng: Random) -> Made:
    path = folder / CARD_FILE
    card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    head = card.get("head")
    if not head:
        return None
    labels, shapes = head["labels"], head["shapes"]
    first = next(iter(shapes))
    spans = head["task"] == "span"
    wrong: tuple[tuple[str, Any], ...] = (
        ("labels", [*labels, "more"] if head["task"] == "classification" else ["yes"]), ("labels", ["yes"] * 3),
        ("labels", [7, 8, 9]), ("labels", None), ("outputs", head["outputs"] + 1), ("outputs", 0), ("outputs", 1e400),
        ("task", "ranking"), ("task", "classification" if spans else "span"), ("shapes", shapes | {"x.weight": [1, 1]}),
        ("shapes", {}), ("shapes", shapes | {first: [1, 2]}), ("rows", 3),
    )  # fmt: skip
    field, value = rng.choice(wrong)
    path.write_text(json.dumps(card | {"head": head | {field: value}}), encoding="utf-8")
    return f"the card's head has {field} {str(value)[:40]}", "refused"


def _card_remark(folder: Path, rng: Random) -> Made:
    path = folder / CARD_FILE
    card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    head = card.get("head")
    if not head:
        return None
    other = None if rng.random() < 0.5 else head | {"labels": [f"label {n}" for n, _ in enumerate(head["labels"])]}
    path.write_text(json.dumps(card | {"head": other}), encoding="utf-8")
    return "the card states no head" if other is None else "the card states other labels", "same"


HEAD_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "task head: tensors missing, renamed, too many": (_missing, _renamed, _extra, _planted),
    "task head: shapes": (_misshapen, _other_answers),
    "task head: values": (_not_finite, _values, _bytes),
    "task head: configuration": (_named, _named, _task),
    "task head: card": (_card, _card, _card_remark),
}
"""By the family's name in the table."""
