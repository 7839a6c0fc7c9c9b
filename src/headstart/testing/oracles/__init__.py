"""Oracles: what an altered folder means to a reader that is not Headstart: PEFT itself, or a plain formula.

Every tensor that the configuration calls for must be there, in the shape that fits the backbone, and no other tensor;
otherwise the folder has no meaning, and loading it is an error.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded
from headstart.kinds import Module, stack_of
from headstart.records import CARD_FILE
from headstart.testing.oracles.adapterhub import adapterhub
from headstart.testing.oracles.answers import IDS, MeaninglessError, answers, body, in_one
from headstart.testing.oracles.attention_prefix import attention_prefix
from headstart.testing.oracles.bitfit import bitfit
from headstart.testing.oracles.by_peft import by_peft
from headstart.testing.oracles.opendelta import opendelta
from headstart.testing.oracles.stored import config_of, load_head, load_tensors

__all__ = ["OWN", "MeaninglessError", "by_oracle", "computed"]

OWN = {"BITFIT": bitfit, "ATTENTION_PREFIX": attention_prefix}
"""By `peft_type`: the types that PEFT does not have."""

ALWAYS_NAMED = {"classifier", "score", "qa_outputs"}
"""Names that PEFT uses for a head, whether the backbone has them or not."""

HEAD = re.compile(r"base_model\.(?:model\.)?((?:classifier|qa_outputs|pooler|head)\..+)")


def by_oracle(folder: Path, original: Path, backbone: Backbone) -> Tensor:
    """Everything that the folder's files compute, as one row; raises any exception if they define no function."""
    config, tensors, head = config_of(folder), load_tensors(folder), load_head(folder)
    for name, value in {**tensors, **head}.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise MeaninglessError(f"'{name}' holds values that are no finite floats")
    if (folder / CARD_FILE).exists():
        _require_same({**tensors, **head}, {**load_tensors(original), **load_head(original)})
    model = copy.deepcopy(backbone.model)
    if "delta_type" in config and "peft_type" not in config:
        return opendelta(model, config, tensors)
    if "peft_type" not in config:
        return adapterhub(model, config, tensors, head=head)
    if config["peft_type"] not in OWN:
        return by_peft(model, config, tensors)
    named = config.get("modules_to_save") or []
    found = {name: match[1] for name in tensors if (match := HEAD.fullmatch(name))}
    held = {path.partition(".")[0] for path in found.values()}
    if not held <= set(named) <= held | ALWAYS_NAMED or (named and not held):
        raise MeaninglessError(f"{named} are named as the task head, whose tensors are {sorted(found)}")
    head = {path: tensors[name] for name, path in found.items()}
    rest = {name: value for name, value in tensors.items() if name not in found}
    return OWN[config["peft_type"]](model, config, rest, head=head)


def computed(module: Module, backbone: Backbone, *, dtype: torch.dtype | None = None) -> Tensor:
    """What the oracles compute, but computed by Headstart; a task head answers through the backbone's `target_logits`.

    `dtype` is that of the stack; see `Module.stack`.
    """
    if module.head is None:
        with type(module).stack([module], backbone, dtype=dtype).attach(backbone):
            return answers(backbone.model)
    target = (0, 0) if module.head.card.task == "span" else (0,)
    batch = backbone.batch([Encoded(ids, target) for ids in IDS], range(len(IDS)))
    with stack_of([module], backbone, dtype=dtype).attach(backbone), torch.inference_mode():
        return in_one(body(backbone.model), backbone.target_logits(batch))


def _require_same(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    if tensors.keys() != others.keys():
        raise MeaninglessError("the card's hash is of tensors of other names")
    for name, value in tensors.items():
        other = others[name]
        if value.dtype != other.dtype or value.shape != other.shape or _bytes(value) != _bytes(other):
            raise MeaninglessError(f"the card's hash is of another '{name}'")


def _bytes(value: Tensor) -> bytes:
    return bytes(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
