"""Formats of module folders: read, validated and hashed without torch. How a module computes belongs in `kinds`."""

from headstart.filenames import CONFIG_FILE, HEAD_FILE, INTERFACE_FILE, WEIGHTS_FILE, WEIGHTS_FILES
from headstart.formats.containers.regular_file import regular_file
from headstart.formats.containers.safetensors_file import (
    StoredTensor,
    read_safetensors,
    safetensors_bytes,
    tensor_hash,
)
from headstart.formats.folder import (
    PICKLES,
    READERS,
    FolderReader,
    StoredModule,
    module_name,
    read_module,
    read_opendelta,
)
from headstart.formats.layout import Layout, computing_fields
from headstart.formats.libraries.adapterhub_adapter import AdapterLayout, adapter_layout
from headstart.formats.libraries.own_bitfit import BitFitLayout, bitfit_layout
from headstart.formats.libraries.own_prefix import AttentionPrefixLayout, attention_prefix_layout
from headstart.formats.libraries.peft_head import TASK_TYPES
from headstart.formats.libraries.peft_ia3 import IA3Layout, ia3_layout
from headstart.formats.libraries.peft_lora import LoraLayout, lora_layout
from headstart.formats.libraries.peft_prefix import PrefixLayout, prefix_layout
from headstart.formats.libraries.peft_prompt import PromptLayout, prompt_layout

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
    "AttentionPrefixLayout",
    "BitFitLayout",
    "FolderReader",
    "IA3Layout",
    "Layout",
    "LoraLayout",
    "PrefixLayout",
    "PromptLayout",
    "StoredModule",
    "StoredTensor",
    "adapter_layout",
    "attention_prefix_layout",
    "bitfit_layout",
    "computing_fields",
    "ia3_layout",
    "lora_layout",
    "module_name",
    "prefix_layout",
    "prompt_layout",
    "read_module",
    "read_opendelta",
    "read_safetensors",
    "regular_file",
    "safetensors_bytes",
    "tensor_hash",
]
