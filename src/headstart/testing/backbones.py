"""Tiny random backbones on which plug-ins can be tried; they are built in a moment and without a network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from headstart.backbones import Backbone, EncoderBackbone
from headstart.backbones.loading import is_encoder
from headstart.errors import SettingError

__all__ = ["BACKBONES", "MORE_BACKBONES", "Tiny", "tiny_backbone"]

WIDTH, INNER, HEADS, POSITIONS = 32, 48, 4, 256
END, START, PAD = "</s>", "<s>", "<pad>"


def tiny_backbone(family: str, *, layers: int = 2, seed: int = 0) -> Backbone:
    """A random float32 backbone on the CPU, 32 units wide, whose tokenizer reads any text byte by byte.

    Every parameter is drawn anew: transformers' own initial values are so small, with biases of exactly zero, that a
    module attached to the wrong layer would hardly change the output.

    Args:
        family: a name in `BACKBONES` or `MORE_BACKBONES`.
        layers: how many; an encoder-decoder has as many in each half.
        seed: of the weights.

    Raises:
        SettingError: `family` is unknown.
    """
    every = BACKBONES | MORE_BACKBONES
    if family not in every:
        raise SettingError(f"unknown tiny backbone '{family}'; choose one of: {', '.join(every)}")
    tiny = every[family]
    tokenizer = _tokenizer(tiny)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = tiny.build(layers, {"vocab_size": len(tokenizer), **ids})
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    made = EncoderBackbone if is_encoder(model.config) else Backbone
    return made(model, tokenizer, name=f"tiny-{family}")


class Tiny(NamedTuple):
    """How a family is made tiny: transformers' classes, the names of sizes in its configuration, and what it adds.

    `sizes`: the meaning of each size, by its name in the configuration. `starts` and `ends`: whether the tokenizer
    puts a token before each text, and one after it; `types`: whether it tells the first of two texts from the second.
    """

    model: type[PreTrainedModel]
    config: type[PreTrainedConfig]
    sizes: Mapping[str, str]
    extra: Mapping[str, Any]
    starts: bool = False
    ends: bool = False
    types: bool = False

    def build(self, layers: int, ids: Mapping[str, Any]) -> PreTrainedModel:
        """The model, with whatever weights transformers draws."""
        counts = {"width": WIDTH, "inner": INNER, "layers": layers, "heads": HEADS, "positions": POSITIONS}
        extra = {name: value(layers, ids) if callable(value) else value for name, value in self.extra.items()}
        return self.model(self.config(**{name: counts[what] for name, what in self.sizes.items()}, **ids, **extra))


SIZES = {
    "hidden_size": "width", "intermediate_size": "inner", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "max_position_embeddings": "positions",
}  # fmt: skip
GPT2_SIZES = {"n_embd": "width", "n_inner": "inner", "n_layer": "layers", "n_head": "heads", "n_positions": "positions"}
T5_SIZES = {
    "d_model": "width", "d_ff": "inner", "num_layers": "layers", "num_decoder_layers": "layers", "num_heads": "heads",
}  # fmt: skip
OPT_SIZES = {"ffn_dim" if what == "inner" else name: what for name, what in SIZES.items()} | {
    "word_embed_proj_dim": "width"
}
BART_SIZES = {
    "d_model": "width", "max_position_embeddings": "positions", "encoder_layers": "layers", "decoder_layers": "layers",
    "encoder_attention_heads": "heads", "decoder_attention_heads": "heads", "encoder_ffn_dim": "inner",
    "decoder_ffn_dim": "inner",
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "tie_word_embeddings": False}
WINDOW = {"sliding_window": 8}
GEMMA = {
    **WINDOW, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
    "layer_types": lambda layers, _: ["sliding_attention", "full_attention"] * (layers // 2),
}  # fmt: skip
T5 = {
    "d_kv": WIDTH // HEADS, "dropout_rate": 0.0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "decoder_start_token_id": lambda _, ids: ids["pad_token_id"],
}  # fmt: skip
BART = {
    "dropout": 0.0, "decoder_start_token_id": lambda _, ids: ids["eos_token_id"], "forced_eos_token_id": None,
}  # fmt: skip
CLASSES = {"num_labels": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# RoBERTa counts positions from the one after its padding token's id.
ROBERTA = {**CLASSES, "max_position_embeddings": lambda _, ids: POSITIONS + ids["pad_token_id"] + 1}
ROBERTA_SIZES = {name: what for name, what in SIZES.items() if what != "positions"}
DEBERTA = {
    **CLASSES, "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
MODERNBERT = {
    "num_labels": 3, "local_attention": 8, "classifier_pooling": "mean",
    "cls_token_id": lambda _, ids: ids["bos_token_id"], "sep_token_id": lambda _, ids: ids["eos_token_id"],
}  # fmt: skip

BACKBONES = {
    "llama": Tiny(LlamaForCausalLM, LlamaConfig, SIZES, GROUPED, starts=True),
    "gpt2": Tiny(GPT2LMHeadModel, GPT2Config, GPT2_SIZES, {}),
    "t5": Tiny(T5ForConditionalGeneration, T5Config, T5_SIZES, T5, ends=True),
    "bert": Tiny(BertForSequenceClassification, BertConfig, SIZES, CLASSES, starts=True, ends=True, types=True),
    "roberta": Tiny(RobertaForSequenceClassification, RobertaConfig, ROBERTA_SIZES, ROBERTA, starts=True, ends=True),
}
"""By name: grouped-query attention without biases; Conv1D layers, biases and a tied head; an encoder-decoder; two
encoders, whose task heads have one and two layers."""

MORE_BACKBONES = {
    "mt5": Tiny(MT5ForConditionalGeneration, MT5Config, T5_SIZES, T5, ends=True),
    "mistral": Tiny(MistralForCausalLM, MistralConfig, SIZES, GROUPED | WINDOW, starts=True),
    "qwen2": Tiny(Qwen2ForCausalLM, Qwen2Config, SIZES, GROUPED),
    "qwen3": Tiny(Qwen3ForCausalLM, Qwen3Config, SIZES, GROUPED | {"head_dim": 8}),
    "gemma2": Tiny(Gemma2ForCausalLM, Gemma2Config, SIZES, GEMMA, starts=True),
    "gemma3": Tiny(Gemma3ForCausalLM, Gemma3TextConfig, SIZES, GEMMA, starts=True),
    "phi3": Tiny(Phi3ForCausalLM, Phi3Config, SIZES, GROUPED),
    "gpt_neox": Tiny(GPTNeoXForCausalLM, GPTNeoXConfig, SIZES, {}),
    "opt": Tiny(OPTForCausalLM, OPTConfig, OPT_SIZES, {}, starts=True),
    "bart": Tiny(BartForConditionalGeneration, BartConfig, BART_SIZES, BART, starts=True, ends=True),
    "electra": Tiny(
        ElectraForSequenceClassification,
        ElectraConfig,
        SIZES,
        {**CLASSES, "embedding_size": 16},
        starts=True,
        ends=True,
        types=True,
    ),
    "deberta-v2": Tiny(
        DebertaV2ForSequenceClassification, DebertaV2Config, SIZES, DEBERTA, starts=True, ends=True, types=True
    ),
    "modernbert": Tiny(
        ModernBertForSequenceClassification, ModernBertConfig, SIZES, MODERNBERT, starts=True, ends=True
    ),
}
"""The other families whose architectures are known, by name."""


def _tokenizer(tiny: Tiny) -> PreTrainedTokenizerFast:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), PAD, END, START]
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.add_special_tokens([PAD, END, START])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tiny.starts or tiny.ends:
        template = f"{START if tiny.starts else ''} $A {END if tiny.ends else ''}".strip()
        pair = f"{template} $B:1 {f'{END}:1' if tiny.ends else ''}".strip()
        special = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=special)
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} if tiny.types else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, model_max_length=POSITIONS, **names
    )
