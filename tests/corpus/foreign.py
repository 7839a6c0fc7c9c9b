"""Sound folders as AdapterHub's library and OpenDelta save them, of random tensors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tests.corpus.case import Source
from tests.corpus.dimensions import DIMENSIONS, backbone_of
from torch import Tensor

from headstart.testing.oracles.adapterhub import BASES, adapterhub_shapes
from headstart.testing.oracles.opendelta import opendelta_shapes

__all__ = ["adapterhub_sources", "opendelta_sources"]

BOTTLENECK: dict[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0, "init_weights": "bert",
    "inv_adapter": None, "is_parallel": False, "leave_out": [], "ln_after": False, "ln_before": False,
    "mh_adapter": True, "non_linearity": "swish", "original_ln_after": True, "original_ln_before": False,
    "output_adapter": True, "phm_layer": False, "reduction_factor": 8, "residual_before_ln": True, "scaling": 1.0,
    "use_gating": False,
}  # fmt: skip
LORA: dict[str, Any] = {
    "alpha": 8, "architecture": "lora", "attn_matrices": ["q", "v"], "composition_mode": "add", "dropout": 0.0,
    "dtype": None, "init_weights": "lora", "intermediate_lora": False, "leave_out": [], "output_lora": False, "r": 2,
    "selfattn_lora": True, "use_dora": False, "use_gating": False, "vera_b": None, "vera_d": None,
}  # fmt: skip
PREFIX: dict[str, Any] = {
    "architecture": "prefix_tuning", "bottleneck_size": 4, "cross_prefix": True, "dropout": 0.0, "encoder_prefix": True,
    "flat": False, "init_weights_seed": None, "leave_out": [], "non_linearity": "tanh", "prefix_length": 3,
    "shared_gating": True, "use_gating": False,
}  # fmt: skip
PFEIFFER = BOTTLENECK | {"mh_adapter": False, "non_linearity": "relu", "original_ln_before": True}
BY_ADAPTERHUB: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("llama", BOTTLENECK), ("t5", BOTTLENECK), ("bert", BOTTLENECK), ("bert", PFEIFFER), ("roberta", PFEIFFER),
    ("bert", PFEIFFER | {"original_ln_after": False, "residual_before_ln": False}),
    ("roberta", BOTTLENECK | {"is_parallel": True, "scaling": 2.0}),
    ("llama", LORA), ("t5", LORA), ("bert", LORA | {"output_lora": True}),
    ("roberta", LORA | {"intermediate_lora": True}),
    ("t5", PREFIX), ("t5", PREFIX | {"flat": True, "cross_prefix": False}), ("bert", PREFIX),
    ("roberta", PREFIX | {"flat": True}),
)  # fmt: skip

CLASSES = {
    "bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification",
    "t5": "T5ForConditionalGeneration", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM",
}  # fmt: skip
DELTA_LORA: dict[str, Any] = {
    "lora_r": 2,
    "lora_alpha": 6,
    "lora_dropout": 0.0,
    "modified_modules": ["attn@.q@", "attn@.v@"],
}
DELTA_ADAPTER: dict[str, Any] = {
    "bottleneck_dim": 4, "non_linearity": "gelu_new", "modified_modules": ["attn@.proj@", "ff@.w2@"],
}  # fmt: skip
BITFIT: dict[str, Any] = {"modified_modules": ["attn@", "ff@", "layer_norm@", "lm_head@.proj@"]}
PLAIN = {"common_structure": None}
HEADED = {"unfrozen_modules": ["deltas", "classifier"]}
BY_OPENDELTA: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("lora", "bert", DELTA_LORA), ("lora", "t5", DELTA_LORA), ("lora", "bert", DELTA_LORA | HEADED),
    ("lora", "llama", DELTA_LORA | PLAIN | {"modified_modules": ["q_proj", "v_proj"]}),
    ("lora", "roberta", DELTA_LORA | PLAIN | {"modified_modules": ["query", "output.dense"]}),
    ("adapter", "bert", DELTA_ADAPTER), ("adapter", "t5", DELTA_ADAPTER), ("adapter", "gpt2", DELTA_ADAPTER),
    ("adapter", "t5", DELTA_ADAPTER | PLAIN | {"modified_modules": ["layer.0", "layer.1", "layer.2"]}),
    ("adapter", "roberta", DELTA_ADAPTER | PLAIN | {"modified_modules": ["output"]}),
    ("bitfit", "bert", BITFIT | HEADED), ("bitfit", "gpt2", BITFIT),
    ("bitfit", "bert", PLAIN | {"modified_modules": ["attention.self", "intermediate.dense"]}),
)  # fmt: skip


def adapterhub_sources(folder: Path, *, seed: int) -> list[Source]:
    """Bottleneck adapters, LoRAs and prefixes as the library `adapters` 1.3 saves them."""
    sources = []
    for number, (family, method) in enumerate(BY_ADAPTERHUB):
        target = folder / f"hub-{number}-{method.get('architecture', 'adapter')}-{family}"
        config = {
            "config": method, "hidden_size": DIMENSIONS[family].width, "model_class": CLASSES[family],
            "model_name": f"tiny-{family}", "model_type": family, "name": "m", "version": "adapters.1.3.0",
        }  # fmt: skip
        shapes = adapterhub_shapes(backbone_of(DIMENSIONS[family]).model, config)
        generator = torch.Generator().manual_seed(seed + number)
        # Prefixes repeat one pool of tensors.
        pool = {_part(name): _drawn(shape, generator) for name, shape in shapes.items()}
        tensors = {f"{BASES[family]}{name}": pool[_part(name)].clone() for name in shapes}
        sources.append(_written(target, family, "adapter_config.json", config, "pytorch_adapter.bin", tensors))
    return sources


def opendelta_sources(folder: Path, *, seed: int) -> list[Source]:
    """LoRAs, adapters and bias terms as OpenDelta 0.3 saves them, some with a task head."""
    sources = []
    for number, (delta, family, fields) in enumerate(BY_OPENDELTA):
        target = folder / f"delta-{number}-{delta}-{family}"
        config = {
            "backbone_checkpoint_name": "", "backbone_class": CLASSES[family], "backbone_hash": "0" * 32,
            "common_structure": True, "delta_type": delta, "exclude_modules": ["lm_head"],
            "opendelta_version": "0.3.0", "transformers_version": "4.30.2", **fields,
        }  # fmt: skip
        model = backbone_of(DIMENSIONS[family]).model
        shapes = {f"{BASES[family]}{name}": shape for name, shape in opendelta_shapes(model, config).items()}
        if "unfrozen_modules" in fields:
            shapes |= {"classifier.weight": (3, DIMENSIONS[family].width), "classifier.bias": (3,)}
        generator = torch.Generator().manual_seed(seed + number)
        tensors = {name: _drawn(shape, generator) for name, shape in shapes.items()}
        sources.append(_written(target, family, "config.json", config, "pytorch_model.bin", tensors))
    return sources


def _part(name: str) -> str:
    return re.sub(r".*prefix_tuning.*\.prefix_tunings\.", "", name)


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 0.3 * torch.randn(shape, generator=generator)


def _written(
    folder: Path, family: str, config_file: str, config: Mapping[str, Any], file: str, tensors: dict[str, Tensor]
) -> Source:
    folder.mkdir()
    (folder / config_file).write_text(json.dumps(config, indent=1), encoding="utf-8")
    torch.save(tensors, folder / file)
    return Source(folder, DIMENSIONS[family])
