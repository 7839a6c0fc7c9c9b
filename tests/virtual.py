"""Prompts and prefixes for tests: made by PEFT, or random."""

from pathlib import Path
from typing import Any

import torch

import made_by_peft
from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.kinds import KINDS, Module
from naive import REVIEWS, load

TYPES = {"tiny-llama": "CAUSAL_LM", "tiny-gpt2": "CAUSAL_LM", "tiny-t5": "SEQ_2_SEQ_LM"}
LENGTH = 5


def make(kind: str, backbone_folder: Path, target: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Save a PEFT prompt or prefix of random rows."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    family = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind]
    plain = {"num_virtual_tokens": LENGTH, "task_type": TYPES[backbone_folder.name]}
    torch.manual_seed(seed)
    model = get_peft_model(made_by_peft.fresh_model(backbone_folder), family(**(plain | settings)))
    model.save_pretrained(target)
    return target


def random_module(kind: str, backbone: Backbone, *, seed: int, size: float = 1.0, **settings: Any) -> Module:
    """A module whose every parameter is normal with standard deviation `size`."""
    family = KINDS[kind]
    fresh = family.fresh(backbone, family.settings(length=LENGTH, **settings), name=f"random-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        key: torch.empty_like(value).normal_(std=size, generator=generator) for key, value in fresh.parameters().items()
    }
    return fresh.with_parameters(drawn)


def encoded(backbone: Backbone) -> list[Encoded]:
    return backbone.encode([(example.input, example.target) for example in REVIEWS], TextFormat())


def peft_logits(model: Any, item: Encoded) -> torch.Tensor:
    """What a PEFT model says at the target positions of one example, from one unpadded forward pass."""
    if model.config.is_encoder_decoder:
        decoder = torch.tensor([[model.config.decoder_start_token_id, *item.target[:-1]]])
        found: torch.Tensor = model(input_ids=torch.tensor([item.prompt]), decoder_input_ids=decoder).logits[0]
        return found
    # A prompt's own positions stand first in PEFT's logits; a prefix has none.
    logits: torch.Tensor = model(input_ids=torch.tensor([item.prompt + item.target[:-1]])).logits[0]
    return logits[-len(item.target) :]


def load_peft(backbone_folder: Path, module_folder: Path, **settings: Any) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(made_by_peft.fresh_model(backbone_folder), module_folder, **settings).eval()


def from_peft(backbone_folder: Path, module_folder: Path, items: list[Encoded]) -> torch.Tensor:
    """What PEFT computes with the module in a folder, at the target positions of all items."""
    model = load_peft(backbone_folder, module_folder)
    with torch.inference_mode():
        return torch.cat([peft_logits(model, item) for item in items])


def tiny_backbone(model_class: Any, config_class: Any, folder: Path, **settings: Any) -> Backbone:
    """A random backbone of another architecture, saved to `folder` too, with the tokenizer of the tiny Llama."""
    from conftest import save_tiny, special_ids, train_tokenizer

    tokenizer = train_tokenizer(bos="<s>", eos="</s>", template="<s> $A")
    config = config_class(vocab_size=len(tokenizer), **special_ids(tokenizer), **settings)
    return load(save_tiny(folder, model_class, config, tokenizer))
