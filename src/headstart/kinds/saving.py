"""Writing a module as a plain PEFT (or AdapterHub) folder with a card, completely or not at all."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import save
from torch import Tensor

from headstart.atomic import refuse_existing, staged_folder
from headstart.filenames import HEAD_FILE
from headstart.formats import TASK_TYPES, read_safetensors, tensor_hash
from headstart.hub.model_card import readme
from headstart.hub.snippet import snippet
from headstart.kinds.contract import Module
from headstart.kinds.history import write_history
from headstart.kinds.loading import HoldsModule, as_module
from headstart.records import CARD_FILE

__all__ = ["based_on", "save_module"]

AnyModule = TypeVar("AnyModule", bound=Module)


def save_module(module: AnyModule | HoldsModule, folder: str | Path) -> AnyModule:
    """Write `adapter_config.json`, the kind's file of tensors, the card and a README with the code that loads it.

    `module` may be a result that holds one, such as that of `ensemble` or `tune`. Returns the module with the hash of
    the written tensors on its card. Raises `OutputError` if the folder exists or cannot be written; then nothing is
    left behind.

    >>> saved = hs.save_module(tuned, "reviews-module")
    >>> hs.load_module("reviews-module").digest() == saved.digest()
    True
    """
    folder = Path(folder)
    refuse_existing(folder)
    return _saved(cast("AnyModule", as_module(module).load()), folder)


def _saved(module: AnyModule, folder: Path) -> AnyModule:
    with staged_folder(folder) as staging:
        weights = staging / module.weights_file
        answering = _head_tensors(module)
        own = module.state_dict()
        _write(weights, own if module.head_prefix is None else own | answering)
        found = read_safetensors(weights)
        if module.head_prefix is None and answering:
            _write(staging / HEAD_FILE, answering)
            found |= read_safetensors(staging / HEAD_FILE)
        written = tensor_hash(found)
        # Tensors that differ from the fetched ones were made here and no longer have that origin.
        origin = module.card.origin if written == module.card.tensor_hash else ""
        card = module.card.model_copy(update={"tensor_hash": written, "origin": origin})
        config = _config(module)
        (staging / "adapter_config.json").write_text(
            json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        (staging / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
        if module.history is not None:
            write_history(module.history, staging)
        page = readme(card, loading=snippet(card, config, folder=folder.name))
        (staging / "README.md").write_text(page, encoding="utf-8", errors="backslashreplace")
    return replace(module, card=card)


def based_on(module: AnyModule, place: str) -> AnyModule:
    """The module with the place of its backbone (`Backbone.place`) in its configuration, from where PEFT loads it.

    A configuration without such a field, AdapterHub's, stays as it is.
    """
    if "base_model_name_or_path" not in module.config:
        return module
    return replace(module, config={**module.config, "base_model_name_or_path": place})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    contiguous = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    path.write_bytes(save(contiguous, metadata={"format": "pt"}))


def _head_tensors(module: Module) -> dict[str, Tensor]:
    """The head's tensors under the names that PEFT gives them."""
    prefix = module.head_prefix or ""
    return {} if module.head is None else {f"{prefix}{name}": value for name, value in module.head.tensors.items()}


def _config(module: Module) -> dict[str, Any]:
    """The configuration; for a module with a head, it names the head as PEFT does."""
    config = dict(module.config)
    if module.head is None or module.head_prefix is None:
        return config
    saved = sorted({name.partition(".")[0] for name in module.head.tensors})
    return config | {"task_type": TASK_TYPES[module.head.card.task], "modules_to_save": saved}
