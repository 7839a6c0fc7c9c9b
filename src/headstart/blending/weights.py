"""Weights over modules: non-negative, summing to 1, unless they are signed. Pure Python."""

import math
from collections.abc import Sequence

from headstart.errors import MergeError, SettingError
from headstart.records import Record

__all__ = [
    "LayerWeights",
    "Weights",
    "check_effective",
    "check_softmax",
    "check_top_k",
    "effective_number",
    "highest",
    "lowest",
    "one_hot",
    "shared",
    "softmax",
    "temperature_for",
    "uniform",
    "usual_effective",
]

USUAL_EFFECTIVE = 4.0
"""The default effective number of modules of a blend, for hubs of 16 modules or more."""

TAIL = 1e-4
"""Modules that together have no more than this share of the weight are left out where each would add to the rank."""


class LayerWeights(Record):
    """Separate weights for a group of layers: those whose paths are, or begin with, one of `layers`.

    A path is the backbone's, at any depth: "model.layers.3", "encoder", "model.layers.0.self_attn".
    """

    layers: tuple[str, ...]
    modules: tuple[float, ...]


class Weights(Record):
    """One weight for each module, and optionally other weights for groups of layers.

    `signed` weights are any finite numbers, of which at least one is not 0; all others sum to 1.

    If several groups hold a layer, the one with the longest path counts; layers in no group have the weights `modules`.

    >>> weights = Weights(modules=(0.5, 0.5), groups=(LayerWeights(layers=("encoder",), modules=(1.0, 0.0)),))
    >>> weights.of("encoder.block.0.q"), weights.of("decoder.block.0.q")
    ((1.0, 0.0), (0.5, 0.5))
    """

    modules: tuple[float, ...]
    groups: tuple[LayerWeights, ...] = ()
    signed: bool = False

    def of(self, path: str) -> tuple[float, ...]:
        """The modules' weights in the layer, or for the parameter, with this path."""
        longest, found = -1, self.modules
        for group in self.groups:
            for layer in group.layers:
                if len(layer) > longest and (path == layer or path.startswith(f"{layer}.")):
                    longest, found = len(layer), group.modules
        return found

    def check(self, count: int) -> None:
        """Raise `MergeError` unless all are `count` numbers of at least 0 that sum to 1, or finite ones if signed."""
        for shares in (self.modules, *(group.modules for group in self.groups)):
            if self.signed and len(shares) == count and all(map(math.isfinite, shares)) and self.taking_part():
                continue
            sound = len(shares) == count and all(weight >= 0 for weight in shares)
            if not sound or not math.isclose(math.fsum(shares), 1, rel_tol=1e-6):
                raise MergeError(f"the weights must be {count} numbers of at least 0 that sum to 1; normalize them")

    def taking_part(self) -> tuple[int, ...]:
        """Positions of the modules with a weight other than 0 in some layer."""
        whole = (self.modules, *(group.modules for group in self.groups))
        return tuple(index for index in range(len(self.modules)) if any(shares[index] != 0 for shares in whole))

    def above_tail(self) -> tuple[int, ...]:
        """Positions of the modules that take part without the tail: the smallest, which together have at most `TAIL`.

        The tail has no more than that in any group of layers, and of equal modules none is in it unless all are.
        """
        own = [[abs(share) for share in shares] for shares in (self.modules, *(each.modules for each in self.groups))]
        whole = [[share / (math.fsum(shares) or 1.0) for share in shares] for shares in own]
        largest = {index: max(shares[index] for shares in whole) for index in self.taking_part()}
        sums, least = [0.0] * len(whole), 0.0
        for index in sorted(largest, key=largest.__getitem__):
            sums = [total + shares[index] for total, shares in zip(sums, whole, strict=True)]
            if max(sums) > TAIL:
                least = largest[index]
                break
        return tuple(index for index, weight in largest.items() if weight >= least)

    def only(self, positions: Sequence[int]) -> "Weights":
        """The weights of the modules at these positions."""
        groups = tuple(
            LayerWeights(layers=group.layers, modules=tuple(group.modules[index] for index in positions))
            for group in self.groups
        )
        return Weights(modules=tuple(self.modules[index] for index in positions), groups=groups, signed=self.signed)

    def spread(self, positions: Sequence[int], count: int) -> "Weights":
        """The weights as those of the modules at these positions among `count`; the others have none."""

        def among(shares: Sequence[float]) -> tuple[float, ...]:
            known = dict(zip(positions, shares, strict=True))
            return tuple(known.get(index, 0.0) for index in range(count))

        groups = tuple(LayerWeights(layers=group.layers, modules=among(group.modules)) for group in self.groups)
        return Weights(modules=among(self.modules), groups=groups, signed=self.signed)

    def rescaled(self) -> "Weights":
        """The weights, made to sum to 1 in every group; signed ones stay."""
        if self.signed:
            return self
        groups = tuple(LayerWeights(layers=group.layers, modules=_rescaled(group.modules)) for group in self.groups)
        return Weights(modules=_rescaled(self.modules), groups=groups)


def _rescaled(shares: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(shares)
    return tuple(share / total for share in shares)


def softmax(scores: Sequence[float], *, temperature: float, top_k: int | None = None) -> tuple[float, ...]:
    """softmax(S_i / τ) over the `top_k` highest scores, or over all (Lv et al., 2023, eq. 1).

    A missing score (NaN or infinite) gets weight 0; among equal scores at the cut of the top k, earlier ones stay.
    Raises `SettingError` for τ ≤ 0 or k < 1, `MergeError` if there is no score.

    >>> [round(weight, 3) for weight in softmax([1.0, 2.0, 3.0], temperature=1.0)]
    [0.09, 0.245, 0.665]
    """
    check_softmax(temperature, top_k)
    kept = highest(scores, top_k)
    raw = {index: math.exp((scores[index] - scores[kept[0]]) / temperature) for index in kept}
    total = math.fsum(raw.values())
    return tuple(raw[index] / total if index in raw else 0.0 for index in range(len(scores)))


def temperature_for(effective: float, scores: Sequence[float], *, top_k: int | None = None) -> float:
    """The τ at which softmax(S_i / τ) has the effective number `effective`, by bisection.

    The effective number grows with τ, from the number of modules that share the best score to the number n of modules
    that are weighed. An effective number outside this range gives τ at the end of its range: infinite (equal weights)
    from n on; below the range, so small that only the best have weight. Raises `SettingError` for an effective number
    below 1, `MergeError` if there is no score.

    >>> round(temperature_for(2.0, [1.0, 2.0, 3.0]), 4)
    1.039
    """
    check_effective(effective, top_k)
    known = [scores[index] for index in highest(scores, top_k)]
    if effective >= len(known) or known[0] == known[-1]:
        return math.inf
    # At the lower end, all but the best have weight exp(-700) or less; at the upper end, all are equal up to rounding.
    gap = min(known[0] - score for score in known if score < known[0])
    low, high = math.log(gap / 700), math.log(1e9 * (known[0] - known[-1]))
    for _ in range(100):
        middle = (low + high) / 2
        if effective_number(softmax(known, temperature=math.exp(middle))) < effective:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def usual_effective(count: int) -> float:
    """The default effective number for `count` modules: √n, at most 4.

    1 would be the best module alone and n the plain average, which are separate methods; √n is larger than 1 by the
    same factor by which it is smaller than n. Unlike a fixed temperature, it does not depend on the scale of an
    indicator's values.

    >>> usual_effective(4), usual_effective(5000)
    (2.0, 4.0)
    """
    return min(USUAL_EFFECTIVE, math.sqrt(count))


def highest(scores: Sequence[float], top_k: int | None = None) -> tuple[int, ...]:
    """Positions of the `top_k` highest scores, or of all, highest first; among equal scores, earlier ones come first.

    A missing score (NaN or infinite) is left out. Raises `MergeError` if there is no score.

    >>> highest([0.1, math.nan, 0.3, 0.3], 2)
    (2, 3)
    """
    known = [index for index, value in enumerate(scores) if math.isfinite(value)]
    if not known:
        raise MergeError(
            "no module has a score to weigh by; use another indicator or add modules that fit the backbone"
        )
    return tuple(sorted(known, key=lambda index: (-scores[index], index))[:top_k])


def check_softmax(temperature: float, top_k: int | None) -> None:
    """Raise `SettingError` for τ ≤ 0 or k < 1: what `softmax` would refuse, before anything is scored."""
    if not temperature > 0:
        raise SettingError(f"temperature {temperature} must be above 0; for the best module alone use rule best_single")
    check_top_k(top_k)


def check_effective(effective: float, top_k: int | None) -> None:
    """Raise `SettingError` for an effective number below 1 or above k."""
    check_top_k(top_k)
    if not effective >= 1:
        raise SettingError(
            f"effective {effective} must be at least 1 module; for the best module alone use rule best_single"
        )
    if top_k is not None and effective > top_k:
        raise SettingError(
            f"effective {effective:g} is more than the {top_k} modules of top_k; ask for at most {top_k}"
        )


def check_top_k(top_k: int | None) -> None:
    """Raise `SettingError` for k < 1."""
    if top_k is not None and top_k < 1:
        raise SettingError(f"top_k {top_k} must be at least 1; leave it out to blend all modules")


def lowest(losses: Sequence[float]) -> int:
    """The position of the lowest loss, the first of equals. Raises `MergeError` if none is a finite number.

    >>> lowest([math.nan, 2.0, 1.0])
    2
    """
    known = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    if not known:
        raise MergeError("no blend that was tried has a finite loss on the held-out rows; use another rule and scale")
    return min(known, key=losses.__getitem__)


def shared(positions: Sequence[int], count: int) -> tuple[float, ...]:
    """The same weight at each of `positions` among `count` modules, 0 elsewhere; `MergeError` if there are none."""
    if not positions:
        raise MergeError("there is no module to merge; add modules to the hub")
    chosen = set(positions)
    return tuple(1 / len(chosen) if index in chosen else 0.0 for index in range(count))


def uniform(count: int) -> tuple[float, ...]:
    """1/n each. Raises `MergeError` if there are no modules."""
    return shared(range(count), count)


def one_hot(index: int, count: int) -> tuple[float, ...]:
    """All weight on one module."""
    return shared([index], count)


def effective_number(weights: Sequence[float]) -> float:
    """(Σ|w|)² / Σ w²: n for uniform weights over n modules, 1 when one module has all.

    For weights that sum to 1, it is 1 / Σ w².
    """
    return math.fsum(map(abs, weights)) ** 2 / math.fsum(weight**2 for weight in weights)
