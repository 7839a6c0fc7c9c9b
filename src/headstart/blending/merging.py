"""Σ w_i O_i with everything that a reader needs beside it: the space, the error, the donors."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headstart.backbones import Backbone
from headstart.blending.fitting import check_space, fitting_space
from headstart.blending.low_rank import combination, relative_error
from headstart.blending.spaces.contract import Options
from headstart.blending.weights import Weights, effective_number
from headstart.errors import MergeError
from headstart.kinds import AnyModule, LoraModule, Module
from headstart.records import Donor

__all__ = ["Merged", "merge", "require_one_kind"]


@dataclass(frozen=True)
class Merged:
    """A merged module.

    `weights` follow the given modules; where groups of layers have weights of their own, they are the mean over the
    module's numbers. `effective` is 1/Σw². `space` is the one that was used.

    `error`: ‖ΔŴ − Σ w_i ΔW_i‖_F / ‖Σ w_i ΔW_i‖_F over all layers, or `None` for kinds that have no ΔW.
    """

    module: Module
    weights: tuple[float, ...]
    space: str
    effective: float
    error: float | None


def merge(
    modules: Sequence[AnyModule],
    weights: Weights | Sequence[float],
    *,
    space: str = "parameters",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    backbone: Backbone | None = None,
    name: str = "merged",
) -> Merged:
    """The weighted sum of modules. One module with weight 1 is that module, in every space (svd: at its own rank).

    Args:
        modules: at least one; those of weight 0 take no part and need not fit.
        weights: one per module, non-negative, summing to 1; or `Weights`, with others for groups of layers.
        space: a name in `SPACES`: "parameters" (the papers), "exact" (ΔW kept, rank Σ r_i), "svd" (cut to `rank`),
            for comparison "ties" and "dare", and "auto", the first of them where shapes are equal, else "svd".
        rank: for "svd"; see `Options` for this and the next two.
        density: for "ties" and "dare"; `None` is a half.
        seed: for "dare".
        backbone: the frozen model, where "ties" and "dare" merge BitFit: they act on changes of its bias terms.
        name: of the result.

    Raises:
        MergeError: no modules, weights that are none, or modules that do not go together in this space.
        SettingError: unknown space or a bad rank.
    """
    if not modules:
        raise MergeError("there is no module to merge; add modules to the hub")
    weights = weights if isinstance(weights, Weights) else Weights(modules=tuple(weights))
    weights.check(len(modules))
    check_space(space, rank=rank, density=density)
    kept = weights.taking_part()
    taking, shares = [modules[index] for index in kept], weights.only(kept)
    require_one_kind(taking)
    chosen = fitting_space(space, taking, rank=rank)
    donors = [module.load() for module in taking]
    home = _home(donors)
    if len(donors) == 1 and "rank" not in chosen.reads:
        module = donors[0]
    else:
        origin = donors[0].origin(backbone) if "origin" in chosen.needs else {}
        module = chosen.merge(donors, shares, Options(rank, density, seed, origin))
        _require_groups(shares, module)
    error = _error(module, donors, shares)
    overall = _overall(shares, module)
    merged = _with_donors(module, donors, overall, name=name, space=chosen.name, home=home, error=error)
    whole = [0.0] * len(modules)
    for index, weight in zip(kept, overall, strict=True):
        whole[index] = weight
    return Merged(merged, tuple(whole), chosen.name, effective_number(whole), error)


def _require_groups(weights: Weights, module: Module) -> None:
    """Raise `MergeError` for a group of layers in which the module has no parameter: its weights would do nothing."""
    names = list(module.parameters())
    for group in weights.groups:
        for layer in group.layers:
            if not any(name == layer or name.startswith(f"{layer}.") for name in names):
                raise MergeError(
                    f"there are weights for '{layer}', where these modules have no parameter (their first is "
                    f"{names[0]}); name layers by the beginning of such a path, or give one weight per module"
                )


def _overall(weights: Weights, module: Module) -> tuple[float, ...]:
    """One weight per module: the mean over the numbers of the merged module."""
    if not weights.groups:
        return weights.modules
    sizes = {name: value.numel() for name, value in module.parameters().items()}
    total = sum(sizes.values())
    return tuple(
        math.fsum(size * weights.of(name)[index] for name, size in sizes.items()) / total
        for index in range(len(weights.modules))
    )


def _error(module: Module, donors: Sequence[Module], shares: Weights) -> float | None:
    if len(donors) == 1 and module is donors[0]:
        return 0.0
    loras = [donor for donor in donors if isinstance(donor, LoraModule)]
    if not isinstance(module, LoraModule) or len(loras) < len(donors):
        return None
    return relative_error(combination([module], Weights(modules=(1.0,))), combination(loras, shares))


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
