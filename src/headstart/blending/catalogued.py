"""What a hub's catalogue says against a blend: known without torch, and before a backbone is loaded.

What only tensors or the backbone show is refused later, by `headstart.blending.fitting`.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from headstart.blending.blend import Blend
from headstart.blending.rules import RULES, Candidate, Request
from headstart.errors import MergeError, ModuleError
from headstart.hub import Hub, ModuleRef

__all__ = ["EQUAL_SHAPES", "PLAIN_LORA", "candidates_at_hand", "require_blendable", "require_one_kind"]

EQUAL_SHAPES = ("parameters", "ties", "dare")
"""The spaces that need equal shapes; told apart without importing them, because they import torch."""

PLAIN_LORA = ("exact", "svd", "core", "core_ties", "core_tsv", "core_iso")
"""The spaces that need plain LoRA."""


class OfKind(Protocol):
    """A module, or the card of one."""

    @property
    def kind(self) -> str:
        """The name of the kind."""


def require_blendable(blend: Blend, hub: object, *, family: str = "") -> None:
    """Raise `MergeError` if modules of the hub that are to be blended cannot be merged in the blend's space.

    `family` is that of the new task. Lists of modules are left alone: these are in memory. Raises `SettingError` for
    options that the rule would ignore.
    """
    if not isinstance(hub, Hub):
        return
    RULES[blend.rule].check(blend, family=family)
    refs = hub.refs()
    merging = [Candidate(ref.name, ref.card.family, merges=not ref.card.variant) for ref in refs]
    chosen = candidates_at_hand(blend, merging, family=family)
    taking = [refs[index] for index in chosen]
    if len(taking) > 1:
        require_one_kind(ref.card for ref in taking)
        _require_plain(taking, blend.space)
        if blend.space in EQUAL_SHAPES or (blend.space == "auto" and taking[0].card.kind != "lora"):
            _require_equal(taking)


def candidates_at_hand(blend: Blend, candidates: Sequence[Candidate], *, family: str) -> tuple[int, ...]:
    """Positions of those that may get a weight: the rule's own choice where it needs neither scores nor losses.

    Else all that can be merged; but none for a rule that chooses a single one, which fits itself.
    """
    rule = RULES[blend.rule]
    if not rule.needs & {"scores", "loss"}:
        return rule.weigh(Request(blend, candidates, family)).weights.taking_part()
    if rule.most(blend) == 1:
        return ()
    return tuple(index for index, candidate in enumerate(candidates) if candidate.merges)


def require_one_kind(modules: Iterable[OfKind]) -> None:
    """Raise `MergeError` when the modules are of several kinds."""
    kinds = Counter(module.kind for module in modules)
    if len(kinds) > 1:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise MergeError(
            f"the modules are of several kinds ({counted}); merge modules of one kind, which "
            "Hub.of_kind and --kind choose"
        )


def _require_plain(refs: Sequence[ModuleRef], space: str) -> None:
    for ref in refs:
        if space in PLAIN_LORA and (ref.card.kind != "lora" or ref.card.variant):
            raise MergeError(
                f"'{ref.name}' is not a plain LoRA module, so space '{space}' does not apply; leave it out"
            )
        if ref.card.variant:
            raise MergeError(
                f"'{ref.name}' is a LoRA variant ({ref.card.variant}) whose parameters have no exact merge with "
                "others; leave it out"
            )


def _require_equal(refs: Sequence[ModuleRef]) -> None:
    """Compare the commonest shape with the first other one that is sure to fit the same backbone."""
    counts = Counter(_size(ref) for ref in refs)
    first = next(ref for ref in refs if _size(ref) == counts.most_common(1)[0][0])
    for ref in refs:
        known = ref.card.backbone and first.card.backbone
        if _size(ref) != _size(first) and (known or ref.card.targets == first.card.targets):
            _refuse_difference(ref, first)


def _size(ref: ModuleRef) -> Hashable:
    return ref.card.rank, ref.card.targets, ref.card.parameters


def _refuse_difference(odd: ModuleRef, usual: ModuleRef) -> None:
    try:
        shapes = [{name: tuple(value.shape) for name, value in ref.read().tensors.items()} for ref in (odd, usual)]
    except ModuleError:  # a broken module takes no part, which is said later
        return
    remedy = "merge them with space 'exact' or 'svd', or leave one out" if odd.card.kind == "lora" else "leave one out"
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        own, other = ("×".join(map(str, held[name])) if name in held else "missing" for held in shapes)
        if own != other:
            raise MergeError(
                f"{name} is {own} in '{odd.name}' and {other} in '{usual.name}'; {remedy} "
                f"(--exclude {odd.name}, or Hub.where(exclude=…))"
            )
