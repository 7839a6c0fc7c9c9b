from .adapter import AdapterModule, AdapterSettings
from .bitfit import BitFitModule, BitFitSettings
from .contract import Module, Stack
from .headed import stack_of, stacks
from .ia3 import IA3Module, IA3Settings
from .lazy import AnyModule, LazyModule, StoredSource
from .loading import fresh_module, load_module
from .lora import LoraModule, LoraSettings
from .prefix import PrefixModule, PrefixSettings
from .prompt import PromptModule, PromptSettings
from .registry import KINDS
from .saving import save_module
from .through_peft import PeftModule

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
