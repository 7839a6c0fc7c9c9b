"""What is known about each architecture: where its attention, its feed-forward and their layers are.

This folder holds data only, one small file per structure, without torch. Adapters, prefixes, file formats and
indicators of a part all read it; no other folder names the layers of a backbone. What a kind does with a layer belongs
in `kinds/`, what another library calls it in `formats/`.
"""

from collections.abc import Mapping

from headstart.architectures.architecture import Architecture, Blocks, Part, Role, Sublayer, SublayerName
from headstart.errors import BackboneError
from headstart.registry import Registry

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Blocks",
    "Part",
    "Role",
    "Sublayer",
    "SublayerName",
    "architecture_of",
    "part_of",
]

ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    group="headstart.architectures",
    contract="headstart.architectures:Architecture",
    instances=True,
    members={
        "t5": "headstart.architectures.t5:T5",
        "mt5": "headstart.architectures.t5:T5",
        "llama": "headstart.architectures.llama:LLAMA",
        "mistral": "headstart.architectures.llama:LLAMA",
        "qwen2": "headstart.architectures.llama:QWEN",
        "qwen3": "headstart.architectures.llama:QWEN",
        "gemma2": "headstart.architectures.gemma:GEMMA",
        "gemma3_text": "headstart.architectures.gemma:GEMMA",
        "phi3": "headstart.architectures.phi3:PHI3",
        "gpt2": "headstart.architectures.gpt2:GPT2",
        "gpt_neox": "headstart.architectures.gpt_neox:GPT_NEOX",
        "opt": "headstart.architectures.opt:OPT",
        "bart": "headstart.architectures.bart:BART",
        "bert": "headstart.architectures.bert:BERT",
        "roberta": "headstart.architectures.bert:ROBERTA",
        "xlm-roberta": "headstart.architectures.bert:ROBERTA",
        "electra": "headstart.architectures.bert:ELECTRA",
        "deberta-v2": "headstart.architectures.deberta:DEBERTA",
        "modernbert": "headstart.architectures.modernbert:MODERNBERT",
    },
)
"""By transformers' `model_type`."""


def architecture_of(model_type: object, config: Mapping[str, object] | None = None) -> Architecture | None:
    """The architecture of a `model_type`, or `None` for one that is not known.

    Also `None` if `config`, the model's configuration as a mapping, says that the model differs from it.
    """
    found = ARCHITECTURES[model_type] if isinstance(model_type, str) and model_type in ARCHITECTURES else None
    if found is None or config is None:
        return found
    return found if all(config.get(key) == value for key, value in found.requires.items()) else None


def part_of(model_type: str, path: str) -> Part:
    """Which block and sublayer of a backbone a layer belongs to, by the layer's path in it.

    Raises `BackboneError` for an architecture that is not known.

    >>> part_of("llama", "model.layers.3.self_attn.q_proj")
    Part(stack='decoder', block=3, sublayer='attention')
    >>> part_of("bert", "bert.embeddings.LayerNorm")
    Part(stack=None, block=None, sublayer=None)
    """
    found = architecture_of(model_type)
    if found is None:
        raise BackboneError(
            f"the parts of '{model_type}' are not known, only those of {', '.join(ARCHITECTURES)}; "
            "ask for the whole module instead, or describe the architecture in a plug-in"
        )
    return found.part(path)
