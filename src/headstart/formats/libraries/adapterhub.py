"""Folders that AdapterHub's library `adapters` saves, read as modules; pure, without torch.

Their adapter_config.json holds the method's own fields under "config"; the names of the tensors include the adapter's
name. Heads beside an adapter are not part of the module and are not read.
"""

import re
from collections.abc import Mapping

from headstart.architectures import ARCHITECTURES, Role, architecture_of
from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import StoredTensor
from headstart.formats.libraries.adapterhub_config import SAVE_AGAIN, method_fields, without_base
from headstart.formats.libraries.adapterhub_prefix import as_attention_prefix, require_known_prefix
from headstart.formats.libraries.peft_config import PREFIX, Fields, Plain
from headstart.formats.libraries.peft_layers import ends_with
from headstart.formats.libraries.peft_lora import OTHER_DENSE, excluded_dense

__all__ = ["from_adapterhub", "method_of"]

LORA_FIELDS = Fields(
    handled={"alpha", "attn_matrices", "composition_mode", "intermediate_lora", "output_lora", "r", "selfattn_lora"},
    harmless={"architecture", "dropout", "dtype", "init_weights", "init_weights_seed"},
    refused={
        "leave_out": "which layers have a LoRA and which are missing could not be told apart",
        "use_dora": "DoRA in AdapterHub's layout is not read",
        "use_gating": "it carries a gate beside each update",
        "vera_b": "VeRA shares its factors between layers",
        "vera_d": "VeRA shares its factors between layers",
    },
)
ADAPTED_BY: dict[Role, tuple[str, str]] = {
    "query": ("selfattn_lora", "q"), "key": ("selfattn_lora", "k"), "value": ("selfattn_lora", "v"),
    "up": ("intermediate_lora", ""), "down": ("output_lora", ""),
}  # fmt: skip
"""By a layer's role: the field that adapts it, and its name in `attn_matrices`."""

EXCHANGED = ("llama", "mistral")
"""Architectures in which the library takes "down" for the intermediate layer and "up" for the output."""

VERSION = re.compile(r"adapters\.(\d+)\.(\d+)(\.|$)")
UNREAD = {
    "prompt_tuning": "prompt",
    "mtl_lora": "multi-task LoRA",
    "reft": "ReFT",
    "union": "a union of methods",
}


def method_of(config: Mapping[str, object]) -> str:
    """The kind of the configuration, "adapter", "lora" or "prefix"; others raise `ModuleError`, which names them."""
    version = str(config.get("version"))
    if VERSION.match(version) is None:
        raise ModuleError(
            f"field 'version' is {config.get('version')!r}: Headstart reads what the library `adapters` "
            f"saved, not what came before it; {SAVE_AGAIN}"
        )
    if not config.get("name") or not isinstance(config.get("name"), str):
        raise ModuleError(f"field 'name' is {config.get('name')!r}, not the adapter's name; {SAVE_AGAIN}")
    method = method_fields(config)
    architecture = method.get("architecture")
    if architecture is None:
        return "adapter"
    if architecture == "prefix_tuning":
        require_known_prefix(config)
        return "prefix"
    if architecture != "lora":
        what = UNREAD.get(str(architecture), repr(architecture))
        raise ModuleError(f"{what} in AdapterHub's layout is not read yet; use a bottleneck adapter or LoRA")
    if method.get("composition_mode", "add") != "add":
        raise ModuleError("(IA)³ in AdapterHub's layout is not read yet; use a bottleneck adapter or LoRA")
    return "lora"


def from_adapterhub(config: dict[str, object], tensors: dict[str, StoredTensor]) -> Plain:
    """The module in PEFT's terms (LoRA), in Headstart's (prefixes), or unchanged (adapters).

    Raises `ModuleError` naming the field or tensor.
    """
    write = {"lora": _as_peft, "prefix": as_attention_prefix, "adapter": Plain}[method_of(config)]
    return write(config, tensors)


def _as_peft(config: Mapping[str, object], tensors: Mapping[str, StoredTensor]) -> Plain:
    """A LoRA's configuration and tensors as PEFT would have saved them."""
    method, family = method_fields(config), str(config.get("model_type"))
    LORA_FIELDS.check(method)
    architecture = architecture_of(family)
    if architecture is None or not architecture.library:
        read = [name for name, known in ARCHITECTURES.items() if known.library]
        raise ModuleError(
            f"field 'model_type' is {family!r}; LoRA in AdapterHub's layout is read for: {', '.join(read)}"
        )
    renamed, targets = _renamed(config, tensors, base=f"{PREFIX}{architecture.base}")
    peft: dict[str, object] = {
        "peft_type": "LORA", "r": method.get("r"), "lora_alpha": _alpha(config, method), "target_modules": targets,
        "exclude_modules": excluded_dense(targets), "init_lora_weights": True, "bias": "none",
        "fan_in_fan_out": architecture.transposed, "inference_mode": True,
        "base_model_name_or_path": config.get("model_name") or None, "task_type": None,
    }  # fmt: skip
    return Plain(peft, renamed)


LoraEnds = Mapping[str, tuple[str, str]]


def _lora_ends(family: str) -> LoraEnds:
    """By the end of a layer's path: the field that adapts it, and its name in `attn_matrices`."""
    roles: dict[Role, Role] = {"up": "down", "down": "up"} if family in EXCHANGED else {}
    return {
        end: field for role, field in ADAPTED_BY.items() for end in ARCHITECTURES[family].names(roles.get(role, role))
    }


def _renamed(
    config: Mapping[str, object], tensors: Mapping[str, StoredTensor], *, base: str
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors by PEFT's names, and the names for its `target_modules`.

    Raises `ModuleError` unless the layers with tensors are those that the configuration adapts: AdapterHub would ignore
    other tensors, and in PEFT every layer of such a name must have its own.
    """
    ends, adapted = _lora_ends(str(config["model_type"])), _adapted(method_fields(config))
    renamed: dict[str, StoredTensor] = {}
    targets: set[str] = set()
    for old, tensor in tensors.items():
        found = re.fullmatch(rf"(.+)\.loras\.{re.escape(str(config['name']))}\.(lora_[AB])", without_base(old))
        if found is None:
            raise ModuleError(f"tensor '{old}' is not part of the LoRA '{config['name']}'")
        end = _end(found[1], ends)
        if not end:
            raise ModuleError(
                f"tensor '{old}' adapts a layer that Headstart does not know in AdapterHub's layout; "
                "save the module with PEFT"
            )
        if ends[end] not in adapted:
            raise ModuleError(
                f"tensor '{old}' is there but fields '{ends[end][0]}' and 'attn_matrices' do not adapt its layer; "
                f"{SAVE_AGAIN}"
            )
        new = f"{base}{found[1]}.{found[2]}.weight"
        if new in renamed:
            raise ModuleError(f"tensor '{old}' stands for the same parameter as another one; {SAVE_AGAIN}")
        renamed[new] = tensor
        targets.add(end)
    for field, matrix in sorted(adapted - {ends[end] for end in targets}) if targets else ():
        raise ModuleError(
            f"field '{field}' is set{f' for {matrix!r}' if matrix else ''} but its tensors are missing; {SAVE_AGAIN}"
        )
    return renamed, sorted(targets)


def _end(layer: str, ends: LoraEnds) -> str:
    """The end of a layer's path that says what it is, or "" for a layer that the library does not adapt."""
    return "" if ends_with(layer, [OTHER_DENSE]) else next((end for end in ends if ends_with(layer, [end])), "")


def _adapted(method: Mapping[str, object]) -> set[tuple[str, str]]:
    """The fields that adapt layers, each with its name in `attn_matrices` if it has one."""
    matrices = method.get("attn_matrices") or []
    listed = matrices if isinstance(matrices, list) else []
    fields = {(field, "") for field in ("intermediate_lora", "output_lora") if method.get(field)}
    return fields | {("selfattn_lora", str(matrix)) for matrix in listed if method.get("selfattn_lora")}


def _alpha(config: Mapping[str, object], method: Mapping[str, object]) -> object:
    """α; before version 1.1.0, `adapters` did not multiply by α/r during training, so r takes the place of α."""
    version = VERSION.match(str(config["version"]))
    assert version is not None  # `method_of` has checked it
    return method.get("alpha") if (int(version[1]), int(version[2])) >= (1, 1) else method.get("r")
