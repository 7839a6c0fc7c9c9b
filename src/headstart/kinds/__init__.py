"""The kinds of modules, one file each, and the one place that turns folders into modules and back."""

from collections.abc import Sequence
from pathlib import Path

from headstart.formats import StoredModule, read_module
from headstart.kinds.contract import Module, Stack
from headstart.kinds.lora import LoraModule, LoraSettings
from headstart.kinds.saving import save_module
from headstart.kinds.through_peft import PeftModule
from headstart.registry import Registry

__all__ = [
    "KINDS",
    "LoraModule",
    "LoraSettings",
    "Module",
    "PeftModule",
    "Stack",
    "load_module",
    "save_module",
    "stacks",
]

KINDS: Registry[type[Module]] = Registry("kind", group="headstart.kinds")
KINDS.add("lora", LoraModule)


def load_module(source: StoredModule | str | Path) -> Module:
    """The module in a PEFT folder. Raises `ModuleError` when the folder is broken, unsafe or of an unknown variant."""
    stored = source if isinstance(source, StoredModule) else read_module(Path(source))
    family: type[Module] = PeftModule if stored.layout.through_peft else KINDS[stored.card.kind]
    return family.from_stored(stored)


def stacks(modules: Sequence[Module], *, most: int) -> list[list[int]]:
    """Group positions 0…n-1 into stacks of at most `most` modules that compute together, first come first."""
    groups: dict[object, list[int]] = {}
    for index, module in enumerate(modules):
        groups.setdefault((type(module), module.stack_key), []).append(index)
    return [members[start : start + most] for members in groups.values() for start in range(0, len(members), most)]
