"""A prefix as AdapterHub's library saves it: the whole pool under the base model, and again under every layer."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from headstart.architectures import ARCHITECTURES
from headstart.filenames import CONFIG_FILE
from headstart.formats.libraries.adapterhub_prefix import FLAT, PROJECTED, units_of
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT
from headstart.kinds import Module, fresh_module
from headstart.kinds.prefix_attention import AttentionPrefixModule
from headstart.kinds.prefix_units import attention_units
from headstart.testing.case import SPREAD, Case

__all__ = ["write_adapterhub_prefix"]


def write_adapterhub_prefix(case: Case, folder: Path) -> Module:
    """Write the folder of a random prefix for all of a backbone's attention, and return that prefix.

    It works for the backbones whose AdapterHub prefixes Headstart reads.
    """
    family = units_of(case.backbone.model.config.model_type)
    locations = {site: location for units in family for site, location in units.locations.items()}
    shape = {**case.shape, "encoder": True, "cross_attention": True}
    fresh = fresh_module("prefix", case.backbone, shape, name="m", seed=1)
    assert isinstance(fresh, AttentionPrefixModule)  # the shape asks for what only it has
    generator = torch.Generator().manual_seed(1)
    values = {
        key: value + SPREAD * torch.randn(value.shape, generator=generator) for key, value in fresh.values.items()
    }
    biased = ARCHITECTURES[case.backbone.model.config.model_type].relative_bias
    positions = BIASED_PREFIX if biased else BIASED_TEXT
    module = replace(fresh, shape=replace(fresh.shape, relative_positions=positions), values=values)
    parts = FLAT if module.shape.projection is None else PROJECTED
    pool = {}
    for name, value in values.items():
        site, _, part = name.partition(".")
        pool[f"{locations[site]}.{parts[part]}"] = value.flatten() if part == "prefix" else value
    units = {unit for of_site in attention_units(case.backbone).values() for unit in of_site}
    owners = [f"{path}.prefix_tuning.pool" for path, layer in case.backbone.model.named_modules() if layer in units]
    tensors = {
        f"{owner}.prefix_tunings.m.{name}": value.clone()
        for owner in (*owners, "prefix_tuning")
        for name, value in pool.items()
    }
    bottleneck, _ = module.shape.projection or (512, 0)
    described = {
        "config": {
            "architecture": "prefix_tuning", "bottleneck_size": bottleneck, "cross_prefix": True, "dropout": 0.0,
            "encoder_prefix": True, "flat": module.shape.projection is None, "init_weights_seed": None, "leave_out": [],
            "non_linearity": "tanh", "prefix_length": module.shape.length, "shared_gating": True, "use_gating": False,
        },
        "hidden_size": case.backbone.model.config.hidden_size, "name": "m",
        "model_class": type(case.backbone.model).__name__, "model_name": case.backbone.name,
        "model_type": case.backbone.model.config.model_type, "version": "adapters.1.3.0",
    }  # fmt: skip
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(described))
    save_file(tensors, folder / "adapter.safetensors")
    return module
