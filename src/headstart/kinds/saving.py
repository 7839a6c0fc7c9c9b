"""Writing a module as a plain PEFT (or AdapterHub) folder with a card, all at once or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save

from headstart.atomic import refuse_existing, staged_folder
from headstart.formats import read_safetensors, tensor_hash
from headstart.hub.model_card import readme
from headstart.kinds.contract import Module
from headstart.records import CARD_FILE

__all__ = ["save_module"]

AnyModule = TypeVar("AnyModule", bound=Module)


def save_module(module: AnyModule, folder: str | Path) -> AnyModule:
    """Write `adapter_config.json`, the kind's file of tensors, the card and a README that people read.

    Returns the module with the tensor hash of what was written on its card. Raises `OutputError` when the folder
    exists or cannot be written; nothing is left behind then.
    """
    folder = Path(folder)
    refuse_existing(folder)
    with staged_folder(folder) as staging:
        weights = staging / module.weights_file
        tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in module.tensors().items()}
        weights.write_bytes(save(tensors, metadata={"format": "pt"}))
        written = tensor_hash(read_safetensors(weights))
        # Tensors that differ from those that were fetched come from here, not from there.
        origin = module.card.origin if written == module.card.tensor_hash else ""
        card = module.card.model_copy(update={"tensor_hash": written, "origin": origin})
        (staging / "adapter_config.json").write_text(json.dumps(dict(module.config), indent=1, sort_keys=True) + "\n")
        (staging / CARD_FILE).write_text(card.to_json())
        (staging / "README.md").write_text(readme(card))
    return replace(module, card=card)
