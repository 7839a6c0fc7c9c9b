"""Weights over modules: non-negative, summing to 1. Pure Python."""

import math
from collections.abc import Sequence

from headstart.errors import MergeError, SettingError

__all__ = ["check_softmax", "check_top_k", "effective_number", "highest", "one_hot", "shared", "softmax", "uniform"]


def softmax(scores: Sequence[float], *, temperature: float, top_k: int | None = None) -> tuple[float, ...]:
    """softmax(S_i / τ) over the `top_k` highest scores, or over all (Lv et al., 2023, eq. 1).

    A missing score (NaN or infinite) gets weight 0; of equal scores at the edge of the top k the earlier stays.
    Raises `SettingError` for τ ≤ 0 or k < 1, `MergeError` when no score is there.

    >>> [round(weight, 3) for weight in softmax([1.0, 2.0, 3.0], temperature=1.0)]
    [0.09, 0.245, 0.665]
    """
    check_softmax(temperature, top_k)
    kept = highest(scores, top_k)
    raw = {index: math.exp((scores[index] - scores[kept[0]]) / temperature) for index in kept}
    total = math.fsum(raw.values())
    return tuple(raw[index] / total if index in raw else 0.0 for index in range(len(scores)))


def highest(scores: Sequence[float], top_k: int | None = None) -> tuple[int, ...]:
    """Positions of the `top_k` highest scores, or of all, the highest first; of equal scores the earlier comes first.

    A missing score (NaN or infinite) is left out. Raises `MergeError` when no score is there.

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
    """Raise `SettingError` for τ ≤ 0 or k < 1: what `softmax` would refuse, known before any score is."""
    if not temperature > 0:
        raise SettingError(f"temperature {temperature} must be above 0; for the best module alone use rule best_single")
    check_top_k(top_k)


def check_top_k(top_k: int | None) -> None:
    """Raise `SettingError` for k < 1."""
    if top_k is not None and top_k < 1:
        raise SettingError(f"top_k {top_k} must be at least 1; leave it out to blend all modules")


def shared(places: Sequence[int], count: int) -> tuple[float, ...]:
    """The same weight at each of `places` among `count` modules, 0 elsewhere. Raises `MergeError` for no place."""
    if not places:
        raise MergeError("there is no module to merge; add modules to the hub")
    chosen = set(places)
    return tuple(1 / len(chosen) if index in chosen else 0.0 for index in range(count))


def uniform(count: int) -> tuple[float, ...]:
    """1/n each. Raises `MergeError` for none."""
    return shared(range(count), count)


def one_hot(index: int, count: int) -> tuple[float, ...]:
    """All weight on one module."""
    return shared([index], count)


def effective_number(weights: Sequence[float]) -> float:
    """1 / Σ w²: n for uniform weights over n modules, 1 when one module has all."""
    return 1 / math.fsum(weight**2 for weight in weights)
