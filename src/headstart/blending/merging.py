"""Σ w_i O_i, together with what a reader needs to know about it: the space, the error, the donors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import pandas as pd
from torch import Tensor

from headstart.backbones import Backbone, BackboneLike, as_backbone
from headstart.blending.catalogued import require_one_kind
from headstart.blending.fitting import check_space, fitting_space
from headstart.blending.low_rank import combination, relative_error
from headstart.blending.spaces import SPACES
from headstart.blending.spaces.contract import Options
from headstart.blending.weights import TAIL, Weights, effective_number
from headstart.errors import MergeError, SettingError, of_type
from headstart.hub import Hub
from headstart.kinds import AnyModule, LoraModule, Module, ModuleLike, as_modules
from headstart.records import Donor
from headstart.showing import html_table, line, plural

__all__ = ["MergePlan", "Merged", "Summed", "merge", "scaled_parameters"]

SHOWN = 5
"""How many of the modules that were left out the card names."""

Home = TypeVar("Home", bound=AnyModule)


@dataclass(frozen=True)
class Merged:
    """A merged module.

    `weights` are in the order of the given modules; if groups of layers have their own weights, they are the means over
    the module's numbers. `effective` is 1/Σw². `space` is the one that was used.

    `scale`: what the blend was multiplied by, which counts in no weight and no error.

    `error`: ‖ΔŴ − Σ w_i ΔW_i‖_F / ‖Σ w_i ΔW_i‖_F over all layers and the modules with a weight in `weights`, or `None`
    for kinds that have no ΔW.
    """

    module: Module
    weights: tuple[float, ...]
    space: str
    effective: float
    error: float | None
    scale: float = 1.0

    def __repr__(self) -> str:
        return line(type(self).__name__, *self._words)

    def _repr_html_(self) -> str:
        donors = [donor.model_dump(include={"name", "weight", "license"}) for donor in self.module.card.donors]
        frame = pd.DataFrame(donors, columns=["name", "weight", "license"]).rename(columns={"name": "module"})
        frame = frame.sort_values("weight", ascending=False, kind="stable")
        return html_table(frame, title="; ".join(filter(None, self._words)))

    @property
    def _words(self) -> tuple[str, ...]:
        taking = sum(weight != 0 for weight in self.weights)
        error = "" if self.error is None else f"ΔW error {self.error:.3g}"
        of = f"{taking} of {plural(len(self.weights), 'module')} in space '{self.space}'"
        return self.module.card.words, of, f"effective number {self.effective:.3g}", error


def merge(
    modules: Iterable[ModuleLike] | ModuleLike | Hub,
    weights: Weights | Sequence[float],
    *,
    space: str = "parameters",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    backbone: BackboneLike | None = None,
    scale: float = 1.0,
    name: str = "merged",
) -> Merged:
    """The weighted sum of modules. One module with weight 1 is that module, in every space (svd: at its own rank).

    Args:
        modules: at least one, or their folders; those of weight 0 take no part and need not fit.
        weights: one per module, non-negative, summing to 1; or `Weights`, with others for groups of layers.
        space: a name in `SPACES`: "parameters" (the papers), "exact" (ΔW kept, rank Σ r_i, without modules that
            together have at most 1e-4 of the weight), "svd" (cut to `rank`), "core" and its rules "core_ties",
            "core_tsv" and "core_iso" (Core Space), for comparison "ties" and "dare", and "auto", the first of them
            where shapes are equal, else "svd".
        rank: for "svd" and "core"; see `Options` for this and the next two.
        density: for "ties", "core_ties" and "dare"; `None` is a half.
        seed: for "dare".
        backbone: the frozen model, needed when "ties" or "dare" merges BitFit: they act on changes of its biases.
        scale: what the blend is multiplied by: ΔW for LoRA, else the change from the values that change nothing.
        name: of the result.

    Raises:
        MergeError: no modules, invalid weights, or modules that cannot be merged in this space.
        SettingError: unknown space or a bad rank.

    Examples:
        >>> hs.merge(["my-hub/ada", "my-hub/bob"], [0.75, 0.25])
        Merged(merged, lora of rank 2, 448 parameters; 2 of 2 modules in space 'parameters'; effective number 1.6; ...)
    """
    if not isinstance(weights, Weights | Sequence):
        raise MergeError(f"{of_type('weights', weights)}; give one number for each module, which together make 1")
    plan = MergePlan.of(as_modules(modules), weights, space=space, rank=rank, density=density, seed=seed, scale=scale)
    frozen = None if backbone is None else as_backbone(backbone)
    return plan.merged(plan.summed(frozen), name=name)


@dataclass(frozen=True, eq=False)
class Summed:
    """What a merge computes from tensors: the sum, the overall weights of the modules that take part, the ΔW error."""

    module: Module
    weights: tuple[float, ...]
    error: float | None


@dataclass(frozen=True, eq=False)
class MergePlan:
    """What is known of a merge before tensors are read: which modules take part, with which weights, in which space.

    What the space does not read is left at its default, for it changes nothing. `positions` are those of `modules`
    among the `count` that were given; `tail` names those that were left out for their small weight. Made by `of`.
    """

    uncounted: ClassVar[frozenset[str]] = frozenset({"positions", "count", "tail"})

    modules: tuple[AnyModule, ...]
    weights: Weights
    space: str
    rank: int | None
    density: float | None
    seed: int
    positions: tuple[int, ...]
    count: int
    tail: tuple[str, ...]
    scale: float = 1.0

    @classmethod
    def of(
        cls,
        modules: Sequence[AnyModule],
        weights: Weights | Sequence[float],
        *,
        space: str = "parameters",
        rank: int | None = None,
        density: float | None = None,
        seed: int = 0,
        scale: float = 1.0,
    ) -> Self:
        """Plan a merge; the arguments and errors are those of `merge`."""
        if not modules:
            raise MergeError("there is no module to merge; add modules to the hub")
        weights = weights if isinstance(weights, Weights) else Weights(modules=tuple(weights))
        weights.check(len(modules))
        check_space(space, rank=rank, density=density)
        given = weights.taking_part()
        kept = weights.above_tail() if SPACES[space].grows else given
        taking = tuple(modules[index] for index in kept)
        require_one_kind(taking)
        chosen = fitting_space(space, taking, rank=rank)
        if weights.signed and not chosen.linear:
            usable = ", ".join(name for name, known in SPACES.items() if known.linear)
            raise MergeError(
                f"space '{chosen.name}' takes no weights with signs; merge in one of: {usable}, or leave out signed"
            )
        if not 0 < scale < math.inf:
            raise SettingError(f"scale {scale:g} must be a number above 0; leave it out for 1")
        _home(taking)
        own = weights.only(kept) if kept == given else weights.only(kept).rescaled()
        usual = Options(density=density).kept == Options().kept
        return cls(
            taking, own, chosen.name, rank if "rank" in chosen.reads else None,
            None if usual or "density" not in chosen.reads else density, seed if "seed" in chosen.reads else 0,
            kept, len(modules), tuple(modules[index].name for index in given if index not in set(kept)), scale,
        )  # fmt: skip

    @property
    def alone(self) -> bool:
        """Whether it is a single module that stays as it is, but for the scale."""
        whole = not self.weights.signed or self.weights.modules == (1.0,)
        return len(self.modules) == 1 and whole and "rank" not in SPACES[self.space].reads

    @property
    def needs_origin(self) -> bool:
        """Whether changes are measured from the parameters that change nothing, which may depend on the backbone."""
        if self.scale != 1 and not all(issubclass(module.family, LoraModule) for module in self.modules):
            return True
        return not self.alone and "origin" in SPACES[self.space].needs

    def summed(self, backbone: Backbone | None) -> Summed:
        """Compute the sum. Raises `MergeError` for modules that turn out not to be mergeable."""
        donors = [module.load() for module in self.modules]
        module = donors[0]
        origin = donors[0].origin(backbone) if self.needs_origin else {}
        if not self.alone:
            options = Options(self.rank, self.density, self.seed, origin)
            module = SPACES[self.space].merge(donors, self.weights, options)
            _require_groups(self.weights, module)
        error = _error(module, donors, self.weights)
        overall = _overall(self.weights, module)
        if self.scale != 1:
            module = module.with_parameters(scaled_parameters(module, self.scale, origin=origin))
        # These fields are about the backbone, which a module built from factors alone cannot know.
        stated = _home(donors).config
        kept = {"task_type": stated.get("task_type")}
        if "fan_in_fan_out" in module.config:
            kept["fan_in_fan_out"] = stated.get("fan_in_fan_out", False)
        return Summed(replace(module, config={**module.config, **kept}, head=None), overall, error)

    def merged(self, summed: Summed, *, name: str) -> Merged:
        """The sum with a card that names its donors, and the weights of all given modules."""
        module = _with_donors(self, summed, name=name)
        whole = [0.0] * self.count
        for index, weight in zip(self.positions, summed.weights, strict=True):
            whole[index] = weight
        return Merged(module, tuple(whole), self.space, effective_number(whole), summed.error, self.scale)


def scaled_parameters(module: Module, scale: float, *, origin: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of `scale` times the module: B of a LoRA, else the change from `origin`."""
    values = module.parameters()
    if isinstance(module, LoraModule):
        return {name: value * scale if name.endswith(".b") else value for name, value in values.items()}
    return {name: origin[name] + scale * (value - origin[name]) for name, value in values.items()}


def _require_groups(weights: Weights, module: Module) -> None:
    """Raise `MergeError` for a group of layers in which the module has no parameters: its weights would do nothing."""
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


def _home(donors: Sequence[Home]) -> Home:
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


def _with_donors(plan: MergePlan, summed: Summed, *, name: str) -> Module:
    """The sum with a card that names its donors."""
    module, error, donors, home = summed.module, summed.error, plan.modules, _home(plan.modules)
    licenses = sorted({donor.card.license for donor in donors})
    mixed = "mixed: " + "; ".join(text or "unstated" for text in licenses)
    data = sorted({donor.card.dataset_license for donor in donors if donor.card.dataset_license})
    # JSON has no infinity, which is the error if the exact sum is 0 and the merged one is not.
    infinite = " Its ΔW error is infinite: the exact sum is 0." if error == math.inf else ""
    card = module.card.model_copy(
        update={
            "name": name, "backbone": home.card.backbone, "base_model": home.card.base_model, "task": "", "family": "",
            "metric": "", "score": None, "train_rows": None, "tensor_hash": "", "head": None, "origin": "",
            "template": None, "labels": None, "options": None, "calibration": None,
            "text_format": module.card.text_format and donors[0].card.text_format,
            "license": licenses[0] if len(licenses) == 1 else mixed, "dataset_license": "; ".join(data),
            "donors": tuple(
                Donor(name=d.name, tensor_hash=d.card.tensor_hash, weight=w, license=d.card.license)
                for d, w in zip(donors, summed.weights, strict=True)
            ),
            "merge_error": error if error is not None and math.isfinite(error) else None,
            "notes": f"Merged in space '{plan.space}'.{_scale_note(plan.scale)}{_tail_note(plan.tail)}{infinite}",
        }
    )  # fmt: skip
    config = {**module.config, "base_model_name_or_path": home.card.base_model or None}
    return replace(module, card=card, config=config)


def _scale_note(scale: float) -> str:
    return "" if scale == 1 else f" The blend is multiplied by {scale:g}."


def _tail_note(names: Sequence[str]) -> str:
    if not names:
        return ""
    several = f"{len(names)} modules" if len(names) > 1 else "1 module"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN])
    return f" Left out, with at most {TAIL:g} of the weight together: {several} ({listed}{more})."
