"""Names of the files in a module's folder; code that only looks at hubs needs them without the files' readers."""

import difflib
from pathlib import Path

__all__ = [
    "ADAPTERHUB_WEIGHTS",
    "CARD_FILE",
    "CONFIG_FILE",
    "EARLY_FILE",
    "HEAD_FILE",
    "HISTORY_FILE",
    "INTERFACE_FILE",
    "OPENDELTA_CONFIG",
    "OPENDELTA_WEIGHTS",
    "WEIGHTS_FILE",
    "WEIGHTS_FILES",
    "near_path",
]

CARD_FILE = "headstart.json"
"""A module's card; other tools ignore it."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTERHUB_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
"""Names of AdapterHub's file of tensors: as saved with `use_safetensors=True`, and without."""

WEIGHTS_FILES = (WEIGHTS_FILE, *ADAPTERHUB_WEIGHTS)
"""Every name that the file of tensors may have: PEFT's, and AdapterHub's."""

INTERFACE_FILE = "adapter_interface.json"
"""A file beside modules of backbones that AdapterHub reaches through hooks, where layer norms count differently."""

HEAD_FILE = "headstart_head.safetensors"
"""The file of the task head if it cannot be stored in the module's own file."""

HISTORY_FILE = "headstart_history.json"
"""How a module was tuned; other tools ignore it."""

EARLY_FILE = "headstart_early.safetensors"
"""The module's parameters early in its tuning, if they were kept."""

OPENDELTA_CONFIG, OPENDELTA_WEIGHTS = "config.json", "pytorch_model.bin"


def near_path(missing: Path, *, folders: bool = False) -> str:
    """ " (did you mean X?)" with what lies beside a missing path and is called much like it, else "".

    `folders`: whether only folders are meant.
    """
    try:
        beside = [each.name for each in missing.parent.iterdir() if each.is_dir() or not folders]
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, beside, n=1)
    return f" (did you mean {missing.with_name(near[0])}?)" if near else ""
