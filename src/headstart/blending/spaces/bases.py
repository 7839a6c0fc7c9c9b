"""Core Space: the updates of one layer in orthonormal bases that they share, where each is a small matrix."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headstart.blending.low_rank import LowRank
from headstart.kinds.lora import Factors

__all__ = ["Cores", "Triplets", "leading", "polar"]

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest have no direction of their own."""


class Triplets(NamedTuple):
    """The singular triplets of a matrix: `u` (p, r), `values` (r,), falling, and `v` (q, r), float64."""

    u: Tensor
    values: Tensor
    v: Tensor

    def matrix(self) -> Tensor:
        """U diag(σ) Vᵀ, (p, q)."""
        return (self.u * self.values) @ self.v.T


class Cores(NamedTuple):
    """N updates of one layer, ΔW_i = `left` · M_i · `right`ᵀ exactly, M_i the matrix of `parts[i]`.

    `left` (out, p) and `right` (in, q) have orthonormal columns. `None` stands for the identity, where the modules
    together have as many directions as the layer.
    """

    left: Tensor | None
    right: Tensor | None
    parts: tuple[Triplets, ...]

    @classmethod
    def of(cls, factors: Sequence[Factors]) -> "Cores":
        """The bases are the principal axes of the stacked √σ_j u_j, and of the √σ_j v_j, of all updates.

        Therefore nothing depends on the order of the modules, nor on how an update is divided between its A and B.
        """
        own = [_triplets(factor) for factor in factors]
        left = _axes(torch.cat([part.u * part.values.sqrt() for part in own], 1))
        right = _axes(torch.cat([part.v * part.values.sqrt() for part in own], 1))
        return cls(left, right, tuple(Triplets(_in(left, u), values, _in(right, v)) for u, values, v in own))

    @property
    def shape(self) -> tuple[int, int]:
        """(p, q), the shape of every core."""
        return self.parts[0].u.shape[0], self.parts[0].v.shape[0]

    def outside(self, core: Triplets) -> Triplets:
        """A matrix in these bases as an update of the layer."""
        u = core.u if self.left is None else self.left @ core.u
        v = core.v if self.right is None else self.right @ core.v
        return Triplets(u, core.values, v)

    def weighted_sum(self, shares: Sequence[float]) -> Tensor:
        """Σ w_i M_i, (p, q)."""
        parts = list(zip(shares, self.parts, strict=True))
        left = torch.cat([part.u * (share * part.values) for share, part in parts], 1)
        return left @ torch.cat([part.v for _, part in parts], 1).T


def leading(matrix: Tensor, rank: int) -> Triplets:
    """The `rank` leading singular triplets, from the eigenvectors of the smaller Gram matrix.

    That is several times faster than a singular value decomposition. Values far below the largest are less accurate,
    but U Uᵀ · matrix is always a projection of the matrix.
    """
    if matrix.shape[0] > matrix.shape[1]:
        u, values, v = leading(matrix.T, rank)
        return Triplets(v, values, u)
    u = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)[:, :rank]
    v = matrix.T @ u
    values = torch.linalg.vector_norm(v, dim=0)
    return Triplets(u, values, v / values.clamp(min=torch.finfo(values.dtype).tiny))


def polar(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (the orthogonal Procrustes problem), of the same shape.

    Directions that no column has stay without: the result is U (UᵀU)^(-1/2) with the pseudo-inverse, which is unique.
    """
    if columns.shape[1] > columns.shape[0]:
        return polar(columns.T).T
    squares, axes = torch.linalg.eigh(columns.T @ columns)
    present = squares > NEGLIGIBLE**2 * squares[-1]
    roots = torch.where(present, squares.clamp(min=torch.finfo(squares.dtype).tiny).rsqrt(), 0.0)
    inverse: Tensor = (axes * roots) @ axes.T
    return columns @ inverse


def _triplets(factor: Factors) -> Triplets:
    """Those of one update, which do not depend on how it is divided between A and B."""
    update = LowRank(factor.b.double() * factor.scaling, factor.a.double())
    u, values, v = update.truncated(factor.a.shape[0])
    return Triplets(u, values, v.T)


def _axes(columns: Tensor) -> Tensor | None:
    """Orthonormal columns (n, R) that span all `columns` (n, R), principal axes first; `None` for the identity."""
    if columns.shape[1] >= columns.shape[0]:
        return None
    basis, upper = torch.linalg.qr(columns)
    rotated: Tensor = basis @ torch.linalg.svd(upper)[0]
    return rotated


def _in(basis: Tensor | None, columns: Tensor) -> Tensor:
    return columns if basis is None else basis.T @ columns
