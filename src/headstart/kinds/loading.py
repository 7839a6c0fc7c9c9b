"""The one place that turns folders and shapes into modules, whatever their kind."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from headstart.backbones import Backbone
from headstart.formats import StoredModule, read_module
from headstart.kinds.contract import Module
from headstart.kinds.lazy import module_of
from headstart.kinds.registry import KINDS
from headstart.kinds.through_peft import PeftModule

__all__ = ["fresh_module", "load_module"]


def fresh_module(kind: str, backbone: Backbone, shape: Mapping[str, Any], *, name: str, seed: int) -> Module:
    """A fresh module of a kind; of `shape` the settings that this kind has are read, `None` being its own default."""
    family = KINDS[kind]
    own = {field.name for field in fields(family.settings)}
    settings = family.settings(**{key: value for key, value in shape.items() if key in own and value is not None})
    return family.fresh(backbone, settings, name=name, seed=seed)


def load_module(source: StoredModule | str | Path) -> Module:
    """The module in a folder of PEFT's or AdapterHub's.

    Raises `ModuleError` when the folder is broken, unsafe or of an unknown variant.
    """
    stored = source if isinstance(source, StoredModule) else read_module(Path(source))
    family: type[Module] = PeftModule if stored.layout.through_peft else KINDS[stored.card.kind]
    return module_of(family, stored)
