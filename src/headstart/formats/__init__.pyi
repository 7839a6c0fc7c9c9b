from .containers.regular_file import regular_file
from .containers.safetensors_file import StoredTensor, read_safetensors, safetensors_bytes, tensor_hash
from .folder import PICKLES, READERS, FolderReader, StoredModule, module_name, read_module, read_opendelta
from .layout import Layout, Widths, computing_fields
from .libraries.adapterhub_adapter import AdapterLayout, adapter_layout
from .libraries.own_bitfit import bitfit_layout
from .libraries.own_prefix import AttentionPrefixLayout, attention_prefix_layout
from .libraries.peft_head import TASK_TYPES
from .libraries.peft_ia3 import ia3_layout
from .libraries.peft_lora import LoraLayout, lora_layout
from .libraries.peft_prefix import PrefixLayout, prefix_layout
from .libraries.peft_prompt import PromptLayout, prompt_layout

__all__ = [
    "PICKLES",
    "READERS",
    "TASK_TYPES",
    "AdapterLayout",
    "AttentionPrefixLayout",
    "FolderReader",
    "Layout",
    "LoraLayout",
    "PrefixLayout",
    "PromptLayout",
    "StoredModule",
    "StoredTensor",
    "Widths",
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
