"""Greedy decoding whose settings are Headstart's alone, whatever a model's own generation settings are."""

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

__all__ = ["greedy_config", "own_settings_hidden"]


def greedy_config(model: PreTrainedModel, tokenizer: Any, *, pad_id: int, max_new_tokens: int) -> GenerationConfig:
    """One beam, no sampling, at most `max_new_tokens` tokens up to the tokenizer's end of sequence."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )


@contextlib.contextmanager
def own_settings_hidden(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation settings, which fill in whatever a call leaves open."""
    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept
