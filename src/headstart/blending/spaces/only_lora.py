"""The modules whose updates are products of two factors."""

from collections.abc import Sequence

from headstart.errors import MergeError
from headstart.kinds import LoraModule, Module

__all__ = ["only_lora"]


def only_lora(modules: Sequence[Module], *, space: str) -> list[LoraModule]:
    """The modules as LoRA; raises `MergeError` naming the first that is not plain LoRA."""
    for module in modules:
        if not isinstance(module, LoraModule):
            raise MergeError(
                f"'{module.name}' is not a plain LoRA module, so space '{space}' does not apply; leave it out"
            )
    return [module for module in modules if isinstance(module, LoraModule)]
