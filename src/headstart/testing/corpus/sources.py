"""Sound modules to alter: one of every kind, written by Headstart and by PEFT, and those in given folders."""

import copy
import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from headstart.errors import HeadstartError
from headstart.formats import CONFIG_FILE, read_module
from headstart.kinds import Module, fresh_module, load_module, save_module
from headstart.records import CARD_FILE
from headstart.testing.corpus.case import Room, Source
from headstart.testing.corpus.prefixes import HUB_PREFIX, hub_prefix_tensors
from headstart.testing.corpus.rooms import backbone_of, room_of

__all__ = ["given_sources", "made_sources"]

ROOMS = {
    "llama": Room("llama"),
    "gpt2": Room("gpt2", key_heads=4),
    "t5": Room("t5", key_heads=4),
}
"""The backbones that modules are made for."""

OWN: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("lora", "llama", {"rank": 3}), ("lora", "t5", {"rank": 2}), ("lora", "gpt2", {"rank": 2}),
    ("ia3", "llama", {}), ("ia3", "t5", {}), ("bitfit", "gpt2", {}), ("bitfit", "gpt2", {"targets": ("ln_1", "c_fc")}),
    ("prompt", "llama", {"length": 4}), ("prompt", "t5", {"length": 4}), ("prefix", "gpt2", {"length": 4}),
    ("prefix", "llama", {"length": 4, "reparametrized": True, "bottleneck": 6}), ("prefix", "t5", {"length": 4}),
    ("prefix", "t5", {"length": 3, "encoder": True, "cross_attention": True}),
    ("prefix", "t5", {"length": 3, "encoder": True, "reparametrized": True, "bottleneck": 5}),
    ("adapter", "llama", {"bottleneck": 4, "placement": "pfeiffer"}), ("adapter", "t5", {"bottleneck": 4}),
    ("adapter", "gpt2", {"bottleneck": 4, "placement": "houlsby"}),
)  # fmt: skip

LLAMA_LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
BY_PEFT: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
    ("llama", LoraConfig, LLAMA_LORA), ("llama", LoraConfig, LLAMA_LORA | {"use_rslora": True}),
    ("llama", LoraConfig, LLAMA_LORA | {"use_dora": True}), ("llama", LoraConfig, LLAMA_LORA | {"lora_bias": True}),
    ("llama", LoraConfig, LLAMA_LORA | {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 5}}),
    ("llama", LoraConfig, LLAMA_LORA | {"target_modules": r".*\.(q|v)_proj"}),
    ("llama", LoraConfig, LLAMA_LORA | {"target_modules": "all-linear"}),
    ("llama", LoraConfig, LLAMA_LORA | {"layers_to_transform": [1]}),
    ("gpt2", LoraConfig, {"r": 2, "target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True}),
    ("t5", LoraConfig, {"r": 2, "target_modules": ["q", "wo"], "task_type": "SEQ_2_SEQ_LM"}),
    ("llama", IA3Config, {}), ("t5", IA3Config, {"task_type": "SEQ_2_SEQ_LM"}),
    ("llama", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
    ("t5", PromptTuningConfig, {"num_virtual_tokens": 4, "task_type": "SEQ_2_SEQ_LM"}),
    ("gpt2", PrefixTuningConfig, {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}),
)  # fmt: skip

BOTTLENECK: dict[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0, "init_weights": "bert",
    "inv_adapter": None, "is_parallel": False, "leave_out": [], "ln_after": False, "ln_before": False,
    "mh_adapter": True, "non_linearity": "swish", "original_ln_after": True, "original_ln_before": False,
    "output_adapter": True, "phm_layer": False, "reduction_factor": 8, "residual_before_ln": True, "scaling": 1.0,
    "use_gating": False,
}  # fmt: skip
HUB_LORA: dict[str, Any] = {
    "alpha": 8, "architecture": "lora", "attn_matrices": ["q", "v"], "composition_mode": "add", "dropout": 0.0,
    "dtype": None, "init_weights": "lora", "intermediate_lora": False, "leave_out": [], "output_lora": False, "r": 2,
    "selfattn_lora": True, "use_dora": False, "use_gating": False, "vera_b": None, "vera_d": None,
}  # fmt: skip
PLACES = {
    "llama": [f"layers.{n}.{place}" for n in (0, 1) for place in ("attention_adapters", "output_adapters")],
    "t5": [f"{half}.block.{n}.layer.{i}" for half, last in (("encoder", 1), ("decoder", 2)) for n in (0, 1)
           for i in (0, last)],
}  # fmt: skip
ATTENTIONS = {
    "llama": [f"layers.{n}.self_attn.{m}_proj" for n in (0, 1) for m in "qv"],
    "t5": [f"{path}.{m}" for n in (0, 1) for m in "qv" for path in (
        f"encoder.block.{n}.layer.0.SelfAttention", f"decoder.block.{n}.layer.0.SelfAttention",
        f"decoder.block.{n}.layer.1.EncDecAttention")],
}  # fmt: skip


def made_sources(folder: Path, *, seed: int) -> list[Source]:
    """Modules of every kind in `folder`: with a card and without, in PEFT's and AdapterHub's layouts."""
    sources = []
    for number, (kind, family, shape) in enumerate(OWN):
        room, target = ROOMS[family], folder / f"own-{number}-{kind}-{family}"
        fresh = fresh_module(kind, backbone_of(room), shape, name=target.name, seed=seed)
        save_module(_moved(fresh, seed + number), target)
        bare = folder / f"bare-{number}-{kind}-{family}"
        shutil.copytree(target, bare, ignore=shutil.ignore_patterns(CARD_FILE))
        sources += [Source(target, room), Source(bare, room)]
    for number, (family, made, settings) in enumerate(BY_PEFT):
        target = folder / f"peft-{number}-{family}"
        _by_peft(target, ROOMS[family], made(**settings), seed=seed + number)
        sources.append(Source(target, ROOMS[family]))
    for family in PLACES:
        for method, named in (("adapter", _adapters(family, seed)), ("lora", _loras(family, seed))):
            target = folder / f"hub-{method}-{family}"
            _by_adapterhub(target, BOTTLENECK if method == "adapter" else HUB_LORA, named, family=family)
            sources.append(Source(target, ROOMS[family]))
    for prefix in (HUB_PREFIX, HUB_PREFIX | {"flat": True, "cross_prefix": False}):
        target = folder / f"hub-prefix-{'flat' if prefix['flat'] else 'projected'}-t5"
        named = hub_prefix_tensors(backbone_of(ROOMS["t5"]).model, prefix, seed=seed)
        _by_adapterhub(target, prefix, named, family="t5")
        sources.append(Source(target, ROOMS["t5"]))
    return sources


def given_sources(folders: Iterable[Path], folder: Path) -> list[Source]:
    """Copies of the modules in `folders` for which a tiny backbone can be built.

    A card is left behind: it names a backbone that is not here. What Headstart refuses as it is, is left out.
    """
    sources = []
    for number, given in enumerate(folders):
        target = folder / f"given-{number}-{given.name}"
        try:
            stored = read_module(given)
            room = room_of(stored)
            if room is None:
                continue
            load_module(stored).check(backbone_of(room)) if stored.card.backbone is None else None
        except HeadstartError:
            continue
        shutil.copytree(given, target, ignore=shutil.ignore_patterns(CARD_FILE, "README.md"), symlinks=False)
        sources.append(Source(target, room))
    return sources


def _moved(module: Module, seed: int) -> Module:
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in module.arrays().items()
    }
    return module.with_arrays(values)


def _by_peft(folder: Path, room: Room, config: Any, *, seed: int) -> None:
    """A module that PEFT itself saved, every tuned parameter random."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(copy.deepcopy(backbone_of(room).model).float(), config)
        for value in model.parameters():
            if value.requires_grad:
                value.data += 0.2 * torch.randn(value.shape)
        model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def _adapters(family: str, seed: int) -> dict[str, torch.Tensor]:
    ends = {"adapter_down.0.weight": (4, 32), "adapter_down.0.bias": (4,), "adapter_up.weight": (32, 4),
            "adapter_up.bias": (32,)}  # fmt: skip
    base = "model." if family == "llama" else ""
    return _drawn({f"{base}{p}.adapters.m.{end}": shape for p in PLACES[family] for end, shape in ends.items()}, seed)


def _loras(family: str, seed: int) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    base = "model." if family == "llama" else ""
    for path in ATTENTIONS[family]:
        outputs = 16 if path.endswith("v_proj") else 32
        shapes |= {f"{base}{path}.loras.m.lora_A": (2, 32), f"{base}{path}.loras.m.lora_B": (outputs, 2)}
    return _drawn(shapes, seed)


def _drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _by_adapterhub(
    folder: Path, method: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], *, family: str
) -> None:
    """A folder as the library `adapters` 1.3 saves it."""
    folder.mkdir()
    config = {
        "config": method, "hidden_size": 32, "model_class": "Model", "model_name": f"tiny-{family}",
        "model_type": family, "name": "m", "version": "adapters.1.3.0",
    }  # fmt: skip
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")
    torch.save(dict(tensors), folder / "pytorch_adapter.bin")
