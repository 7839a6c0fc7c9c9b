"""Plain formulas for folders in AdapterHub's layout, as the library `adapters` 1.3 computes them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from headstart.testing.oracles.answers import MeaninglessError, answers, require_shapes
from headstart.testing.oracles.attention_prefix import adapterhub_prefix, adapterhub_prefix_shapes

__all__ = ["BASES", "adapterhub", "adapterhub_shapes"]

BASES = {
    "llama": "model.", "mistral": "model.", "qwen2": "model.", "qwen3": "model.", "gemma2": "model.",
    "gemma3_text": "model.", "phi3": "model.", "gpt2": "transformer.", "gpt_neox": "gpt_neox.", "opt": "model.",
    "t5": "", "mt5": "", "bart": "model.", "bert": "bert.", "roberta": "roberta.", "electra": "electra.",
    "deberta-v2": "deberta.", "modernbert": "model.",
}  # fmt: skip
ALIKE = {"mistral": "llama", "mt5": "t5", "roberta": "bert", "xlm-roberta": "bert"}
"""Architectures with the same layers: the library looks at the names of the tensors, not at `model_type`."""

Tensors = Mapping[str, Tensor]


def adapterhub(model: Any, config: Mapping[str, Any], tensors: Tensors, *, head: Tensors) -> Tensor:
    """What the model computes with a bottleneck adapter, LoRA or prefix, and with the task head if there is one."""
    if ALIKE.get(config["model_type"], config["model_type"]) != ALIKE.get(*[model.config.model_type] * 2):
        raise MeaninglessError("it is for another architecture")
    plain = {
        re.sub(r"^(model|transformer|gpt_neox|bert|roberta|electra|deberta)\.", "", name): value.double()
        for name, value in tensors.items()
    }
    if len(plain) != len(tensors):
        raise MeaninglessError("two tensors have one site")
    require_shapes(plain, adapterhub_shapes(model, config))
    architecture = config["config"].get("architecture")
    if architecture == "prefix_tuning":
        adapterhub_prefix(model, config, plain)
    elif architecture == "lora":
        _lora(model, config, plain)
    else:
        _adapter(model, config, plain)
    return answers(model, head)


def adapterhub_shapes(model: Any, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of such a folder by its name, without the path of the base model."""
    method, name, width = config["config"], config["name"], model.config.hidden_size
    wanted: dict[str, tuple[int, ...]] = {}
    if method.get("architecture") == "prefix_tuning":
        return adapterhub_prefix_shapes(model, config)
    if method.get("architecture") == "lora":
        rank = method["r"]
        for start, layer in _lora_layers(model, config).items():
            outputs, inputs = layer.weight.shape
            wanted |= {f"{start}.lora_A": (rank, inputs), f"{start}.lora_B": (outputs, rank)}
        return wanted
    for output, _, key in _sites(model, method):
        factor = method["reduction_factor"]
        if isinstance(factor, Mapping):
            number = _number(model, output.removeprefix(BASES[model.config.model_type]))
            factor = factor[str(number)] if str(number) in factor else factor["default"]
        size, start = max(int(width // factor), 1), f"{key}.adapters.{name}"
        wanted |= {f"{start}.adapter_down.0.weight": (size, width), f"{start}.adapter_up.weight": (width, size)}
        if method.get("biases", True):
            wanted |= {f"{start}.adapter_down.0.bias": (size,), f"{start}.adapter_up.bias": (width,)}
    return wanted


def _number(model: Any, path: str) -> int:
    """A layer's number as AdapterHub counts: decoders after encoders."""
    found = re.search(r"\.(\d+)\.", path)
    encoder_first = model.config.is_encoder_decoder and path.startswith("decoder.")
    after = model.config.num_hidden_layers if encoder_first else 0
    return int(found[1]) + after if found else -1


ENDS = {
    "q": (".q", ".q_proj", ".query", ".query_proj"), "k": (".k", ".k_proj", ".key", ".key_proj"),
    "v": (".v", ".v_proj", ".value", ".value_proj"),
}  # fmt: skip
INTERMEDIATE = (".wi", ".wi_1", ".c_fc", ".down_proj", ".intermediate.dense", ".fc1")
OUTPUT = (".wo", ".mlp.c_proj", ".up_proj", ".output.dense", ".fc2")
"""Ends of paths; the library takes Llama's down_proj for the intermediate layer."""


def _lora_layers(model: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The layers by the beginning of their tensors' names."""
    method, base = config["config"], BASES[model.config.model_type]
    ends = [end for m in method["attn_matrices"] for end in ENDS[m] if method.get("selfattn_lora", True)]
    ends += [*INTERMEDIATE] if method.get("intermediate_lora") else []
    ends += [*OUTPUT] if method.get("output_lora") else []
    return {
        f"{path.removeprefix(base)}.loras.{config['name']}": layer
        for path, layer in model.named_modules()
        if path.endswith(tuple(ends))
        and not path.endswith(".attention.output.dense")
        and _number(model, path) not in (method.get("leave_out") or ())
    }


def _lora(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    method = config["config"]
    version = [int(part) for part in config["version"].split(".")[1:3]]
    scale = method["alpha"] / method["r"] if version >= [1, 1] else 1.0
    for start, layer in _lora_layers(model, config).items():
        layer.weight.data += scale * tensors[f"{start}.lora_B"] @ tensors[f"{start}.lora_A"]


ENCODER = (
    ("mh_adapter", "encoder.layer", "attention.output.dense", "attention.output.LayerNorm", "attention.output"),
    ("output_adapter", "encoder.layer", "output.dense", "output.LayerNorm", "output"),
)
T5 = (
    ("mh_adapter", "encoder.block", "layer.0.SelfAttention", "layer.0.layer_norm", "layer.0"),
    ("output_adapter", "encoder.block", "layer.1.DenseReluDense", "layer.1.layer_norm", "layer.1"),
    ("mh_adapter", "decoder.block", "layer.0.SelfAttention", "layer.0.layer_norm", "layer.0"),
    ("cross_adapter", "decoder.block", "layer.1.EncDecAttention", "layer.1.layer_norm", "layer.1"),
    ("output_adapter", "decoder.block", "layer.2.DenseReluDense", "layer.2.layer_norm", "layer.2"),
)
DECODER = (
    ("mh_adapter", "layers", "self_attn", "input_layernorm", "attention_adapters"),
    ("output_adapter", "layers", "mlp", "post_attention_layernorm", "output_adapters"),
)
GEMMA = (
    ("mh_adapter", "layers", "post_attention_layernorm", "input_layernorm", "attention_adapters"),
    ("output_adapter", "layers", "post_feedforward_layernorm", "pre_feedforward_layernorm", "output_adapters"),
)
SITES: dict[str, tuple[tuple[str, str, str, str, str], ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), DECODER),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA),
    "gpt_neox": (
        ("mh_adapter", "layers", "attention", "input_layernorm", "attention_adapters"),
        ("output_adapter", "layers", "mlp", "post_attention_layernorm", "output_adapters"),
    ),
    "opt": (
        ("mh_adapter", "decoder.layers", "self_attn", "self_attn_layer_norm", "attention_adapters"),
        ("output_adapter", "decoder.layers", "fc2", "final_layer_norm", "output_adapters"),
    ),
    "modernbert": (
        ("mh_adapter", "layers", "attn", "attn_norm", "attention_adapters"),
        ("output_adapter", "layers", "mlp", "mlp_norm", "output_adapters"),
    ),
    "bart": (
        ("mh_adapter", "encoder.layers", "self_attn", "self_attn_layer_norm", "attention_adapters"),
        ("output_adapter", "encoder.layers", "fc2", "final_layer_norm", "output_adapters"),
        ("mh_adapter", "decoder.layers", "self_attn", "self_attn_layer_norm", "attention_adapters"),
        ("cross_adapter", "decoder.layers", "encoder_attn", "encoder_attn_layer_norm", "cross_attention_adapters"),
        ("output_adapter", "decoder.layers", "fc2", "final_layer_norm", "output_adapters"),
    ),
    "gpt2": (
        ("mh_adapter", "h", "attn", "ln_1", "attention_adapters"),
        ("output_adapter", "h", "mlp", "ln_2", "output_adapters"),
    ),
    **dict.fromkeys(("t5", "mt5"), T5),
    **dict.fromkeys(("bert", "roberta", "electra", "deberta-v2"), ENCODER),
}
"""By architecture: the field that enables a site, the blocks, what computes h there, its norm, and AdapterHub's key."""

PARTS = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")


def _sites(model: Any, method: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Paths of what computes h and of its norm, and AdapterHub's key, for every adapter."""
    family, found = model.config.model_type, []
    base = BASES[family]
    for part, blocks, output, norm, key in SITES[family]:
        for block in range(len(model.get_submodule(f"{base}{blocks}")) if method.get(part) else 0):
            path = f"{blocks}.{block}."
            if _number(model, path) not in (method.get("leave_out") or ()):
                found.append((f"{base}{path}{output}", f"{base}{path}{norm}", f"{path}{key}"))
    return found


def _adapter(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    method = config["config"]
    behind = model.config.model_type in ("bert", "roberta", "electra", "deberta-v2", "bart")
    stand = _behind_norm if behind else _before_norm
    for output, norm, key in _sites(model, method):
        found = {end: tensors.get(f"{key}.adapters.{config['name']}.{end}", torch.zeros(())) for end in PARTS}
        stand(model.get_submodule(output), model.get_submodule(norm), method, found)


def _block(
    h: Tensor, e: Tensor, method: Mapping[str, Any], found: Tensors, *, norm: Callable[[Tensor], Tensor]
) -> Tensor:
    """The library's own order of steps around an adapter; `norm` is of the sum of h and the residual stream e."""
    before, after = bool(method.get("original_ln_before")), bool(method.get("original_ln_after", True))
    around = method.get("residual_before_ln", True)
    if around not in (True, False):
        raise MeaninglessError(f"residual_before_ln is {around!r}")
    x = e if method.get("is_parallel") else norm(h + e) if before else h
    act = {"swish": "silu", "leakyrelu": "leaky_relu"}.get(method["non_linearity"].lower(), method["non_linearity"])
    hidden = ACT2FN[act.lower()](x @ found["adapter_down.0.weight"].T + found["adapter_down.0.bias"])
    changed = float(method.get("scaling", 1.0)) * (hidden @ found["adapter_up.weight"].T + found["adapter_up.bias"])
    out = (h if around or method.get("is_parallel") else x) + changed
    return norm(out + e) if after else out


def _before_norm(layer: nn.Module, norm: nn.Module, method: Mapping[str, Any], found: Tensors) -> None:
    """For a model that normalizes before a sublayer and itself adds e to what the sublayer returns."""
    kept: list[Tensor] = []
    forward: Callable[..., Any] = layer.forward
    norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))

    def adapted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        h, e = output[0] if isinstance(output, tuple) else output, kept.pop()
        h = _block(h, e, method, found, norm=lambda whole: whole) - e
        return (h, *output[1:]) if isinstance(output, tuple) else h

    layer.forward = adapted


def _behind_norm(layer: nn.Module, norm: nn.Module, method: Mapping[str, Any], found: Tensors) -> None:
    """For a model that normalizes after a sublayer: the norm gets h + e."""
    kept: list[Tensor] = []
    forward: Callable[[Tensor], Tensor] = norm.forward
    layer.register_forward_hook(lambda _, __, output: kept.append(output[0] if isinstance(output, tuple) else output))

    def adapted(whole: Tensor) -> Tensor:
        h = kept.pop()
        return _block(h, whole - h, method, found, norm=forward)

    norm.forward = adapted
