"""A module as the library OpenDelta 0.3 saves it: its tensors under the backbone's own names, and a description."""

import json
from pathlib import Path

import torch

from headstart.filenames import OPENDELTA_CONFIG, OPENDELTA_WEIGHTS
from headstart.formats.libraries.adapterhub_config import without_base
from headstart.formats.libraries.opendelta import LINEAR
from headstart.kinds import AdapterModule, BitFitModule, LoraModule, Module
from headstart.testing.case import Case

__all__ = ["in_opendelta", "write_opendelta"]

ENDS = {
    "a": "lora.lora_A", "b": "lora.lora_B", "bias": "bias", "down": "adapter.modulelist.down_proj.weight",
    "down_bias": "adapter.modulelist.down_proj.bias", "up": "adapter.modulelist.up_proj.weight",
    "up_bias": "adapter.modulelist.up_proj.bias",
}  # fmt: skip
"""The ends of OpenDelta's names, by the ends of the names in `Module.parameters`."""


def in_opendelta(module: Module) -> bool:
    """Whether OpenDelta has such modules; its adapters only read the output that they are added to."""
    if isinstance(module, AdapterModule):
        return module.computation.reads == "output"
    return type(module) in (LoraModule, BitFitModule)


def write_opendelta(case: Case, module: Module, folder: Path) -> None:
    """Write config.json and pytorch_model.bin for a module that OpenDelta has too."""
    layers, tensors = set(), {}
    for name, value in module.parameters().items():
        path, _, part = name.rpartition(".")
        layer = _layer(case, path)
        tensors[f"{layer}.{ENDS[part]}"] = value
        layers.add(without_base(layer))
        if part in ("down", "up"):  # OpenDelta's adapters always have biases
            tensors.setdefault(f"{layer}.{ENDS[f'{part}_bias']}", torch.zeros(len(value)))
    config = {
        "backbone_checkpoint_name": "", "backbone_class": type(case.backbone.model).__name__, "backbone_hash": "0" * 32,
        "common_structure": False, "delta_type": module.kind, "exclude_modules": ["lm_head"],
        "modified_modules": sorted(layers), "opendelta_version": "0.3.2", "transformers_version": "4.30.2",
    }  # fmt: skip
    folder.mkdir()
    (folder / OPENDELTA_CONFIG).write_text(json.dumps(config | _own(module)), encoding="utf-8")
    torch.save(tensors, folder / OPENDELTA_WEIGHTS)


def _layer(case: Case, path: str) -> str:
    """The layer that OpenDelta adapts: for a sublayer that an adapter follows, its last linear layer."""
    layers = {name for name, _ in case.backbone.named_layers()}
    return next((f"{path}{end}" for end in LINEAR if f"{path}{end}" in layers), path)


def _own(module: Module) -> dict[str, object]:
    if isinstance(module, LoraModule):
        return {"lora_r": module.config["r"], "lora_alpha": module.config["lora_alpha"], "lora_dropout": 0.0}
    if isinstance(module, AdapterModule):
        size, _ = next(iter(module.sizes.values()))
        return {"bottleneck_dim": size, "non_linearity": module.computation.activation}
    return {}
