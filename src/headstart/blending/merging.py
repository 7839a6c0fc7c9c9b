"""Σ w_i O_i with everything that a reader needs beside it: the space, the error, the donors."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headstart.blending.low_rank import combination, relative_error
from headstart.blending.spaces import SPACES, Options
from headstart.blending.weights import effective_number
from headstart.errors import MergeError
from headstart.kinds import AnyModule, LoraModule, Module
from headstart.records import Donor

__all__ = ["Merged", "check_space", "merge", "require_one_kind"]


@dataclass(frozen=True)
class Merged:
    """A merged module. `weights` follow the given modules; `effective` is 1/Σw².

    `error`: ‖ΔŴ − Σ w_i ΔW_i‖_F / ‖Σ w_i ΔW_i‖_F over all layers, or `None` for kinds that have no ΔW.
    """

    module: Module
    weights: tuple[float, ...]
    space: str
    effective: float
    error: float | None


def merge(
    modules: Sequence[AnyModule],
    weights: Sequence[float],
    *,
    space: str = "parameters",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    name: str = "merged",
) -> Merged:
    """The weighted sum of modules. One module with weight 1 is that module, in every space (svd: at its own rank).

    Args:
        modules: at least one; those of weight 0 take no part and need not fit.
        weights: one per module, non-negative, summing to 1.
        space: a name in `SPACES`: "parameters" (the papers), "exact" (ΔW kept, rank Σ r_i), "svd" (cut to `rank`),
            and for comparison "ties" and "dare".
        rank: for "svd"; see `Options` for this and the next two.
        density: for "ties" and "dare"; `None` is a half.
        seed: for "dare".
        name: of the result.

    Raises:
        MergeError: no modules, weights that are none, or modules that do not go together in this space.
        SettingError: unknown space or a bad rank.
    """
    if not modules:
        raise MergeError("there is no module to merge; add modules to the hub")
    sound = len(weights) == len(modules) and all(weight >= 0 for weight in weights)
    if not sound or not math.isclose(math.fsum(weights), 1, rel_tol=1e-6):
        raise MergeError(f"the weights must be {len(modules)} numbers of at least 0 that sum to 1; normalize them")
    check_space(space, rank=rank, density=density)
    chosen, options = SPACES[space], Options(rank, density, seed)
    kept = [(module.load(), weight) for module, weight in zip(modules, weights, strict=True) if weight > 0]
    donors, shares = [module for module, _ in kept], [weight for _, weight in kept]
    require_one_kind(donors)
    home = _home(donors)
    module = chosen(donors, shares, options)
    error = _error(module, donors, shares)
    merged = _with_donors(module, donors, shares, name=name, space=space, home=home, error=error)
    return Merged(merged, tuple(weights), space, effective_number(weights), error)


def check_space(space: str, *, rank: int | None, density: float | None) -> None:
    """Raise `SettingError` for what `merge` would refuse of its space and that space's options."""
    SPACES[space]
    Options(rank, density).check(space)


def _error(module: Module, donors: Sequence[Module], shares: Sequence[float]) -> float | None:
    if len(donors) == 1 and module is donors[0]:
        return 0.0
    loras = [donor for donor in donors if isinstance(donor, LoraModule)]
    if not isinstance(module, LoraModule) or len(loras) < len(donors):
        return None
    return relative_error(combination([module], [1.0]), combination(loras, shares))


def require_one_kind(donors: Sequence[AnyModule]) -> None:
    """Raise `MergeError` when the modules are of several kinds."""
    kinds = Counter(donor.kind for donor in donors)
    if len(kinds) > 1:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise MergeError(
            f"the modules are of several kinds ({counted}); merge modules of one kind, which "
            "Hub.of_kind and --kind choose"
        )


def _home(donors: Sequence[Module]) -> Module:
    """The first donor that states its backbone (else the first); raises `MergeError` when two state different ones."""
    stated = [(donor, donor.card.backbone) for donor in donors if donor.card.backbone is not None]
    if not stated:
        return donors[0]
    home, backbone = stated[0]
    for donor, other in stated:
        if not other.same_as(backbone):
            raise MergeError(
                f"'{home.name}' and '{donor.name}' were made for different backbones; merge modules of one backbone"
            )
    return home


def _with_donors(
    module: Module,
    donors: Sequence[Module],
    shares: Sequence[float],
    *,
    name: str,
    space: str,
    home: Module,
    error: float | None,
) -> Module:
    """The module with a card that names what it is made of."""
    licenses = sorted({donor.card.license for donor in donors})
    mixed = "mixed: " + "; ".join(text or "unstated" for text in licenses)
    data = sorted({donor.card.dataset_license for donor in donors if donor.card.dataset_license})
    # JSON has no word for infinity, which is the error of something where the exact sum is nothing.
    infinite = " Its ΔW error is infinite: the exact sum is 0." if error == math.inf else ""
    card = module.card.model_copy(
        update={
            "name": name, "backbone": home.card.backbone, "base_model": home.card.base_model, "task": "", "family": "",
            "metric": "", "score": None, "train_rows": None, "tensor_hash": "", "head": None,
            "license": licenses[0] if len(licenses) == 1 else mixed, "dataset_license": "; ".join(data),
            "donors": tuple(
                Donor(name=d.name, tensor_hash=d.card.tensor_hash, weight=w, license=d.card.license)
                for d, w in zip(donors, shares, strict=True)
            ),
            "merge_error": error if error is not None and math.isfinite(error) else None,
            "notes": f"Merged in space '{space}'.{infinite}",
        }
    )  # fmt: skip
    # What belongs to the backbone, and a module built from factors alone cannot know.
    kept = {
        "base_model_name_or_path": home.card.base_model or None,
        "task_type": home.config.get("task_type"),
    }
    if "fan_in_fan_out" in module.config:
        kept["fan_in_fan_out"] = home.config.get("fan_in_fan_out", False)
    return replace(module, card=card, config={**module.config, **kept}, head=None)
