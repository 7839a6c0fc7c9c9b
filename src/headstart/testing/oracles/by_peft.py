"""PEFT itself as the oracle of the kinds that it has."""

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from headstart.backbones.loading import is_encoder
from headstart.testing.oracles.answers import IDS, MeaninglessError, in_one, language, require_shapes

__all__ = ["by_peft", "with_head"]

IDENTITY = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "peft_type", "revision"}
PLAIN_INITS = {"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"}
VIRTUAL = {"PREFIX_TUNING", "PROMPT_TUNING"}
HEAD = re.compile(r"base_model\.(model\.)?(classifier|score|qa_outputs|pooler|head)\.")
ANSWERING = re.compile(r"base_model\.(model\.)?(classifier|classifier\.out_proj|qa_outputs)\.weight")
COPY = re.compile(r"base_model\.model\.(.+)\.base_layer\.weight")


def by_peft(model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """What PEFT computes around the model, or around one with a task head of as many answers."""
    kind = config["peft_type"]
    encoder, named = is_encoder(model.config), config.get("modules_to_save")
    headed = encoder and (bool(named) or any(HEAD.match(name) for name in tensors))
    if headed:
        labels = next((len(value) for name, value in tensors.items() if ANSWERING.fullmatch(name)), 0)
        model = with_head(model, config.get("task_type"), labels=labels)
    dropped = IDENTITY if kind in VIRTUAL or headed else IDENTITY | {"task_type"}
    made = _configuration(config, dropped=dropped | {"lora_dropout"})
    projection = {name for name in tensors if name.startswith("prompt_encoder.") and config.get("prefix_projection")}
    copies = {name: found[1] for name in tensors if (found := COPY.fullmatch(name))}
    tensors = {name: value for name, value in tensors.items() if name not in projection | copies.keys()} | {
        name: tensors[name] for name, path in copies.items() if not _is_copy(model, path, tensors)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, made, autocast_adapter_dtype=False)
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        # Without a head in the folder, only what lies below one is compared.
        fresh = {name: value for name, value in wanted.items() if encoder and not headed and HEAD.match(name)}
        require_shapes(tensors, {name: tuple(value.shape) for name, value in wanted.items() if name not in fresh})
        set_peft_model_state_dict(wrapped, fresh | {name: value.double() for name, value in tensors.items()})
        wrapped = wrapped.double().eval()
        return _encoder_answers(wrapped, headed=headed) if encoder else language(wrapped).flatten()


def _configuration(config: Mapping[str, Any], *, dropped: set[str]) -> Any:
    made = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    known = {field.name for field in fields(made)}
    odd = [name for name, value in config.items() if name not in known | IDENTITY and value]
    if odd:
        raise MeaninglessError(f"PEFT does not know field '{odd[0]}'")
    if str(config.get("init_lora_weights", True)).lower() not in PLAIN_INITS:
        raise MeaninglessError("PEFT changes the backbone's weights when it loads this")
    return made(**{name: value for name, value in config.items() if name in known - dropped}, inference_mode=True)


def _is_copy(model: Any, path: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor repeats the backbone's own weight, as far as backbones are told apart: rounded to bfloat16."""
    weight = dict(model.named_parameters()).get(f"{path}.weight")
    stem = f"base_model.model.{path}"
    copied = tensors[f"{stem}.base_layer.weight"]
    adapted = any(name.startswith(f"{stem}.lora_") for name in tensors)
    return (
        adapted
        and weight is not None
        and weight.shape == copied.shape
        and torch.equal(weight.to(torch.bfloat16), copied.to(torch.bfloat16))
    )


def with_head(model: Any, task_type: object, *, labels: int) -> Any:
    """An encoder with the same weights and a fresh head for PEFT's `task_type` with so many answers."""
    if labels < 1:
        raise MeaninglessError("there is no layer that gives the task head's answers")
    family = AutoModelForQuestionAnswering if task_type == "QUESTION_ANS" else AutoModelForSequenceClassification
    config = copy.deepcopy(model.config)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        made = family.from_config(config)
    made.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
    return made.double().eval()


def _encoder_answers(model: Any, *, headed: bool) -> Tensor:
    """The encoder's hidden states, seen where they leave it, and what the head makes of them."""
    ids, seen = torch.tensor(IDS), []
    encoder = model.get_base_model().base_model
    encoder.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
    with torch.inference_mode():
        made = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    hidden = seen[0][:, -ids.shape[1] :]
    if not headed:
        return in_one(hidden)
    if "start_logits" in made:
        spans = torch.stack([made.start_logits, made.end_logits], dim=1)
        return in_one(hidden, spans[:, :, -ids.shape[1] :])
    return in_one(hidden, made.logits)
