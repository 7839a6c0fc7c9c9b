"""Tiny random backbones, built in a moment and without a network: what plugins can be tried on."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from headstart.backbones import Backbone, EncoderBackbone
from headstart.backbones.loading import is_encoder
from headstart.errors import SettingError

__all__ = ["BACKBONES", "tiny_backbone"]

WIDTH, INNER, HEADS, POSITIONS = 32, 48, 4, 256
END, START, PAD = "</s>", "<s>", "<pad>"


def tiny_backbone(family: str, *, layers: int = 2, seed: int = 0) -> Backbone:
    """A random float32 backbone on the CPU, 32 units wide, whose tokenizer reads any text byte by byte.

    Every parameter is drawn anew: transformers' own initial values are so small, and biases so exactly zero, that a
    module put in the wrong place would hardly change the output.

    Args:
        family: a name in `BACKBONES`.
        layers: how many; an encoder-decoder has as many in each half.
        seed: of the weights.

    Raises:
        SettingError: `family` is none of `BACKBONES`.
    """
    if family not in BACKBONES:
        raise SettingError(f"unknown tiny backbone '{family}'; choose one of: {', '.join(BACKBONES)}")
    reads_whole = family in ("bert", "roberta")
    tokenizer = _tokenizer(starts=family == "llama" or reads_whole, ends=family == "t5" or reads_whole)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BACKBONES[family](layers, {"vocab_size": len(tokenizer), **ids})
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    made = EncoderBackbone if is_encoder(model.config) else Backbone
    return made(model, tokenizer, name=f"tiny-{family}")


def _llama(layers: int, shared: dict[str, Any]) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=False,
            **shared,
        )
    )


def _gpt2(layers: int, shared: dict[str, Any]) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(n_embd=WIDTH, n_inner=INNER, n_layer=layers, n_head=HEADS, n_positions=POSITIONS, **shared)
    )


def _t5(layers: int, shared: dict[str, Any]) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=INNER,
            num_layers=layers,
            num_decoder_layers=layers,
            num_heads=HEADS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=shared["pad_token_id"],
            **shared,
        )
    )


def _bert(layers: int, shared: dict[str, Any]) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**_sizes(layers), max_position_embeddings=POSITIONS, **shared))


def _roberta(layers: int, shared: dict[str, Any]) -> PreTrainedModel:
    # RoBERTa counts positions from behind the number of its padding token.
    most = POSITIONS + shared["pad_token_id"] + 1
    return RobertaForSequenceClassification(RobertaConfig(**_sizes(layers), max_position_embeddings=most, **shared))


def _sizes(layers: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3,
    }  # fmt: skip


BACKBONES: dict[str, Callable[[int, dict[str, Any]], PreTrainedModel]] = {
    "llama": _llama, "gpt2": _gpt2, "t5": _t5, "bert": _bert, "roberta": _roberta,
}  # fmt: skip
"""By name: grouped-query attention without biases; Conv1D layers, biases and a tied head; an encoder-decoder; two
encoders, whose task heads have one and two layers."""


def _tokenizer(*, starts: bool, ends: bool) -> PreTrainedTokenizerFast:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), PAD, END, START]
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.add_special_tokens([PAD, END, START])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if starts or ends:
        template = f"{START if starts else ''} $A {END if ends else ''}".strip()
        special = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, model_max_length=POSITIONS
    )
