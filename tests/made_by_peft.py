"""Modules made and run by PEFT itself, on copies of the backbone that Headstart never sees."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded
from naive import TARGETS, plain_logits


def fresh_model(folder: Path) -> Any:
    """The bare transformers model in `folder`, float32."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    family = AutoModelForSeq2SeqLM if folder.name == "tiny-t5" else AutoModelForCausalLM
    return family.from_pretrained(folder, dtype=torch.float32).eval()


def make(backbone_folder: Path, target: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Save a PEFT LoRA module whose every tuned parameter, biases included, is random."""
    from peft import LoraConfig, get_peft_model

    name = backbone_folder.name
    plain = {"r": 3, "lora_alpha": 6, "target_modules": list(TARGETS[name]), "fan_in_fan_out": name == "tiny-gpt2"}
    torch.manual_seed(seed)
    model = get_peft_model(fresh_model(backbone_folder), LoraConfig(**(plain | settings)))
    for value in model.parameters():
        if value.requires_grad:
            value.data += torch.empty_like(value).normal_(std=0.2)
    model.save_pretrained(target)
    return target


def logits(backbone_folder: Path, module_folder: Path, items: list[Encoded]) -> list[Tensor]:
    """What PEFT computes with the module at the target positions of each item."""
    from peft import PeftModel

    with torch.inference_mode():
        model = PeftModel.from_pretrained(fresh_model(backbone_folder), module_folder).eval()
        return [plain_logits(model, item) for item in items]


def ours(backbone: Backbone, modules: list[Any], items: list[Encoded]) -> Tensor:
    """What Headstart computes with a stack of modules, (N, all target positions of all items, V), in one batch."""
    stack = type(modules[0]).stack(modules, backbone)
    with torch.inference_mode(), stack.attach(backbone):
        return backbone.target_logits(backbone.batch(items, range(len(items))), modules=len(modules))
