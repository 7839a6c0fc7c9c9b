"""Reading a module folder, PEFT's or AdapterHub's: adapter_config.json, the tensors and, where there is one, our card.

Nothing is unpickled and no link is followed out of the folder. What `read_module` returns is checked; what it cannot
check it refuses.
"""

import math
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import CardError, ModuleError
from headstart.formats.adapterhub import (
    ADAPTERHUB_WEIGHTS,
    INTERFACE_FILE,
    is_adapterhub,
    method_of,
    read_tensors,
    translated,
)
from headstart.formats.bitfit import bitfit_layout
from headstart.formats.ia3 import ia3_layout
from headstart.formats.layout import Layout
from headstart.formats.lora import lora_layout
from headstart.formats.prefix import prefix_layout
from headstart.formats.prompt import prompt_layout
from headstart.formats.safetensors_file import StoredTensor, check_finite, tensor_hash
from headstart.formats.strict_json import strict_json
from headstart.records import CARD_FILE, ModuleCard

__all__ = [
    "CONFIG_FILE",
    "PICKLES",
    "WEIGHTS_FILE",
    "WEIGHTS_FILES",
    "StoredModule",
    "module_name",
    "read_module",
    "regular_file",
]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
WEIGHTS_FILES = (WEIGHTS_FILE, *ADAPTERHUB_WEIGHTS)
"""Every name that the file of tensors may have: PEFT's, and AdapterHub's."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that are or may be pickled; never opened, except AdapterHub's as a dictionary of tensors."""
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

LayoutReader = Callable[[Mapping[str, object], Mapping[str, tuple[int, ...]], str], Layout]
KINDS: dict[str, tuple[str, LayoutReader]] = {
    "LORA": ("lora", lora_layout),
    "IA3": ("ia3", ia3_layout),
    "PREFIX_TUNING": ("prefix", prefix_layout),
    "PROMPT_TUNING": ("prompt", prompt_layout),
    "BITFIT": ("bitfit", bitfit_layout),
}
"""By PEFT's `peft_type`: the kind as Headstart names it, and the reader of its layout."""


@dataclass(frozen=True)
class StoredModule:
    """A validated module as it lies in `folder`: its configuration, tensors by name, layout and card."""

    folder: Path
    config: dict[str, object]
    tensors: dict[str, StoredTensor]
    layout: Layout
    card: ModuleCard


def read_module(folder: Path, *, check_values: bool = True) -> StoredModule:
    """Read and validate the folder `folder`, saved by PEFT or by AdapterHub's library `adapters`.

    Args:
        folder: holds adapter_config.json and one of `WEIGHTS_FILES`, and perhaps headstart.json.
        check_values: also look at every value and refuse NaN and infinity.

    Raises:
        ModuleError: a file is missing, broken, a pickle or a link out of the folder; the kind or variant is not
            supported; or configuration, tensors and card disagree. The message names the path, field or tensor.
    """
    if not folder.is_dir():
        raise ModuleError(f"{folder} is not a folder; name the folder that holds {CONFIG_FILE}")
    config = _config(folder)
    if is_adapterhub(config) and (folder / INTERFACE_FILE).exists():
        raise ModuleError(
            f"{folder / INTERFACE_FILE}: the module was made through AdapterHub's plugin interface, which places "
            "adapters in another way; Headstart cannot use this module"
        )
    # What is not supported is said before its tensors are read.
    kind = method_of(config, str(folder)) if is_adapterhub(config) else _kind(config, folder / CONFIG_FILE)[0]
    weights = _weights(folder, ADAPTERHUB_WEIGHTS if is_adapterhub(config) else (WEIGHTS_FILE,))
    tensors = read_tensors(weights)
    for tensor in tensors.values():
        if tensor.dtype not in FLOATS:
            raise ModuleError(f"{weights}: tensor '{tensor.name}' is {tensor.dtype}, not a float; save it again as F32")
    if is_adapterhub(config):
        config, tensors, layout = translated(config, tensors, str(folder))
    else:
        reader = _kind(config, folder / CONFIG_FILE)[1]
        layout = reader(config, {name: tensor.shape for name, tensor in tensors.items()}, str(folder))
    if not tensors:
        raise ModuleError(f"{weights} holds no tensors, so the module does nothing; save or train it again")
    if check_values:
        check_finite(tensors, str(weights))
    derived = _derived_card(folder, kind=kind, config=config, tensors=tensors, layout=layout)
    return StoredModule(folder, config, tensors, layout, _agreed_card(folder, derived))


def module_name(folder: Path) -> str:
    """The last part of the folder's path, also where the path is "." or "..".

    >>> module_name(Path("modules/rte"))
    'rte'
    """
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def regular_file(folder: Path, name: str) -> Path | None:
    """The path of file `name` in `folder`, or `None` when there is none.

    Raises `ModuleError` when it is no regular file, or a link that leads out of the folder.
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
                raise ModuleError(f"{path} is a link out of its folder; copy the folder with `cp -rL`")
            mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise ModuleError(f"{path} is a link that leads nowhere; copy the file itself") from error
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModuleError(f"cannot read {path}: {error}; check the path and its permissions") from error
    if not stat.S_ISREG(mode):
        raise ModuleError(f"{path} is not a regular file; replace it with the file itself")
    return path


def _config(folder: Path) -> dict[str, object]:
    path = regular_file(folder, CONFIG_FILE)
    if path is None:
        raise ModuleError(f"{folder} has no {CONFIG_FILE}; name a folder saved by PEFT's save_pretrained")
    try:
        config = strict_json(path.read_bytes())
    except OSError as error:
        raise ModuleError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    except ValueError as error:
        raise ModuleError(f"{path} is not valid JSON ({error}); download or copy it again") from error
    if not isinstance(config, dict):
        raise ModuleError(f"{path} is not a JSON object; download or copy it again")
    return config


def _kind(config: Mapping[str, object], path: Path) -> tuple[str, LayoutReader]:
    peft_type = config.get("peft_type")
    if peft_type is None:
        raise ModuleError(f"{path} has no field 'peft_type'; Headstart reads folders saved by PEFT")
    if not isinstance(peft_type, str) or peft_type not in KINDS:
        raise ModuleError(f"{path}: peft_type {peft_type!r} is not supported; supported: {', '.join(KINDS)}")
    return KINDS[peft_type]


def _weights(folder: Path, names: Sequence[str]) -> Path:
    found = [path for name in names if (path := regular_file(folder, name)) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModuleError(f"{folder} holds both {' and '.join(path.name for path in found)}; remove one of them")
    pickle = next((item.name for item in sorted(folder.iterdir()) if item.suffix in PICKLES), None)
    if pickle is not None:
        raise ModuleError(
            f"{folder} holds only the pickle {pickle}, and pickle files can run code; "
            "save it again with safe_serialization=True"
        )
    raise ModuleError(f"{folder} has no {' or '.join(names)}; download or copy the module again")


def _derived_card(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, object],
    tensors: Mapping[str, StoredTensor],
    layout: Layout,
) -> ModuleCard:
    base_model = config.get("base_model_name_or_path") or config.get("model_name")
    return ModuleCard(
        name=module_name(folder),
        kind=kind,
        rank=layout.rank,
        scaling=layout.scaling,
        targets=tuple(sorted(layout.widths)),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        tensor_hash=tensor_hash(tensors),
        base_model=base_model if isinstance(base_model, str) else "",
    )


def _agreed_card(folder: Path, derived: ModuleCard) -> ModuleCard:
    """The card in the folder, completed from `derived`; refused where it contradicts the tensors or configuration."""
    path = regular_file(folder, CARD_FILE)
    if path is None:
        return derived
    try:
        stated = ModuleCard.read(path)
    except (CardError, RecursionError, ValueError) as error:
        raise ModuleError(f"{error}" if isinstance(error, CardError) else f"{path} is malformed: {error}") from error
    for field in ("kind", "parameters", "tensor_hash", "rank", "scaling", "targets"):
        said, found = getattr(stated, field), getattr(derived, field)
        optional = field in ("rank", "scaling", "targets") and not said
        same = sorted(said) == sorted(found) if field == "targets" else said == found
        if not same and not optional:
            raise ModuleError(
                f"{path}: field '{field}' is {said!r} but the module's own is {found!r}; "
                "remove the card or copy the module it belongs to"
            )
    own = {field: getattr(derived, field) for field in ("rank", "scaling", "targets")}
    return stated.model_copy(update=own | {"base_model": stated.base_model or derived.base_model})
