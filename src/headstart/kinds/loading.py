"""The one place that turns folders and shapes into modules, whatever their kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.backbones import Backbone
from headstart.formats import StoredModule, read_module
from headstart.kinds.contract import Module
from headstart.kinds.lazy import module_of
from headstart.kinds.registry import KINDS
from headstart.kinds.settings import checked
from headstart.kinds.through_peft import PeftModule

__all__ = ["fresh_module", "load_module"]


def fresh_module(kind: str, backbone: Backbone, shape: Mapping[str, Any], *, name: str, seed: int) -> Module:
    """A fresh module of a kind, shaped by settings of that kind; settings left out or `None` have its defaults.

    Raises `SettingError` for an unknown kind or setting, a bad value, or a backbone that the module does not fit.
    """
    return KINDS[kind].fresh(backbone, checked(kind, shape), name=name, seed=seed)


def load_module(source: StoredModule | str | Path) -> Module:
    """The module in a folder of PEFT, AdapterHub or OpenDelta.

    Raises `ModuleError` if the folder is broken, unsafe or of an unknown variant.
    """
    stored = source if isinstance(source, StoredModule) else read_module(Path(source))
    family: type[Module] = PeftModule if stored.layout.through_peft else KINDS[stored.card.kind]
    return module_of(family, stored)
