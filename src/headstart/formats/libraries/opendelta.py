"""Folders that the library OpenDelta saves, converted to PEFT's or AdapterHub's terms; pure, without torch.

`save_finetuned` of OpenDelta 0.3 writes config.json, whose `delta_type` says what it is, and pytorch_model.bin with the
tuned tensors under the backbone's own names. A "lora" is PEFT's LoRA, with s = α/r; an "adapter" is
h + U·act(D·h + d) + u after the layers that `modified_modules` names, which is one of AdapterHub's designs or is
refused; "bitfit" holds the tuned bias terms themselves. What no field explains is refused, never ignored.
"""

import re
from collections.abc import Mapping

from headstart.architectures import ARCHITECTURES, Architecture, Blocks, Sublayer
from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import StoredTensor
from headstart.formats.libraries.adapterhub_adapter import PARTS as ADAPTERHUB_PARTS
from headstart.formats.libraries.adapterhub_adapter import reduction_factor
from headstart.formats.libraries.adapterhub_config import without_base
from headstart.formats.libraries.opendelta_sites import Modified, family_of, in_stack
from headstart.formats.libraries.peft_config import PREFIX, Fields, Plain

__all__ = ["from_opendelta", "is_opendelta"]

HARMLESS = frozenset(
    {
        "backbone_checkpoint_name", "backbone_class", "backbone_hash", "common_structure", "delta_type",
        "exclude_modules", "lora_dropout", "modified_modules", "opendelta_version", "transformers_version",
        "unfrozen_modules",
    }
)  # fmt: skip
"""Fields of every delta, read here or without effect on the function; the tensors show what was unfrozen."""

OWN = {
    "lora": frozenset({"lora_alpha", "lora_r"}), "adapter": frozenset({"bottleneck_dim", "non_linearity"}),
    "bitfit": frozenset[str](),
}  # fmt: skip
"""By `delta_type`: the fields that only this type has."""

UNREAD = {
    "compacter": "Compacter builds its layers from Kronecker products",
    "low_rank_adapter": "its adapters have layers of low rank",
    "parallel_adapter": "its adapters read the input of the layer that they stand beside",
    "prefix": "its prefixes come out of networks of its own",
    "soft_prompt": "its prompt comes out of a layer of its own",
}

ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_new", "gelu_orig": "gelu", "leakyrelu": "leakyrelu", "relu": "relu",
    "silu": "silu", "swish": "swish", "tanh": "tanh",
}  # fmt: skip
"""AdapterHub's names of activations, by OpenDelta's names."""

PARTS = {
    "lora": {".lora.lora_A": "lora_A.weight", ".lora.lora_B": "lora_B.weight"},
    "adapter": {
        ".adapter.modulelist.down_proj.weight": "adapter_down.0.weight",
        ".adapter.modulelist.down_proj.bias": "adapter_down.0.bias",
        ".adapter.modulelist.up_proj.weight": "adapter_up.weight",
        ".adapter.modulelist.up_proj.bias": "adapter_up.bias",
    },
    "bitfit": {".bias": "bias"},
}
"""By `delta_type`: the ends of OpenDelta's names, and PEFT's or AdapterHub's names for them."""

LINEAR = (".o", ".wo", ".o_proj", ".down_proj", ".c_proj")
"""The last layers of attention and feed-forward: their output is that of the whole sublayer."""

HEADS = {"classifier": "SEQ_CLS", "score": "SEQ_CLS", "qa_outputs": "QUESTION_ANS"}
"""PEFT's task type, by the layer of an encoder's task head."""

NAME = "opendelta"
"""The name of such adapters in AdapterHub's layout, where they need one."""

SAVE_AGAIN = "save it again with save_finetuned of OpenDelta 0.3, after freeze_module"


def is_opendelta(config: Mapping[str, object]) -> bool:
    """Whether a config.json is OpenDelta's: a whole model's has no `delta_type`."""
    return "delta_type" in config


def from_opendelta(config: Mapping[str, object], tensors: Mapping[str, StoredTensor]) -> Plain:
    """The module in the terms of PEFT (LoRA, BitFit) or AdapterHub (adapters).

    Raises `ModuleError`, which names the field or tensor, for another method or version, a tensor that is unknown,
    missing or misshapen, or a layer that `modified_modules` does not name.
    """
    delta = _delta_type(config)
    family = family_of(config)
    modified = Modified.of(config, family)
    heads = _heads(config)
    grouped, head = _grouped(tensors, delta, modified, heads=heads)
    absent = [layer for layer in heads if not any(name.startswith(f"{layer}.") for name in head)]
    if absent:
        raise ModuleError(
            f"field 'unfrozen_modules' names the task head '{absent[0]}' but no tensor of it is there; {SAVE_AGAIN}"
        )
    modified.refuse_unused(grouped, below=delta == "bitfit")
    write = {"lora": _lora, "adapter": _adapter, "bitfit": _bitfit}[delta]
    plain = write(config, grouped, modified)
    if not head:
        return plain
    if delta == "adapter":
        raise ModuleError(
            f"tensor '{next(iter(head))}' is part of a task head, which Headstart does not read beside "
            f"OpenDelta's adapters; {SAVE_AGAIN} with unfrozen_modules=['deltas']"
        )
    layers = sorted({name.partition(".")[0] for name in head})
    task_type = next((HEADS[layer] for layer in layers if layer in HEADS), None)
    saved = {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
    return Plain({**plain.config, "modules_to_save": layers, "task_type": task_type}, {**plain.tensors, **saved})


def _delta_type(config: Mapping[str, object]) -> str:
    delta, version = str(config.get("delta_type")), str(config.get("opendelta_version"))
    if delta not in OWN:
        why = UNREAD.get(delta, "Headstart does not know it")
        raise ModuleError(f"delta_type {config.get('delta_type')!r} is not read: {why}; use one of: {', '.join(OWN)}")
    if re.match(r"0\.3(\.|$)", version) is None:
        raise ModuleError(
            f"field 'opendelta_version' is {config.get('opendelta_version')!r}: Headstart reads what "
            f"OpenDelta 0.3 saves; {SAVE_AGAIN}"
        )
    Fields(OWN[delta], HARMLESS).check(config)
    for field in sorted(OWN[delta]):
        if field not in config:
            raise ModuleError(f"field '{field}' is missing; {SAVE_AGAIN}")
    return delta


def _heads(config: Mapping[str, object]) -> tuple[str, ...]:
    """The layers of a task head that were trained beside the delta."""
    named = config.get("unfrozen_modules")
    return tuple(layer for layer in HEADS if isinstance(named, list) and layer in named)


Group = dict[str, StoredTensor]
"""The tensors of one layer, by the end of their PEFT or AdapterHub names."""


def _grouped(
    tensors: Mapping[str, StoredTensor], delta: str, modified: Modified, *, heads: tuple[str, ...]
) -> tuple[dict[str, Group], dict[str, StoredTensor]]:
    """The tensors by layer, without the path of the base, and those of a task head by name."""
    groups: dict[str, Group] = {}
    head: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if name.partition(".")[0] in heads:
            head[name] = tensor
            continue
        end = next((end for end in PARTS[delta] if name.endswith(end)), "")
        layer = without_base(name.removesuffix(end))
        if not end or not in_stack(layer):
            raise ModuleError(f"tensor '{name}' is not part of the delta '{delta}'; {SAVE_AGAIN}")
        if not modified.names(layer, below=delta == "bitfit"):
            raise ModuleError(
                f"field 'modified_modules' does not name layer '{layer}', which has tensor '{name}'; {SAVE_AGAIN}"
            )
        group = groups.setdefault(layer, {})
        if PARTS[delta][end] in group:
            raise ModuleError(f"tensor '{name}' stands for the same parameter as another one; {SAVE_AGAIN}")
        group[PARTS[delta][end]] = tensor
    if not groups:
        raise ModuleError(f"there is no tensor of the delta '{delta}', so it does nothing; {SAVE_AGAIN}")
    for layer, group in groups.items():
        for end, part in PARTS[delta].items():
            if part not in group:
                raise ModuleError(f"tensor '{layer}{end}' is missing beside its others; {SAVE_AGAIN}")
    return groups, head


def _lora(config: Mapping[str, object], groups: Mapping[str, Group], modified: Modified) -> Plain:
    for group in groups.values():
        a = group["lora_A.weight"]
        if len(a.shape) != 2 or a.shape[0] != config["lora_r"]:
            raise ModuleError(
                f"tensor '{a.name}' has shape {a.shape} but field 'lora_r' is {config['lora_r']!r}; {SAVE_AGAIN}"
            )
    targets, excluded = modified.linear()
    plain: dict[str, object] = {
        "peft_type": "LORA", "r": config["lora_r"], "lora_alpha": config["lora_alpha"], "target_modules": targets,
        "exclude_modules": excluded, "init_lora_weights": True, "bias": "none",
        "fan_in_fan_out": ARCHITECTURES[modified.family].transposed,
    }  # fmt: skip
    return Plain(plain | _origin(config), _renamed(groups, modified))


def _bitfit(config: Mapping[str, object], groups: Mapping[str, Group], modified: Modified) -> Plain:
    plain: dict[str, object] = {"peft_type": "BITFIT", "target_modules": modified.biases(groups)}
    return Plain(plain | _origin(config), _renamed(groups, modified))


def _origin(config: Mapping[str, object]) -> dict[str, object]:
    name = config.get("backbone_checkpoint_name") or None
    return {"inference_mode": True, "base_model_name_or_path": name, "task_type": None}


def _renamed(groups: Mapping[str, Group], modified: Modified) -> dict[str, StoredTensor]:
    """The tensors by PEFT's names."""
    base = ARCHITECTURES[modified.family].base
    return {f"{PREFIX}{base}{layer}.{part}": t for layer, group in groups.items() for part, t in group.items()}


def _adapter(config: Mapping[str, object], groups: Mapping[str, Group], modified: Modified) -> Plain:
    architecture = ARCHITECTURES[modified.family]
    activation = ACTIVATIONS.get(str(config["non_linearity"]).lower())
    if activation is None:
        raise ModuleError(
            f"field 'non_linearity' is {config['non_linearity']!r}; Headstart computes: {', '.join(ACTIVATIONS)}"
        )
    parts: set[str] = set()
    designs: dict[str, str] = {}
    named: dict[str, StoredTensor] = {}
    for layer, group in groups.items():
        blocks, number, sublayer, reads = _site(layer, architecture)
        parts.add(ADAPTERHUB_PARTS[sublayer.name])
        designs[reads] = layer
        for part, tensor in group.items():
            key = f"{architecture.base}{blocks.path}.{number}.{sublayer.adapters}.adapters.{NAME}.{part}"
            if key in named:
                raise ModuleError(
                    f"tensors '{named[key].name}' and '{tensor.name}' adapt one sublayer, which Headstart "
                    "does once; use a module with one adapter behind each"
                )
            named[key] = tensor
    if len(designs) > 1:
        raise ModuleError(
            f"the adapters behind {' and '.join(designs.values())} read different things, and in "
            "AdapterHub's layout all read the same; use a module with one design"
        )
    (reads,) = designs
    size, width = _size(groups, config["bottleneck_dim"])
    method = {part: part in parts for part in ADAPTERHUB_PARTS.values()} | {
        "reduction_factor": reduction_factor(width, size), "non_linearity": activation, "scaling": 1.0,
        "original_ln_before": reads != "output", "original_ln_after": reads != "behind",
        "residual_before_ln": reads != "behind",
    }  # fmt: skip
    plain: dict[str, object] = {
        "config": method, "hidden_size": width, "model_class": config.get("backbone_class"),
        "model_name": config.get("backbone_checkpoint_name") or "", "model_type": modified.family, "name": NAME,
        "version": "adapters.1.3.0",
    }  # fmt: skip
    return Plain(plain, named)


def _size(groups: Mapping[str, Group], size: object) -> tuple[int, int]:
    """The bottleneck and the width that all adapters share."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ModuleError(f"field 'bottleneck_dim' is {size!r}, not a number above 0; {SAVE_AGAIN}")
    width = 0
    for group in groups.values():
        down, d, up, u = (group[part] for part in PARTS["adapter"].values())
        width = width or (down.shape[-1] if down.shape else 0)
        for tensor, wanted in ((down, (size, width)), (d, (size,)), (up, (width, size)), (u, (width,))):
            if tensor.shape != wanted or 0 in wanted:
                raise ModuleError(
                    f"tensor '{tensor.name}' has shape {tensor.shape}, not {wanted}, where field "
                    f"'bottleneck_dim' is {size} and the backbone {width} wide; {SAVE_AGAIN}"
                )
    return size, width


def _site(layer: str, architecture: Architecture) -> tuple[Blocks, int, Sublayer, str]:
    """The blocks, the block's number, the sublayer, and what the adapter after `layer` reads in AdapterHub's terms."""
    found = architecture.locate(layer)
    blocks, number, node = found or (architecture.blocks[0], 0, "")
    for sublayer in blocks.sublayers if node else ():
        if node == sublayer.output or node in {f"{sublayer.output}{end}" for end in LINEAR}:
            return blocks, number, sublayer, "output"
        whole = sublayer.norm.rpartition(".")[0]  # the layer that adds the residual stream
        if architecture.norm_behind and node in (sublayer.norm, whole, whole.rpartition(".")[0]):
            return blocks, number, sublayer, "behind"
        if not architecture.norm_behind and node == whole:
            return blocks, number, sublayer, "sum"
    raise ModuleError(
        f"an adapter behind '{layer}' has no place in AdapterHub's layout; use a module with adapters behind "
        "attention and feed-forward"
    )
