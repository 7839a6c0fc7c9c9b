"""Formats of module folders: read, validated and hashed without torch."""

from headstart.filenames import CONFIG_FILE, HEAD_FILE, INTERFACE_FILE, WEIGHTS_FILE, WEIGHTS_FILES
from headstart.formats.adapter import AdapterLayout, AdapterPlace, adapter_layout
from headstart.formats.bitfit import BitFitLayout, bitfit_layout
from headstart.formats.head import TASK_TYPES
from headstart.formats.ia3 import IA3Layout, IA3Target, ia3_layout
from headstart.formats.layout import Layout
from headstart.formats.lora import LoraLayout, LoraTarget, lora_layout
from headstart.formats.peft_folder import (
    PICKLES,
    READERS,
    FolderReader,
    StoredModule,
    module_name,
    read_module,
    read_opendelta,
    regular_file,
)
from headstart.formats.prefix import PrefixLayout, prefix_layout
from headstart.formats.prefix_attention import AttentionPrefixLayout, attention_prefix_layout
from headstart.formats.prompt import PromptLayout, prompt_layout
from headstart.formats.safetensors_file import (
    StoredTensor,
    check_finite,
    read_safetensors,
    safetensors_bytes,
    tensor_hash,
)
from headstart.formats.tensor_pickle import read_torch_zip

__all__ = [
    "CONFIG_FILE",
    "HEAD_FILE",
    "INTERFACE_FILE",
    "PICKLES",
    "READERS",
    "TASK_TYPES",
    "WEIGHTS_FILE",
    "WEIGHTS_FILES",
    "AdapterLayout",
    "AdapterPlace",
    "AttentionPrefixLayout",
    "BitFitLayout",
    "FolderReader",
    "IA3Layout",
    "IA3Target",
    "Layout",
    "LoraLayout",
    "LoraTarget",
    "PrefixLayout",
    "PromptLayout",
    "StoredModule",
    "StoredTensor",
    "adapter_layout",
    "attention_prefix_layout",
    "bitfit_layout",
    "check_finite",
    "ia3_layout",
    "lora_layout",
    "module_name",
    "prefix_layout",
    "prompt_layout",
    "read_module",
    "read_opendelta",
    "read_safetensors",
    "read_torch_zip",
    "regular_file",
    "safetensors_bytes",
    "tensor_hash",
]
