"""Which layers OpenDelta's `modified_modules` names: ends of paths, or names that are the same for all backbones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from headstart.architectures import Role, SublayerName, architecture_of
from headstart.errors import ModuleError
from headstart.formats.libraries.peft_layers import ends_with
from headstart.formats.libraries.peft_lora import excluded_dense

__all__ = ["Modified", "family_of", "in_stack"]

FAMILIES = {
    "Bert": "bert", "GPT2": "gpt2", "Llama": "llama", "MT5": "mt5", "Mistral": "mistral", "Roberta": "roberta",
    "T5": "t5", "XLMRoberta": "xlm-roberta",
}  # fmt: skip
"""Transformers' `model_type`, by the beginning of the names of a family's classes."""

WORDED = ("bert", "gpt2", "roberta", "t5")
"""The families for which OpenDelta has names of its own."""

SUBLAYERS: dict[SublayerName, str] = {"attention": "attn@", "cross_attention": "crossattn@", "feed_forward": "ff@"}
LAYERS: dict[Role, str] = {
    "query": "q@", "key": "k@", "value": "v@", "query_key_value": "q,k,v@", "attention_output": "proj@", "up": "w1@",
    "down": "w2@",
}  # fmt: skip
"""OpenDelta's names for sublayers and, in these, for linear layers by their role."""

LAST_NORM = {"gpt2": {"": {"ln_f": "decoder@.layer_norm@"}}}
"""By family, the one layer outside all blocks for which OpenDelta has a name."""

GATED = (".wi_0", ".wi_1")
"""Layers for which it has no name: its T5 has no gate."""


@cache
def nodes_of(family: str) -> dict[str, dict[str, str]]:
    """By stack of blocks: OpenDelta's name for each layer of a block; under "", layers outside all blocks."""
    architecture = architecture_of(family)
    if architecture is None or family not in WORDED:
        return {}
    found: dict[str, dict[str, str]] = {}
    for blocks in architecture.blocks:
        words = found.setdefault(blocks.path, {})
        for sublayer in blocks.sublayers:
            word = SUBLAYERS[sublayer.name]
            words |= dict.fromkeys(sublayer.roots, word)
            words |= {
                path: f"{word}.{LAYERS[role]}"
                for path, role in sublayer.layers.items()
                if role in LAYERS and not path.endswith(GATED)
            }
            words[sublayer.norm] = f"{word}.layer_norm@"
    return found | LAST_NORM.get(family, {})


STACKS = ("encoder.", "decoder.", "embeddings.", "h.", "layers.", "ln_f", "norm", "pooler.")
"""The beginnings of paths below a model's head."""

HEAD = "lm_head"
"""What OpenDelta leaves out by default."""


def family_of(config: Mapping[str, object]) -> str:
    """Transformers' `model_type` of the backbone. Raises `ModuleError` for an unknown backbone."""
    stated = config.get("backbone_class")
    found = re.fullmatch(r"([A-Za-z0-9]+?)(Model|EncoderModel|LMHeadModel|DoubleHeadsModel|For[A-Z]\w*)", str(stated))
    if found is None or found[1] not in FAMILIES:
        raise ModuleError(
            f"field 'backbone_class' is {stated!r}; OpenDelta's folders are read for: "
            f"{', '.join(sorted(set(FAMILIES.values())))}"
        )
    return FAMILIES[found[1]]


def in_stack(layer: str) -> bool:
    """Whether a path, without its base, is below the head."""
    return layer.startswith(STACKS)


@dataclass(frozen=True)
class Modified:
    """What `modified_modules` says: ends of paths or, if they are `common`, OpenDelta's names for a `family`."""

    family: str
    listed: tuple[str, ...]
    common: bool

    @classmethod
    def of(cls, config: Mapping[str, object], family: str) -> Modified:
        """Read the fields. Raises `ModuleError` if they are malformed or Headstart cannot resolve them."""
        listed, common = config.get("modified_modules"), config.get("common_structure")
        if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
            raise ModuleError(f"field 'modified_modules' is {listed!r}, not a list of layer names; correct it")
        if config.get("exclude_modules") not in (None, [], [HEAD]):
            raise ModuleError(
                f"field 'exclude_modules' is {config['exclude_modules']!r}; Headstart reads modules that "
                f"leave out nothing but {HEAD}; name the layers in modified_modules instead"
            )
        if common is not None and not isinstance(common, bool):
            raise ModuleError(f"field 'common_structure' is {common!r}, not true or false; correct it")
        if common and not nodes_of(family):
            raise ModuleError(f"OpenDelta has no common structure for '{family}'; name the layers in modified_modules")
        modified = cls(family, tuple(dict.fromkeys(listed)), bool(common))
        known = [word for stack in nodes_of(family).values() for word in stack.values()]
        for name in modified.listed:
            if name.startswith("[r]") or (
                common and not name.startswith(HEAD) and not any(ends_with(w, [name]) for w in known)
            ):
                raise ModuleError(
                    f"field 'modified_modules' holds {name!r}, which Headstart cannot resolve; use ends of "
                    "paths, such as attention.self.query"
                )
        return modified

    def names(self, layer: str, *, below: bool) -> bool:
        """Whether the layer is named or, with `below`, is inside one that is. Paths are without the base."""
        return any(self._matches(layer, name, below=below) for name in self.listed)

    def refuse_unused(self, layers: Iterable[str], *, below: bool = True) -> None:
        """Raise `ModuleError` if a name fits none of the layers that have tensors."""
        held = list(layers)
        for name in self.listed:
            if not name.startswith(HEAD) and not any(self._matches(layer, name, below=below) for layer in held):
                raise ModuleError(
                    f"field 'modified_modules' names '{name}' but no layer of it has a tensor; copy or save "
                    "the module again"
                )

    def linear(self) -> tuple[list[str], list[str] | None]:
        """PEFT's `target_modules` and `exclude_modules` for the linear layers that are named."""
        if not self.common:
            return list(self.listed), None
        targets = sorted({node for node in self._leaves() if "norm" not in node.lower() and not node.startswith("ln_")})
        return targets, excluded_dense(targets)

    def biases(self, layers: Iterable[str]) -> list[str]:
        """Names for the layers whose bias terms are tuned: all that lie in what is named, and where names are ends of
        paths also those that have tensors.
        """
        held = set() if self.common else {self._node(layer)[1] for layer in layers}
        return sorted({*self._leaves(), *held})

    def _leaves(self) -> list[str]:
        """The known layers, without others below them, that are named or inside a named one."""
        found = []
        for stack, nodes in nodes_of(self.family).items():
            for node in nodes:
                whole = f"{stack}.0.{node}" if stack else node
                if not any(other.startswith(f"{node}.") for other in nodes) and self.names(whole, below=True):
                    found.append(node)
        return found

    def _matches(self, layer: str, name: str, *, below: bool) -> bool:
        parts = layer.split(".")
        paths = [".".join(parts[:end]) for end in range(1 if below else len(parts), len(parts) + 1)]
        if not self.common:
            return any(ends_with(path, [name]) for path in paths)
        nodes = (self._node(path) for path in paths)
        words = (nodes_of(self.family).get(stack, {}).get(node) for stack, node in nodes)
        return any(word is not None and ends_with(word, [name]) for word in words)

    def _node(self, layer: str) -> tuple[str, str]:
        """The stack of blocks that a layer belongs to, and its path in the block; "" and its path if in no block."""
        architecture = architecture_of(self.family)
        found = None if architecture is None else architecture.locate(layer)
        return ("", layer) if found is None else (found[0].path, found[2])
