"""A module out of a model that PEFT has put it into."""

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

from peft import PeftModel
from peft.utils.other import EMBEDDING_LAYER_NAMES

from headstart.errors import ModuleError
from headstart.formats import StoredModule, read_module

__all__ = ["stored_from_peft"]


def stored_from_peft(model: PeftModel, adapter: str) -> StoredModule:
    """The module `adapter` as PEFT saves it and as a folder is read, so that every rule for folders holds here too.

    Raises `ModuleError` if the model has no such adapter, or if the module is not supported.
    """
    if adapter not in model.peft_config:
        known = ", ".join(f"'{name}'" for name in model.peft_config)
        raise ModuleError(f"the {type(model).__name__} has no adapter '{adapter}'; give adapter= as one of: {known}")
    config = model.peft_config[adapter]
    stated = config.base_model_name_or_path
    with tempfile.TemporaryDirectory(prefix="headstart-") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that embedding layers are saved too, which reading reports
        try:
            model.save_pretrained(made, selected_adapters=[adapter], save_embedding_layers=_saves_embeddings(config))
        finally:
            config.base_model_name_or_path = stated  # PEFT fills it in while it saves
        folder = Path(made) if adapter == "default" else Path(made, adapter)
        try:
            stored = read_module(folder)
        except ModuleError as error:
            # The temporary folder will be gone when the message is read.
            raise ModuleError(str(error).replace(str(folder), f"adapter '{adapter}'")) from error
    return replace(stored, card=stored.card.model_copy(update={"name": adapter}))


def _saves_embeddings(config: object) -> bool:
    """Whether PEFT saves whole embedding layers too; left to itself, it asks the network about the backbone first."""
    targets = getattr(config, "target_modules", None) or ()
    return any(name in targets for name in EMBEDDING_LAYER_NAMES)
