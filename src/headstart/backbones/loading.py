"""Finding a backbone, and choosing the device and dtype it computes in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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

from headstart.errors import BackboneError, SettingError

__all__ = ["choose_device", "choose_dtype", "is_encoder", "load", "name_of"]

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


def name_of(source: str | Path) -> str:
    """What cards call a backbone: its hub id, or the last part of a local path, which says nothing of the machine."""
    path = Path(source).expanduser()
    return (path.resolve().stem if path.suffix == ".gguf" else path.resolve().name) if path.exists() else str(source)


def is_encoder(config: Any) -> bool:
    """BERT and its like have a causal class too, which reads both ways unless the configuration says is_decoder.

    BART and its like fill in masked words too, with an encoder and a decoder.
    """
    decodes = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes


def load(source: str | Path, *, dtype: torch.dtype, revision: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer from a folder, a GGUF file or a hub id; raises `BackboneError` with the remedy."""
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BackboneError(f"no GGUF file at {path}; give the path of an existing file")
        place, extra = str(path.parent), {"gguf_file": path.name}
    elif path.is_dir():
        if (path / "adapter_config.json").exists():
            raise BackboneError(f"{path} holds a PEFT module, not a backbone; give the model that it was tuned on")
        if not (path / "config.json").exists():
            raise BackboneError(f"{path} has no config.json; give a folder written by save_pretrained")
        place, extra = str(path), {}
    else:
        if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
            raise BackboneError(f"no backbone at {source}; give an existing folder, a .gguf file or a hub id")
        place, extra = str(source), {"revision": revision} if revision else {}
    try:
        with _quiet():
            return _load(place, dtype, extra)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"cannot load the backbone {source}: {first_line}; check the name, the files and, for a hub id, the network"
        ) from error


def _load(place: str, dtype: torch.dtype, extra: dict[str, str]) -> tuple[PreTrainedModel, Any]:
    config = AutoConfig.from_pretrained(place, trust_remote_code=False, **extra)
    if config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and config.is_encoder_decoder:
        family = AutoModelForSeq2SeqLM
    elif config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not is_encoder(config):
        family = AutoModelForCausalLM
    elif is_encoder(config) and config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        family = AutoModelForSequenceClassification
    else:
        raise BackboneError(
            f"'{config.model_type}' is neither a causal or encoder-decoder language model nor an encoder that "
            "classifies; choose one of those"
        )
    # A packed GGUF has no plain weight matrices to attach a module to.
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if "gguf_file" in extra else {}
    loading_dtype = torch.float32 if unpack else dtype
    model, found = family.from_pretrained(place, dtype=loading_dtype, output_loading_info=True, **extra, **unpack)
    # The task head of an encoder is made anew for every task.
    missing = sorted(
        key
        for key in found["missing_keys"]
        if family is not AutoModelForSequenceClassification or key.startswith(f"{model.base_model_prefix}.")
    )
    if missing:
        raise BackboneError(
            f"the weights of {place} lack {missing[0]}, which would be random; give a complete checkpoint"
        )
    model.to(dtype)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **extra)
    if family is AutoModelForSequenceClassification:
        if tokenizer.pad_token_id is None:
            raise BackboneError(f"the tokenizer of {place} has no padding token; set pad_token in its configuration")
    elif tokenizer.eos_token_id is None:
        raise BackboneError(
            f"the tokenizer of {place} has no end-of-sequence token; set eos_token in its configuration"
        )
    return model, tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
