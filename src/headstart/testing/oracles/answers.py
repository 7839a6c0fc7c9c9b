"""What a model answers to the oracles' inputs, and how an oracle says that a folder has no meaning."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from headstart.backbones.loading import is_encoder

__all__ = ["IDS", "MeaninglessError", "answers", "body", "in_one", "language", "require_shapes"]

IDS = ((5, 9, 33, 47, 101, 12, 77), (8, 8, 200, 31, 6, 90, 14))
LENGTH = len(IDS[0])


class MeaninglessError(Exception):
    """The folder's files do not define a function on this backbone."""


def answers(model: Any, head: Mapping[str, Tensor] | None = None) -> Tensor:
    """Everything that the model computes, as one row: logits, or an encoder's hidden states and task head.

    `head`: the head's tensors by their names in the model, which is changed.
    """
    if not is_encoder(model.config):
        if head:
            raise MeaninglessError("a language model has no place for a task head")
        return language(model).flatten()
    hidden = body(model)
    return in_one(hidden, _headed(model, head, hidden)) if head else in_one(hidden)


def in_one(*parts: Tensor) -> Tensor:
    """Results of any shapes as one row."""
    return torch.cat([part.double().flatten() for part in parts])


def language(model: Any) -> Tensor:
    """Logits of a language model, without those of virtual tokens."""
    ids = torch.tensor(IDS)
    decoder = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder).logits
    return logits[:, -(4 if decoder else LENGTH) :].double()


def body(model: Any) -> Tensor:
    """Last hidden states of an encoder, (rows, tokens, width), without those of virtual tokens."""
    ids = torch.tensor(IDS)
    with torch.inference_mode():
        hidden: Tensor = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden[:, -LENGTH:].double()


def require_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `MeaninglessError` unless exactly these tensors are there, of these shapes."""
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())[0]
        raise MeaninglessError(f"'{odd}' is {'not called for' if odd in found else 'missing'}")
    for name, shape in wanted.items():
        if tuple(found[name].shape) != tuple(shape):
            raise MeaninglessError(f"'{name}' has shape {tuple(found[name].shape)}, not {tuple(shape)}")


def _headed(model: Any, head: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """Logits of a classifier, (rows, labels), or of spans, (rows, first and last, tokens)."""
    if any(name.startswith("qa_outputs.") for name in head):
        require_shapes(head, {"qa_outputs.weight": (2, hidden.shape[-1]), "qa_outputs.bias": (2,)})
        return (hidden @ head["qa_outputs.weight"].double().T + head["qa_outputs.bias"].double()).transpose(1, 2)
    below = f"{model.base_model_prefix}."
    own = {name: value for name, value in model.named_parameters() if not name.startswith(below)}
    last = list(own)[-1].rpartition(".")[0]
    if f"{last}.weight" not in head:
        raise MeaninglessError(f"'{last}.weight' is missing")
    labels = len(head[f"{last}.weight"])
    shapes = {n: (labels, *v.shape[1:]) if n.startswith(f"{last}.") else tuple(v.shape) for n, v in own.items()}
    require_shapes(head, shapes)
    for name, value in own.items():
        value.data = head[name].double()
    ids = torch.tensor(IDS)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits
