"""Formats of module folders: read, validated and hashed without torch."""

from headstart.formats.layout import Layout
from headstart.formats.lora import LoraLayout, LoraTarget, lora_layout
from headstart.formats.peft_folder import (
    CONFIG_FILE,
    PICKLES,
    WEIGHTS_FILE,
    StoredModule,
    module_name,
    read_module,
    regular_file,
)
from headstart.formats.safetensors_file import StoredTensor, check_finite, read_safetensors, tensor_hash

__all__ = [
    "CONFIG_FILE",
    "PICKLES",
    "WEIGHTS_FILE",
    "Layout",
    "LoraLayout",
    "LoraTarget",
    "StoredModule",
    "StoredTensor",
    "check_finite",
    "lora_layout",
    "module_name",
    "read_module",
    "read_safetensors",
    "regular_file",
    "tensor_hash",
]
