"""Writing a module as a plain PEFT folder with a card, all at once or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save

from headstart.atomic import refuse_existing, staged_folder
from headstart.formats import read_safetensors, tensor_hash
from headstart.kinds.contract import Module
from headstart.records import CARD_FILE, ModuleCard

__all__ = ["save_module"]

AnyModule = TypeVar("AnyModule", bound=Module)


def save_module(module: AnyModule, folder: str | Path) -> AnyModule:
    """Write `adapter_config.json`, `adapter_model.safetensors`, the card and a README that people read.

    Returns the module with the tensor hash of what was written on its card. Raises `OutputError` when the folder
    exists or cannot be written; nothing is left behind then.
    """
    folder = Path(folder)
    refuse_existing(folder)
    with staged_folder(folder) as staging:
        weights = staging / "adapter_model.safetensors"
        tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in module.tensors().items()}
        weights.write_bytes(save(tensors, metadata={"format": "pt"}))
        card = module.card.model_copy(update={"tensor_hash": tensor_hash(read_safetensors(weights))})
        (staging / "adapter_config.json").write_text(json.dumps(dict(module.config), indent=1, sort_keys=True) + "\n")
        (staging / CARD_FILE).write_text(card.to_json())
        (staging / "README.md").write_text(readme(card))
    return replace(module, card=card)


def readme(card: ModuleCard) -> str:
    """A model card with the metadata block that hubs read, then the facts as prose and tables."""
    head = ["---", "library_name: peft"]
    if card.base_model:
        head.append(f"base_model: {json.dumps(card.base_model)}")
    if card.license:
        head.append(f"license: {json.dumps(card.license)}")
    lines = [*head, "tags: [headstart]", "---", f"# {card.name}", "", f"A {card.kind} module made with Headstart.", ""]
    facts = {
        "Task": card.task,
        "Family": card.family,
        "Training rows": card.train_rows,
        f"Dev {card.metric}": None if card.score is None else f"{card.score:.4f}",
        "Rank": card.rank,
        "Parameters": f"{card.parameters:,}",
        "Backbone": card.base_model,
        "Data licence": card.dataset_license,
    }
    stated = [f"| {key} | {value} |" for key, value in facts.items() if value not in (None, "")]
    lines += ["| | |", "|---|---|", *stated]
    if card.donors:
        lines += ["", "## Donors", "", "| module | weight | licence |", "|---|---:|---|"]
        lines += [f"| {donor.name} | {donor.weight:.4f} | {donor.license or '—'} |" for donor in card.donors]
    if card.notes:
        lines += ["", card.notes]
    return "\n".join(lines) + "\n"
