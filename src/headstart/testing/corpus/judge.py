"""What an altered folder means to readers that are not Headstart's: PEFT itself, or a plain formula.

Every tensor that the configuration calls for must be there in the shape it has in the backbone, and no other; else
the folder means nothing, and whoever loads it is wrong.
"""

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn
from transformers.activations import ACT2FN

from headstart.backbone import Backbone
from headstart.records import CARD_FILE
from headstart.testing.corpus.prefixes import stand_attention_prefix, stand_hub_prefix
from headstart.testing.corpus.stored import config_of, load_tensors

__all__ = ["MeaninglessError", "judged", "run"]

IDS = ((5, 9, 33, 47, 101, 12, 77), (8, 8, 200, 31, 6, 90, 14))
IDENTITY = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "peft_type", "revision"}
PLAIN_INITS = {"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"}
VIRTUAL = {"PREFIX_TUNING", "PROMPT_TUNING"}
BASES = {"llama": "model.", "gpt2": "transformer.", "t5": ""}


class MeaninglessError(Exception):
    """The folder's files do not define a function on this backbone."""


def judged(folder: Path, original: Path, backbone: Backbone) -> Tensor:
    """The logits that the folder's files define; raises anything at all where they define none."""
    config, tensors = config_of(folder), load_tensors(folder)
    for name, value in tensors.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise MeaninglessError(f"'{name}' holds values that are no finite floats")
    if (folder / CARD_FILE).exists():
        _require_same(tensors, load_tensors(original))
    model = copy.deepcopy(backbone.model)
    if "peft_type" not in config:
        return _adapterhub(model, config, tensors)
    if config["peft_type"] == "BITFIT":
        return _bitfit(model, config, tensors)
    if config["peft_type"] == "ATTENTION_PREFIX":
        _require_shapes(tensors, stand_attention_prefix(model, config, tensors, identity=IDENTITY))
        return run(model)
    return _peft(model, config, tensors)


def run(model: Any) -> Tensor:
    """Logits on the judge's inputs, without those of virtual tokens."""
    ids = torch.tensor(IDS)
    decoder = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder).logits
    return logits[:, -(4 if decoder else ids.shape[1]) :].double()


def _require_same(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    if tensors.keys() != others.keys():
        raise MeaninglessError("the card's hash is of tensors of other names")
    for name, value in tensors.items():
        other = others[name]
        if value.dtype != other.dtype or value.shape != other.shape or _bytes(value) != _bytes(other):
            raise MeaninglessError(f"the card's hash is of another '{name}'")


def _bytes(value: Tensor) -> bytes:
    return bytes(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _require_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())[0]
        raise MeaninglessError(f"'{odd}' is {'not called for' if odd in found else 'missing'}")
    for name, shape in wanted.items():
        if tuple(found[name].shape) != tuple(shape):
            raise MeaninglessError(f"'{name}' has shape {tuple(found[name].shape)}, not {tuple(shape)}")


def _peft(model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    kind = config["peft_type"]
    made = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in fields(made)}
    odd = [name for name, value in config.items() if name not in known | IDENTITY and value]
    if odd:
        raise MeaninglessError(f"PEFT does not know field '{odd[0]}'")
    if str(config.get("init_lora_weights", True)).lower() not in PLAIN_INITS:
        raise MeaninglessError("PEFT changes the backbone's weights when it loads this")
    dropped = IDENTITY if kind in VIRTUAL else IDENTITY | {"task_type", "lora_dropout"}
    values = {name: value for name, value in config.items() if name in known - dropped}
    projection = {name for name in tensors if name.startswith("prompt_encoder.") and values.get("prefix_projection")}
    tensors = {name: value for name, value in tensors.items() if name not in projection}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, made(**values, inference_mode=True), autocast_adapter_dtype=False)
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        _require_shapes(tensors, {name: tuple(value.shape) for name, value in wanted.items()})
        set_peft_model_state_dict(wrapped, {name: value.double() for name, value in tensors.items()})
        return run(wrapped.double().eval())


def _bitfit(model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    targets = config.get("target_modules")
    biases = {
        f"base_model.model.{name}": value
        for name, value in model.named_parameters()
        if name.endswith(".bias") and (targets is None or _ends(name.removesuffix(".bias"), targets))
    }
    _require_shapes(tensors, {name: tuple(value.shape) for name, value in biases.items()})
    for name, value in biases.items():
        value.data = tensors[name].double()
    return run(model)


def _ends(path: str, names: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _adapterhub(model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    if config["model_type"] != model.config.model_type:
        raise MeaninglessError("it is for another architecture")
    base = BASES[config["model_type"]]
    plain = {re.sub(r"^(model|transformer)\.", "", name): value.double() for name, value in tensors.items()}
    if len(plain) != len(tensors):
        raise MeaninglessError("two tensors have one place")
    method, name = config["config"], config["name"]
    if method.get("architecture") == "prefix_tuning":
        _require_shapes(plain, stand_hub_prefix(model, method, plain, name=name))
        return run(model)
    if method.get("architecture") == "lora":
        return _hub_lora(model, config, plain, name=name, base=base)
    return _hub_adapter(model, method, plain, name=name, base=base)


def _number(model: Any, path: str) -> int:
    """A layer's number as AdapterHub's `leave_out` counts: decoders after encoders."""
    found = re.search(r"\.(\d+)\.", path)
    after = model.config.num_layers if path.startswith("decoder.") else 0
    return int(found[1]) + after if found else -1


def _hub_lora(model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, name: str, base: str) -> Tensor:
    method, rank = config["config"], config["config"]["r"]
    matrices = [m for m in method["attn_matrices"] if method.get("selfattn_lora", True)]
    ends = [end for m in matrices for end in (f".{m}", f".{m}_proj")]
    ends += [".wi", ".wi_1", ".c_fc", ".down_proj"] if method.get("intermediate_lora") else []
    ends += [".wo", ".mlp.c_proj", ".up_proj"] if method.get("output_lora") else []
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if path.endswith(tuple(ends)) and _number(model, path) not in (method.get("leave_out") or ())
    }
    wanted: dict[str, tuple[int, ...]] = {}
    for path, layer in layers.items():
        key, (outputs, inputs) = f"{path.removeprefix(base)}.loras.{name}", layer.weight.shape
        wanted |= {f"{key}.lora_A": (rank, inputs), f"{key}.lora_B": (outputs, rank)}
    _require_shapes(tensors, wanted)
    version = [int(part) for part in config["version"].split(".")[1:3]]
    scale = method["alpha"] / rank if version >= [1, 1] else 1.0
    for path, layer in layers.items():
        a, b = (tensors[f"{path.removeprefix(base)}.loras.{name}.lora_{part}"] for part in "AB")
        layer.weight.data += scale * b @ a
    return run(model)


PLACES: dict[str, tuple[tuple[str, str, str, str, str], ...]] = {
    "llama": (
        ("mh_adapter", "model.layers", "self_attn", "input_layernorm", "attention_adapters"),
        ("output_adapter", "model.layers", "mlp", "post_attention_layernorm", "output_adapters"),
    ),
    "gpt2": (
        ("mh_adapter", "transformer.h", "attn", "ln_1", "attention_adapters"),
        ("output_adapter", "transformer.h", "mlp", "ln_2", "output_adapters"),
    ),
    "t5": (
        ("mh_adapter", "encoder.block", "layer.0.SelfAttention", "layer.0.layer_norm", "layer.0"),
        ("output_adapter", "encoder.block", "layer.1.DenseReluDense", "layer.1.layer_norm", "layer.1"),
        ("mh_adapter", "decoder.block", "layer.0.SelfAttention", "layer.0.layer_norm", "layer.0"),
        ("cross_adapter", "decoder.block", "layer.1.EncDecAttention", "layer.1.layer_norm", "layer.1"),
        ("output_adapter", "decoder.block", "layer.2.DenseReluDense", "layer.2.layer_norm", "layer.2"),
    ),
}
"""By architecture: the field that fills a place, the blocks, what computes h there, its norm, and AdapterHub's key."""


def _hub_adapter(
    model: Any, method: Mapping[str, Any], tensors: Mapping[str, Tensor], *, name: str, base: str
) -> Tensor:
    width, family = model.config.hidden_size, model.config.model_type
    size = max(int(width // method["reduction_factor"]), 1)
    shapes: dict[str, tuple[int, ...]] = {"adapter_down.0.weight": (size, width), "adapter_up.weight": (width, size)}
    if method.get("biases", True):
        shapes |= {"adapter_down.0.bias": (size,), "adapter_up.bias": (width,)}
    places: list[tuple[str, str, str]] = []
    wanted: dict[str, tuple[int, ...]] = {}
    for part, blocks, output, norm, key in PLACES[family]:
        for block in range(len(model.get_submodule(blocks)) if method.get(part) else 0):
            path = f"{blocks}.{block}."
            if _number(model, path) not in (method.get("leave_out") or ()):
                start = f"{path.removeprefix(base)}{key}.adapters.{name}"
                places.append((f"{path}{output}", f"{path}{norm}", start))
                wanted |= {f"{start}.{end}": shape for end, shape in shapes.items()}
    _require_shapes(tensors, wanted)
    for output, norm, start in places:
        found = {end: tensors.get(f"{start}.{end}", torch.zeros(())) for end in (*shapes, *BIASES)}
        _stand(model.get_submodule(output), model.get_submodule(norm), method, found)
    return run(model)


BIASES = ("adapter_down.0.bias", "adapter_up.bias")


def _stand(layer: nn.Module, norm: nn.Module, method: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """Let the layer add its adapter to what it returns."""
    kept: list[Tensor] = []
    forward: Callable[..., Any] = layer.forward
    norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    act = {"swish": "silu", "leakyrelu": "leaky_relu"}.get(method["non_linearity"].lower(), method["non_linearity"])

    def adapted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        h = output[0] if isinstance(output, tuple) else output
        residual = kept.pop()
        x = residual if method.get("is_parallel") else h + residual if method.get("original_ln_before") else h
        hidden = ACT2FN[act.lower()](x @ found["adapter_down.0.weight"].T + found["adapter_down.0.bias"])
        changed = hidden @ found["adapter_up.weight"].T + found["adapter_up.bias"]
        h = h + float(method.get("scaling", 1.0)) * changed
        return (h, *output[1:]) if isinstance(output, tuple) else h

    layer.forward = adapted
