"""Loading a backbone, and choosing the device and dtype it computes in."""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from headstart.backbones.locating import first_line, located
from headstart.errors import BackboneError, SettingError, of_type
from headstart.extras import missing

__all__ = [
    "DTYPES",
    "check_tokenizer",
    "choose_device",
    "choose_dtype",
    "family_of",
    "is_encoder",
    "load",
    "quiet",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """The torch device for a name; "auto" is CUDA, then MPS, then CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device '{device}' is not there on this machine; use auto or cpu") from error
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a name; "auto" is bfloat16 where the device has instructions for it, else float32."""
    if dtype != "auto":
        try:
            return DTYPES[dtype]
        except KeyError:
            raise SettingError(f"unknown dtype '{dtype}'; choose one of: auto, {', '.join(DTYPES)}") from None
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and _cpu_computes_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _cpu_computes_bfloat16() -> bool:
    abilities = torch.cpu.get_capabilities()
    return any(bool(abilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def is_encoder(config: Any) -> bool:
    """BERT and similar models also have a causal class, which reads both ways unless the configuration says is_decoder.

    BART and similar models also fill in masked words, but with an encoder and a decoder.
    """
    decodes = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes


def family_of(config: Any, *, of: str) -> tuple[Any, Mapping[str, Any]]:
    """transformers' class that loads models of this configuration, and its classes of models by type.

    Raises `BackboneError` if Headstart does not run them; `of` says what the configuration belongs to.
    """
    if getattr(config, "num_hidden_layers", 1) < 1:
        raise BackboneError(f"the configuration of {of} states {config.num_hidden_layers} layers; copy the model again")
    if config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not is_encoder(config):
        return AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if is_encoder(config) and config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    raise BackboneError(
        f"'{config.model_type}' is neither a causal or encoder-decoder language model nor an encoder that "
        "classifies; choose one of those"
    )


def load(source: str | Path, *, dtype: torch.dtype, revision: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer from a folder, a GGUF file or a hub id; raises `BackboneError` with the remedy.

    Code that comes with a model is never run, and only tensors are read from pickled weights.
    """
    if not isinstance(source, str | Path):
        remedy = "give a folder, a .gguf file or a hub id"
        if isinstance(source, PreTrainedModel):
            remedy = "for a model that is loaded already, call Backbone.of(model, tokenizer)"
        raise BackboneError(f"{of_type('source', source)}; {remedy}")
    try:
        with quiet():
            location, extra = located(source, revision)
            model = _model(location, dtype, extra)
            return model, _tokenizer(location, model, extra)
    except (BackboneError, SettingError):
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"cannot load the backbone {source}: its weights are a pickle with more than tensors in it, and pickles "
            "can run code; ask its owner for model.safetensors"
        ) from error
    except Exception as error:  # a broken file can make a parser raise anything; the remedy is the same
        said = first_line(error)
        if "custom code" in said:
            said = "it comes with code of its own, which Headstart never runs"
            remedy = "choose a model that transformers knows"
        elif "sentencepiece" in said.lower() and missing("sentencepiece"):
            remedy = str(missing("sentencepiece"))
        else:
            remedy = "check the name, the files and, for a hub id, the network"
        raise BackboneError(f"cannot load the backbone {source}: {said}; {remedy}") from error


def _model(location: str, dtype: torch.dtype, extra: dict[str, str]) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(location, trust_remote_code=False, **extra)
    family, _ = family_of(config, of=location)
    # A packed GGUF has no plain weight matrices to attach a module to.
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if "gguf_file" in extra else {}
    loading_dtype = torch.float32 if unpack else dtype
    model, found = family.from_pretrained(location, dtype=loading_dtype, output_loading_info=True, **extra, **unpack)
    # The task head of an encoder is made anew for every task.
    missing = sorted(
        key
        for key in found["missing_keys"]
        if family is not AutoModelForSequenceClassification or key.startswith(f"{model.base_model_prefix}.")
    )
    if missing:
        raise BackboneError(
            f"the weights of {location} lack {missing[0]}, which would be random; give a complete checkpoint"
        )
    loaded: PreTrainedModel = model.to(dtype)
    return loaded


def _tokenizer(location: str, model: PreTrainedModel, extra: dict[str, str]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **extra)
    check_tokenizer(tokenizer, model, of=location)
    return tokenizer


def check_tokenizer(tokenizer: Any, model: PreTrainedModel, *, of: str) -> None:
    """Raise `BackboneError` unless the tokenizer has the tokens that Headstart needs, and the model all of its tokens.

    `of` says what the tokenizer belongs to.
    """
    if is_encoder(model.config):
        if tokenizer.pad_token_id is None:
            raise BackboneError(f"the tokenizer of {of} has no padding token; set pad_token in its configuration")
    elif tokenizer.eos_token_id is None:
        raise BackboneError(f"the tokenizer of {of} has no end-of-sequence token; set eos_token in its configuration")
    known = model.get_input_embeddings().weight.shape[0]
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    # Some tokenizers add special tokens that the model has no embedding for; texts without them can be read.
    added = {number for number in tokenizer.added_tokens_decoder if number not in used}
    token, number = max(
        ((token, number) for token, number in tokenizer.get_vocab().items() if number not in added),
        key=lambda item: item[1],
    )
    if number >= known:
        raise BackboneError(
            f"the tokenizer of {of} gives token {token!r} the number {number}, but the model has embeddings for "
            f"{known} tokens; copy model and tokenizer again from one source"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notices while a backbone loads; errors still surface."""
    level = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
