"""Reading a module folder of PEFT, AdapterHub or OpenDelta: its configuration, its tensors and, if there is one, our
card.

Nothing is unpickled and no link is followed out of the folder. `read_module` refuses everything that it cannot check.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headstart.errors import CardError, ModuleError, about
from headstart.filenames import (
    ADAPTERHUB_WEIGHTS,
    CONFIG_FILE,
    HEAD_FILE,
    INTERFACE_FILE,
    OPENDELTA_CONFIG,
    OPENDELTA_WEIGHTS,
    WEIGHTS_FILE,
    near_path,
)
from headstart.formats.containers.regular_file import regular_file
from headstart.formats.containers.safetensors_file import StoredTensor, check_finite, read_safetensors, tensor_hash
from headstart.formats.containers.strict_json import strict_json
from headstart.formats.containers.tensor_pickle import read_torch_zip
from headstart.formats.layout import Layout
from headstart.formats.libraries.adapterhub import from_adapterhub, method_of
from headstart.formats.libraries.adapterhub_adapter import adapter_layout
from headstart.formats.libraries.adapterhub_config import is_adapterhub
from headstart.formats.libraries.opendelta import from_opendelta, is_opendelta
from headstart.formats.libraries.own_bitfit import bitfit_layout
from headstart.formats.libraries.own_prefix import attention_prefix_layout
from headstart.formats.libraries.peft_config import Plain
from headstart.formats.libraries.peft_head import TASK_TYPES, head_card, part_head
from headstart.formats.libraries.peft_ia3 import ia3_layout
from headstart.formats.libraries.peft_lora import lora_layout
from headstart.formats.libraries.peft_prefix import prefix_layout
from headstart.formats.libraries.peft_prompt import prompt_layout
from headstart.records import CARD_FILE, HeadCard, ModuleCard
from headstart.registry import Registry
from headstart.showing import line

__all__ = ["PICKLES", "READERS", "FolderReader", "StoredModule", "module_name", "read_module", "read_opendelta"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that may be pickles; they are never opened, except those of AdapterHub and OpenDelta, as
dictionaries of tensors."""
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


class FolderReader(NamedTuple):
    """How folders of one `peft_type` are read.

    `kind`: as Headstart names it. `layout` makes the layout from the configuration and the shapes of the stored tensors
    by name, or raises `ModuleError` naming the field or tensor; the folder's path is put before that message.
    """

    kind: str
    layout: Callable[[Mapping[str, object], Mapping[str, tuple[int, ...]]], Layout]


READERS: Registry[FolderReader] = Registry(
    "peft_type", group="headstart.folders", contract="headstart.formats:FolderReader", instances=True
)
"""By PEFT's `peft_type`; those of plugins come in by the entry-point group "headstart.folders"."""
for _type, _kind, _layout in (
    ("LORA", "lora", lora_layout),
    ("IA3", "ia3", ia3_layout),
    ("PREFIX_TUNING", "prefix", prefix_layout),
    ("ATTENTION_PREFIX", "prefix", attention_prefix_layout),
    ("PROMPT_TUNING", "prompt", prompt_layout),
    ("BITFIT", "bitfit", bitfit_layout),
):
    READERS.add(_type, FolderReader(_kind, _layout))


@dataclass(frozen=True)
class StoredModule:
    """A validated module as it is in `folder`: its configuration, tensors by name, layout and card.

    `head`: the tensors of its task head, by their names in the backbone; `card.head` says what it answers.
    """

    folder: Path
    config: dict[str, object]
    tensors: dict[str, StoredTensor]
    layout: Layout
    card: ModuleCard
    head: dict[str, StoredTensor] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return line(type(self).__name__, self.card.words, f"in {self.folder}")


def read_module(folder: Path, *, check_values: bool = True) -> StoredModule:
    """Read and validate the folder `folder`, saved by PEFT, by AdapterHub's library `adapters` or by OpenDelta.

    Args:
        folder: holds adapter_config.json and one of `WEIGHTS_FILES`, or what `read_opendelta` reads, and perhaps
            headstart.json.
        check_values: whether to check every value too, and refuse NaN and infinity.

    Raises:
        ModuleError: a file is missing, broken, a pickle or a link out of the folder; the kind or variant is not
            supported; or configuration, tensors and card disagree. The message names the path, field or tensor.
    """
    if not folder.is_dir():
        near = near_path(folder, folders=True)
        raise ModuleError(f"{folder} is not a folder{near}; name the folder that holds {CONFIG_FILE}")
    kind, weights, config, tensors = _opened(folder)
    with about(weights):
        _require_floats(tensors)
    stored = dict(tensors)
    with about(folder):
        if is_adapterhub(config):
            config, tensors = from_adapterhub(config, tensors)
            head, answers = _own_head(folder)
            stored = {**tensors, **head}
        else:
            config, tensors, head, answers = part_head(config, tensors)
        layout = (adapter_layout if is_adapterhub(config) else _reader(config).layout)(
            config, {name: tensor.shape for name, tensor in tensors.items()}
        )
    if not tensors:
        raise ModuleError(f"{weights} holds no tensors, so the module does nothing; save or train it again")
    if check_values:
        with about(weights):
            check_finite({**tensors, **head})
    base_model = config.get("base_model_name_or_path") or config.get("model_name")
    derived = ModuleCard(
        name=module_name(folder),
        kind=kind,
        rank=layout.rank,
        scaling=layout.scaling,
        targets=tuple(sorted(layout.widths)),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        tensor_hash=tensor_hash(stored),
        base_model=base_model if isinstance(base_model, str) else "",
        variant=layout.through_peft or "",
        head=answers,
    )
    return StoredModule(folder, config, tensors, layout, _agreed_card(folder, derived), head)


def _opened(folder: Path) -> tuple[str, Path, dict[str, object], dict[str, StoredTensor]]:
    """The kind, the file of tensors, the configuration and the tensors, in PEFT's or AdapterHub's terms."""
    plain = read_opendelta(folder)
    config = _config(folder, CONFIG_FILE) if plain is None else plain.config
    if is_adapterhub(config) and (folder / INTERFACE_FILE).exists():
        raise ModuleError(
            f"{folder / INTERFACE_FILE}: the module was made through AdapterHub's plugin interface, which places "
            "adapters in another way; Headstart cannot use this module"
        )
    # Unsupported modules are refused before their tensors are read.
    with about(folder if is_adapterhub(config) else folder / CONFIG_FILE):
        kind = method_of(config) if is_adapterhub(config) else _reader(config).kind
    if plain is not None:
        return kind, folder / OPENDELTA_WEIGHTS, config, plain.tensors
    weights = _weights(folder, ADAPTERHUB_WEIGHTS if is_adapterhub(config) else (WEIGHTS_FILE,))
    return kind, weights, config, _read_tensors(weights)


def read_opendelta(folder: Path) -> Plain | None:
    """The module that OpenDelta saved in `folder`, in the terms of PEFT or AdapterHub; `None` if it saved none there.

    Raises `ModuleError` if the file of tensors is missing or broken, and whenever `from_opendelta` does.
    """
    if regular_file(folder, CONFIG_FILE) is not None or regular_file(folder, OPENDELTA_CONFIG) is None:
        return None
    config = _config(folder, OPENDELTA_CONFIG)
    if not is_opendelta(config):
        return None
    weights = regular_file(folder, OPENDELTA_WEIGHTS)
    if weights is None:
        raise ModuleError(f"{folder} has no {OPENDELTA_WEIGHTS}; download or copy the module again")
    tensors = _read_tensors(weights)
    with about(folder):
        return from_opendelta(config, tensors)


def module_name(folder: Path) -> str:
    """The last part of the folder's path, even if the path is "." or "..".

    >>> module_name(Path("modules/rte"))
    'rte'
    """
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _config(folder: Path, name: str) -> dict[str, object]:
    path = regular_file(folder, name)
    if path is None:
        raise ModuleError(f"{folder} has no {name}; name a folder saved by PEFT's save_pretrained")
    try:
        config = strict_json(path.read_bytes())
    except OSError as error:
        raise ModuleError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    except ValueError as error:
        raise ModuleError(f"{path} is not valid JSON ({error}); download or copy it again") from error
    if not isinstance(config, dict):
        raise ModuleError(f"{path} is not a JSON object; download or copy it again")
    return config


def _reader(config: Mapping[str, object]) -> FolderReader:
    peft_type = config.get("peft_type")
    if peft_type is None:
        raise ModuleError("it has no field 'peft_type'; Headstart reads folders saved by PEFT")
    if not isinstance(peft_type, str) or peft_type not in READERS:
        raise ModuleError(f"peft_type {peft_type!r} is not supported; supported: {', '.join(READERS)}")
    return READERS[peft_type]


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


def _read_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one of `ADAPTERHUB_WEIGHTS`, by the file's suffix."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_zip(path)


def _require_floats(tensors: Mapping[str, StoredTensor]) -> None:
    for tensor in tensors.values():
        if tensor.dtype not in FLOATS:
            raise ModuleError(f"tensor '{tensor.name}' is {tensor.dtype}, not a float; save it again as F32")


def _own_head(folder: Path) -> tuple[dict[str, StoredTensor], HeadCard | None]:
    """The head in Headstart's own file beside an AdapterHub module, whose file cannot hold one."""
    path = regular_file(folder, HEAD_FILE)
    if path is None:
        return {}, None
    head = read_safetensors(path)
    spans = any(name.startswith("qa_outputs.") for name in head)
    with about(HEAD_FILE):
        _require_floats(head)
        return head, head_card(head, TASK_TYPES["span" if spans else "classification"])


def _agreed_card(folder: Path, derived: ModuleCard) -> ModuleCard:
    """The card in the folder, completed from `derived`; refused if it contradicts the tensors or configuration."""
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
    own = {field: getattr(derived, field) for field in ("rank", "scaling", "targets", "variant")}
    own["head"] = _agreed_head(stated.head, derived.head, path)
    return stated.model_copy(update=own | {"base_model": stated.base_model or derived.base_model})


def _agreed_head(stated: HeadCard | None, found: HeadCard | None, path: Path) -> HeadCard | None:
    """The head that the tensors show, with the labels that the card states; refused if the two disagree."""
    if stated is None:
        return found
    labels = stated.labels
    fits = labels == () or (stated.task == "classification" and len(set(labels)) == len(labels) == stated.outputs)
    if not fits or found != stated.model_copy(update={"labels": ()}):
        raise ModuleError(
            f"{path}: field 'head' is not what the tensors of the task head are; remove the card or copy the module it "
            "belongs to"
        )
    return stated
