"""The kinds of modules, one file each, and the one place that turns folders into modules and back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from headstart.backbones import Backbone
from headstart.formats import StoredModule, read_module
from headstart.kinds.adapter import AdapterModule, AdapterSettings
from headstart.kinds.bitfit import BitFitModule, BitFitSettings
from headstart.kinds.contract import Module, Stack
from headstart.kinds.headed import stack_of
from headstart.kinds.ia3 import IA3Module, IA3Settings
from headstart.kinds.lazy import AnyModule, LazyModule, StoredSource, module_of
from headstart.kinds.lora import LoraModule, LoraSettings
from headstart.kinds.prefix import PrefixModule, PrefixSettings
from headstart.kinds.prompt import PromptModule, PromptSettings
from headstart.kinds.saving import save_module
from headstart.kinds.through_peft import PeftModule
from headstart.registry import Registry

__all__ = [
    "KINDS",
    "AdapterModule",
    "AdapterSettings",
    "AnyModule",
    "BitFitModule",
    "BitFitSettings",
    "IA3Module",
    "IA3Settings",
    "LazyModule",
    "LoraModule",
    "LoraSettings",
    "Module",
    "PeftModule",
    "PrefixModule",
    "PrefixSettings",
    "PromptModule",
    "PromptSettings",
    "Stack",
    "StoredSource",
    "fresh_module",
    "load_module",
    "save_module",
    "stack_of",
    "stacks",
]

KINDS: Registry[type[Module]] = Registry("kind", group="headstart.kinds")
KINDS.add("lora", LoraModule)
KINDS.add("prefix", PrefixModule)
KINDS.add("prompt", PromptModule)
KINDS.add("ia3", IA3Module)
KINDS.add("bitfit", BitFitModule)
KINDS.add("adapter", AdapterModule)


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


def stacks(modules: Sequence[AnyModule], *, most: int) -> list[list[int]]:
    """Group positions 0…n-1 into stacks of at most `most` modules that compute together, first come first.

    Those that have task heads share a stack when these answer alike and have equal shapes.
    """
    groups: dict[object, list[int]] = {}
    for index, module in enumerate(modules):
        head = module.card.head
        answers = None if head is None else (head.task, head.labels, tuple(sorted(head.shapes.items())))
        groups.setdefault((module.family, module.stack_key, answers), []).append(index)
    return [members[start : start + most] for members in groups.values() for start in range(0, len(members), most)]
