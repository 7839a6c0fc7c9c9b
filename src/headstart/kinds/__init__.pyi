from .adapter import AdapterModule
from .bitfit import BitFitModule
from .contract import Module, ParameterStack, Stack, ValuesModule, card_of, require_backbone_of
from .headed import stack_of, stacks
from .history import History
from .ia3 import IA3Module
from .lazy import AnyModule, LazyModule, StoredSource
from .loading import (
    HoldsModule,
    ModuleLike,
    as_module,
    as_modules,
    backbone_for,
    fresh_module,
    load_module,
    own_backbone,
)
from .lora import LoraModule
from .prefix import PrefixModule
from .prompt import PromptModule
from .registry import KINDS
from .saving import save_module
from .settings import AdapterSettings, BitFitSettings, IA3Settings, LoraSettings, PrefixSettings, PromptSettings
from .through_peft import PeftModule

__all__ = [
    "KINDS",
    "AdapterModule",
    "AdapterSettings",
    "AnyModule",
    "BitFitModule",
    "BitFitSettings",
    "History",
    "HoldsModule",
    "IA3Module",
    "IA3Settings",
    "LazyModule",
    "LoraModule",
    "LoraSettings",
    "Module",
    "ModuleLike",
    "ParameterStack",
    "PeftModule",
    "PrefixModule",
    "PrefixSettings",
    "PromptModule",
    "PromptSettings",
    "Stack",
    "StoredSource",
    "ValuesModule",
    "as_module",
    "as_modules",
    "backbone_for",
    "card_of",
    "fresh_module",
    "load_module",
    "own_backbone",
    "require_backbone_of",
    "save_module",
    "stack_of",
    "stacks",
]
