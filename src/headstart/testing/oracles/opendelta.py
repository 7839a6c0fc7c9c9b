"""Plain formulas for folders that OpenDelta saved."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from headstart.testing.oracles.answers import MeaninglessError, answers, require_shapes

__all__ = ["opendelta", "opendelta_shapes"]

Tensors = Mapping[str, Tensor]
ENCODERS = "(Bert|Roberta|XLMRoberta)"
CLASSES = {"bert": ENCODERS, "roberta": ENCODERS, "t5": "M?T5", "gpt2": "GPT2", "llama": "(Llama|Mistral)"}
"""The beginnings of the names of classes that have the same layers."""

BASES = r"^(model|transformer|bert|roberta)\."
A, B = "lora.lora_A", "lora.lora_B"
PARTS = tuple(f"adapter.modulelist.{name}_proj.{part}" for name in ("down", "up") for part in ("weight", "bias"))
ENCODER = {
    r"encoder\.layer\.\d+\.attention\.self\.query": "attn@.q@",
    r"encoder\.layer\.\d+\.attention\.self\.key": "attn@.k@",
    r"encoder\.layer\.\d+\.attention\.self\.value": "attn@.v@",
    r"encoder\.layer\.\d+\.attention\.output\.dense": "attn@.proj@",
    r"encoder\.layer\.\d+\.attention\.output\.LayerNorm": "attn@.layer_norm@",
    r"encoder\.layer\.\d+\.intermediate\.dense": "ff@.w1@", r"encoder\.layer\.\d+\.output\.dense": "ff@.w2@",
    r"encoder\.layer\.\d+\.output\.LayerNorm": "ff@.layer_norm@",
}  # fmt: skip
WORDS: dict[str, dict[str, str]] = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "gpt2": {
        r"h\.\d+\.attn\.c_attn": "attn@.q,k,v@", r"h\.\d+\.attn\.c_proj": "attn@.proj@",
        r"h\.\d+\.ln_1": "attn@.layer_norm@", r"h\.\d+\.mlp\.c_fc": "ff@.w1@", r"h\.\d+\.mlp\.c_proj": "ff@.w2@",
        r"h\.\d+\.ln_2": "ff@.layer_norm@", r"ln_f": "decoder@.layer_norm@",
    },
    "t5": {
        **{rf"(en|de)coder\.block\.\d+\.layer\.0\.SelfAttention\.{own}": f"attn@.{word}@" for own, word in
           (("q", "q"), ("k", "k"), ("v", "v"), ("o", "proj"))},
        **{rf"decoder\.block\.\d+\.layer\.1\.EncDecAttention\.{own}": f"crossattn@.{word}@" for own, word in
           (("q", "q"), ("k", "k"), ("v", "v"), ("o", "proj"))},
        r"encoder\.block\.\d+\.layer\.1\.DenseReluDense\.wo": "ff@.w2@",
        r"decoder\.block\.\d+\.layer\.2\.DenseReluDense\.wo": "ff@.w2@",
    },
}  # fmt: skip
"""By architecture: OpenDelta's own words for layers, by their paths below the head."""


def opendelta(model: Any, config: Mapping[str, Any], tensors: Tensors) -> Tensor:
    """What the model computes with the delta, and with the task head that was trained beside it."""
    family = model.config.model_type
    if re.fullmatch(rf"{CLASSES[family]}(Model|LMHeadModel|EncoderModel|For\w+)", config["backbone_class"]) is None:
        raise MeaninglessError("it is for another architecture")
    trained = config.get("unfrozen_modules") or ()
    heads = tuple(f"{layer}." for layer in ("classifier", "qa_outputs") if layer in trained)
    head = {name: value for name, value in tensors.items() if heads and name.startswith(heads)}
    if any(not any(name.startswith(start) for name in head) for start in heads):
        raise MeaninglessError("a layer of the task head is missing")
    plain = {re.sub(BASES, "", name): value.double() for name, value in tensors.items() if name not in head}
    if len(plain) != len(tensors) - len(head):
        raise MeaninglessError("two tensors are stored for one parameter")
    if config.get("exclude_modules") not in (None, [], ["lm_head"]):
        raise MeaninglessError("it leaves out other layers")
    require_shapes(plain, opendelta_shapes(model, config))
    {"lora": _lora, "adapter": _adapter, "bitfit": _bitfit}[config["delta_type"]](model, config, plain)
    return answers(model, head)


def _named(model: Any, config: Mapping[str, Any], *, below: bool) -> dict[str, nn.Module]:
    """The layers that the configuration names, or that are inside those, by their paths below the head."""
    found: dict[str, nn.Module] = {}
    used: set[str] = set()
    for whole, layer in model.named_modules():
        if whole.startswith(("lm_head", "classifier")):
            continue
        path = re.sub(BASES, "", whole)
        spelt = path
        if config.get("common_structure"):
            words = WORDS[model.config.model_type]
            spelt = next((word for pattern, word in words.items() if re.fullmatch(pattern, path)), "")
        parts = spelt.split(".")
        starts = [".".join(parts[:end]) for end in range(1 if below else len(parts), len(parts) + 1)]
        names = {n for n in config["modified_modules"] for s in starts if s == n or s.endswith(f".{n}")}
        if names:
            found[path], used = layer, used | names
    unused = [name for name in config["modified_modules"] if name not in used and not name.startswith("lm_head")]
    if unused:
        raise MeaninglessError(f"'{unused[0]}' is no layer")
    return found


def opendelta_shapes(model: Any, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a delta by its name, without the path of the base model."""
    delta, layers = config["delta_type"], _named(model, config, below=config["delta_type"] == "bitfit")
    wanted: dict[str, tuple[int, ...]] = {}
    if delta == "bitfit":
        biases = {path: getattr(layer, "bias", None) for path, layer in layers.items()}
        return {f"{path}.bias": tuple(b.shape) for path, b in biases.items() if isinstance(b, Tensor)}
    if delta == "lora":
        for path, layer in layers.items():
            outputs, inputs = layer.get_parameter("weight").shape
            wanted |= {f"{path}.{A}": (config["lora_r"], inputs), f"{path}.{B}": (outputs, config["lora_r"])}
        return wanted
    width, size = model.config.hidden_size, config["bottleneck_dim"]
    shapes = dict(zip(PARTS, ((size, width), (size,), (width, size), (width,)), strict=True))
    return {f"{path}.{part}": shape for path in layers for part, shape in shapes.items()}


def _lora(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    for path, layer in _named(model, config, below=False).items():
        change = tensors[f"{path}.{B}"] @ tensors[f"{path}.{A}"]
        layer.get_parameter("weight").data += config["lora_alpha"] / config["lora_r"] * change


def _adapter(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    said = config["non_linearity"].lower()
    activation = {"swish": "silu", "gelu_orig": "gelu", "leakyrelu": "leaky_relu"}.get(said, said)
    for path, layer in _named(model, config, below=False).items():

        def behind(_: nn.Module, __: Any, output: Any, start: str = path) -> Any:
            down, d, up, u = (tensors[f"{start}.{part}"] for part in PARTS)
            h = output[0] if isinstance(output, tuple) else output
            made = h + ACT2FN[activation](h @ down.T + d) @ up.T + u
            return (made, *output[1:]) if isinstance(output, tuple) else made

        layer.register_forward_hook(behind)


def _bitfit(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    for path, layer in _named(model, config, below=True).items():
        if f"{path}.bias" in tensors:
            layer.get_parameter("bias").data = tensors[f"{path}.bias"]
