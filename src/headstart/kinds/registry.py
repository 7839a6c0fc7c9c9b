"""The kinds by the names that users type."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.kinds.contract import Module

__all__ = ["KINDS"]

KINDS: "Registry[type[Module]]" = Registry(
    "kind",
    group="headstart.kinds",
    contract="headstart.kinds:Module",
    members={
        "lora": "headstart.kinds.lora:LoraModule",
        "prefix": "headstart.kinds.prefix:PrefixModule",
        "prompt": "headstart.kinds.prompt:PromptModule",
        "ia3": "headstart.kinds.ia3:IA3Module",
        "bitfit": "headstart.kinds.bitfit:BitFitModule",
        "adapter": "headstart.kinds.adapter:AdapterModule",
    },
)
