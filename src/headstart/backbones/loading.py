"""Finding a backbone, and choosing the device and dtype it computes in."""

import contextlib
import difflib
import json
import pickle
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
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

from headstart.errors import BackboneError, SettingError, of_type
from headstart.extras import missing, require

__all__ = [
    "DTYPES",
    "check_tokenizer",
    "choose_device",
    "choose_dtype",
    "family_of",
    "is_encoder",
    "load",
    "name_of",
    "place_of",
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


def name_of(source: str | Path) -> str:
    """A backbone's name on cards: its hub id, or the last part of a local path, to reveal nothing else."""
    path = Path(source).expanduser()
    return (path.resolve().stem if path.suffix == ".gguf" else path.resolve().name) if path.exists() else str(source)


def place_of(source: str | Path) -> str:
    """Where other libraries find a backbone from any folder: the absolute path of what exists here, else the text."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else str(source)


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
            location, extra = _located(source, revision)
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
        said = _first_line(error)
        if "custom code" in said:
            said = "it comes with code of its own, which Headstart never runs"
            remedy = "choose a model that transformers knows"
        elif "sentencepiece" in said.lower() and missing("sentencepiece"):
            remedy = str(missing("sentencepiece"))
        else:
            remedy = "check the name, the files and, for a hub id, the network"
        raise BackboneError(f"cannot load the backbone {source}: {said}; {remedy}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # For a bad field of a configuration, the first line names the field and the second says what is wrong.
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def _located(source: str | Path, revision: str | None) -> tuple[str, dict[str, str]]:
    """Where transformers finds the backbone, and the further arguments that it needs."""
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BackboneError(f"no GGUF file at {path}; give the path of an existing file")
        require("gguf", for_what=f"reading {path}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        _check_folder(path)
        return str(path), {}
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise BackboneError(f"no backbone at {source}; give an existing folder, a .gguf file or a hub id")
    cached = isinstance(try_to_load_from_cache(str(source), "config.json", revision=revision), str)
    if not cached and "/" not in str(source):
        raise BackboneError(_unknown_name(str(source)))
    if not cached:
        _ask_for(str(source), revision)
    return str(source), {"revision": revision} if revision else {}


def _ask_for(name: str, revision: str | None) -> None:
    """Raise `BackboneError` unless the Hugging Face Hub knows the model: one question, where loading asks six times."""
    nowhere = f"no backbone at {name}: it is no folder here, and"
    hint = "".join(f"did you mean {near}, or " for near in _like(name)[:1])
    try:
        HfApi().model_info(name, revision=revision, timeout=PATIENCE_SECONDS)
    except OfflineModeIsEnabled as error:
        raise BackboneError(f"{nowhere} HF_HUB_OFFLINE keeps it from being fetched; {hint}unset that") from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub shows no such model; {hint}check the name, or log in with `hf auth login` "
            "if the model is private"
        ) from error
    except RevisionNotFoundError as error:
        raise BackboneError(f"{name} has no revision '{revision}'; name a branch, tag or commit of it") from error
    except (HfHubHTTPError, ValueError) as error:
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub refused it: {_first_line(error)}; {hint}check the name"
        ) from error
    except Exception as error:  # whatever its network library raises
        raise BackboneError(
            f"{nowhere} the Hugging Face Hub cannot be reached ({_first_line(error)}); {hint}check the network"
        ) from error


PATIENCE_SECONDS = 10.0
"""How long the Hugging Face Hub is waited for before it counts as out of reach."""

MOST_FOLDERS = 200
"""How many folders of models are searched for a name similar to a mistyped one."""


def _unknown_name(source: str) -> str:
    """The error for a name that is not a folder here and cannot be one on the Hugging Face Hub."""
    near = " or ".join(str(folder) for folder in _like(source)[:3])
    return (
        f"no backbone at {source}: there is no such folder here, and a model on the Hugging Face Hub is called "
        f"owner/name; {f'did you mean {near}?' if near else 'give an existing folder, a .gguf file or a hub id'}"
    )


def _like(source: str) -> list[Path]:
    """Folders of models below this one whose names are like the last part of `source`, most alike first."""
    name = source.rpartition("/")[2]
    folders = {
        found.parent.name: found.parent
        for pattern in ("*/config.json", "*/*/config.json", "*/*/*/config.json")
        for found in islice(Path().glob(pattern), MOST_FOLDERS)
    }
    near = difflib.get_close_matches(name, folders, n=3, cutoff=0.5)
    return [folders[one] for one in [*near, *(other for other in folders if name in other and other not in near)]]


def _check_folder(path: Path) -> None:
    if (path / "adapter_config.json").exists():
        raise BackboneError(f"{path} holds a PEFT module, not a backbone; give the model that it was tuned on")
    if not (path / "config.json").exists():
        raise BackboneError(f"{path} has no config.json; give a folder written by save_pretrained")
    for file in path.iterdir():
        # Reading a named pipe or a device may never end.
        if not (file.is_file() or file.is_dir() or file.is_symlink()):
            raise BackboneError(f"{file} is not a regular file; replace it with the file itself")
    index = path / "model.safetensors.index.json"
    if index.exists():
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        outside = next((part for part in parts if Path(part).name != part), None)
        if outside is not None:
            raise BackboneError(f"{index} names the file {outside}, which is not in its folder; copy the model again")


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
