"""The mathematics of embeddings on plain arrays, so that what is no module, such as a file of prompts, has one too.

Every function takes arrays of NumPy or tensors of torch on the CPU, and returns float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import SettingError

__all__ = ["Array", "canonical_factors", "centred", "cosines", "flattened", "joined", "mean_over", "slopes"]

Array = NDArray[Any]


def mean_over(values: ArrayLike, axis: int = -2) -> Array:
    """The mean over one axis that leaves out NaN: over the layers of (…, L, D), or the tokens of (…, tokens, d).

    >>> mean_over([[1.0, 4.0], [3.0, float("nan")]]).tolist()
    [2.0, 4.0]
    """
    given = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(given)
    if there.all():
        return np.asarray(given.mean(axis))
    return np.asarray(np.where(there, given, 0.0).sum(axis) / there.sum(axis))


def flattened(values: ArrayLike) -> Array:
    """All numbers of (…, L, D) but NaN, one row after the other: (L·D,) for one, (N, L·D) for N of equal gaps."""
    given = np.asarray(values, dtype=np.float64)
    rows = given.reshape(*given.shape[:-2], -1)
    there = ~np.isnan(rows)
    kept = there if rows.ndim == 1 else there.any(0)
    return np.asarray(rows[..., kept])


def canonical_factors(a: ArrayLike, b: ArrayLike, scaling: float = 1.0) -> tuple[Array, Array]:
    """Factors (k, in) and (out, k), k = min(r, in, out), that depend on ΔW = scaling · B·A alone, not on its factors.

    Any invertible R gives the same ΔW with R·A and B·R⁻¹. With the singular value decomposition ΔW = Σ σᵢ uᵢ vᵢᵀ, the
    rows of the new A are √σᵢ vᵢᵀ and the columns of the new B √σᵢ uᵢ, the largest σ first. In each pair, the sign is
    the one with which the entry of vᵢ of largest absolute value (the first of several) is positive. Singular values
    that are zero up to rounding give zeros. ΔW itself is not formed: both factors are decomposed by QR, and what lies
    between, a core of r × r numbers, by its singular values.

    Where singular values are equal, their vectors are determined only up to a rotation among themselves, so different
    factors of one ΔW may give different forms there; their product is still ΔW.
    """
    inner, outer = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    left, left_core = np.linalg.qr(outer)
    right, right_core = np.linalg.qr(inner.T)
    u, sizes, vt = np.linalg.svd(scaling * left_core @ right_core.T, full_matrices=False)
    u, v = left @ u, right @ vt.T
    sizes = np.where(sizes > sizes.max(initial=0.0) * np.finfo(float).eps * max(inner.shape[1], len(outer)), sizes, 0.0)
    largest = np.abs(v).argmax(0)
    signs = np.where(v[largest, np.arange(v.shape[1])] < 0, -1.0, 1.0)
    roots = np.sqrt(sizes) * signs
    return (v * roots).T, u * roots


def cosines(queries: ArrayLike, vectors: ArrayLike) -> Array:
    """The cosine of each of `queries` (Q, D) with each of `vectors` (N, D), (Q, N); NaN where one is all zeros.

    Raises `SettingError` if their dimensions differ.

    >>> cosines([[3.0, 4.0]], [[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]]).tolist()
    [[0.6, -0.8, nan]]
    """
    rows, columns = np.asarray(queries, dtype=np.float64), np.asarray(vectors, dtype=np.float64)
    if rows.shape[-1] != columns.shape[-1]:
        raise SettingError(
            f"vectors of {columns.shape[-1]} numbers cannot be compared with {rows.shape[-1]}; "
            "embed both by one method, from modules of one shape"
        )
    norms = np.linalg.norm(rows, axis=-1)[:, None] * np.linalg.norm(columns, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(norms > 0, rows @ columns.T / norms, np.nan))


def joined(vectors: Sequence[ArrayLike]) -> Array:
    """Vectors (D₁,) … (Dₙ,) as one whose cosine with another such is the mean of the n cosines (ΣD,).

    Each is scaled to length 1/√n. Raises `SettingError` for a vector of zeros.

    >>> joined([[3.0, 4.0], [2.0]]).round(3).tolist()
    [0.424, 0.566, 0.707]
    """
    given = [np.asarray(vector, dtype=np.float64) for vector in vectors]
    norms = [np.linalg.norm(vector) for vector in given]
    if not all(norm > 0 for norm in norms):
        raise SettingError("a vector of zeros has no cosine; leave it out")
    return np.concatenate([vector / (norm * len(given) ** 0.5) for vector, norm in zip(given, norms, strict=True)])


def slopes(points: Sequence[tuple[float, float]], at: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.7)) -> Array:
    """The slopes of a curve of (step, value) at shares of its last step, in values per whole curve.

    Between two points the curve is a straight line; at a point, it is the line after it. Raises `SettingError` for
    fewer than two points.

    >>> slopes([(0, 4.0), (50, 2.0), (100, 1.0)], at=(0.1, 0.5)).tolist()
    [-4.0, -2.0]
    """
    if len(points) < 2:
        raise SettingError("a curve of fewer than two points has no slope; evaluate more often while tuning")
    steps, values = np.array(points, dtype=np.float64).T
    where = np.searchsorted(steps, np.array(at) * steps[-1], side="right").clip(1, len(steps) - 1)
    return np.asarray((values[where] - values[where - 1]) / (steps[where] - steps[where - 1]) * steps[-1])


def centred(vectors: ArrayLike, mean: ArrayLike | None = None) -> Array:
    """`vectors` (N, D) less `mean` (D,); `None` is their own mean. What all modules have in common then does not count.

    >>> centred([[1.0, 5.0], [3.0, 5.0]]).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    given = np.asarray(vectors, dtype=np.float64)
    return np.asarray(given - (given.mean(0) if mean is None else np.asarray(mean, dtype=np.float64)))
