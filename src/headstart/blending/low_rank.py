"""Low-rank updates and their norms, always through the factors: no full ΔW where the factors suffice."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headstart.blending.weights import Weights
from headstart.kinds import LoraModule
from headstart.kinds.lora import Factors

__all__ = ["LowRank", "balanced", "combination", "relative_error"]


class LowRank(NamedTuple):
    """ΔW = left · right: `left` (out, R), `right` (R, in), float64."""

    left: Tensor
    right: Tensor

    def norm(self) -> float:
        """‖ΔW‖_F, from the triangular parts of both factors: exact even where terms nearly cancel."""
        if self._wide():
            return float(torch.linalg.norm(self.left @ self.right))
        upper, other = (torch.linalg.qr(side, mode="r")[1] for side in (self.left, self.right.T))
        return float(torch.linalg.norm(upper @ other.T))

    def truncated(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """U (out, r), σ (r,), Vᵀ (r, in): the leading r singular triplets of ΔW."""
        if self._wide():
            u, values, v = torch.linalg.svd(self.left @ self.right, full_matrices=False)
            return u[:, :rank], values[:rank], v[:rank]
        first, upper = torch.linalg.qr(self.left)
        second, other = torch.linalg.qr(self.right.T)
        u, values, v = torch.linalg.svd(upper @ other.T, full_matrices=False)
        return first @ u[:, :rank], values[:rank], v[:rank] @ second.T

    def _wide(self) -> bool:
        """Whether the factors hold more numbers than their product, so that the product is cheaper to form."""
        return self.left.shape[1] >= min(self.left.shape[0], self.right.shape[1])

    def minus(self, other: "LowRank") -> "LowRank":
        """The difference; its rank is at most the sum of both ranks."""
        return LowRank(torch.cat([self.left, -other.left], 1), torch.cat([self.right, other.right], 0))


def balanced(u: Tensor, values: Tensor, v: Tensor, *, like: Factors) -> Factors:
    """The factors of U diag(σ) Vᵀ, `u` (out, r), `v` (in, r), with singular values shared evenly between A and B.

    The scaling is that of `like`.
    """
    # The argument of a root must be positive, but PEFT allows any α; singular values carry no sign.
    scaling = abs(like.scaling) or 1.0
    root = (values / scaling).sqrt()
    return Factors((v * root).T.float().contiguous(), (u * root).float().contiguous(), scaling, like.embedding)


def combination(modules: Sequence[LoraModule], weights: Weights) -> dict[str, LowRank]:
    """Σ w_i ΔW_i for every layer that a module with a weight adapts, as factors laid side by side."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for index, module in enumerate(modules):
        for path, factor in module.factors.items():
            weight = weights.of(path)[index]
            if weight != 0:
                scaled = factor.b.double() * (weight * factor.scaling)
                parts.setdefault(path, []).append((scaled, factor.a.double()))
    return {
        path: LowRank(torch.cat([left for left, _ in found], 1), torch.cat([right for _, right in found], 0))
        for path, found in parts.items()
    }


def relative_error(approximate: Mapping[str, LowRank], exact: Mapping[str, LowRank]) -> float:
    """‖ΔŴ − ΔW‖_F / ‖ΔW‖_F over all layers together; 0 when both are 0, infinite when only ΔW is."""
    wanted = sum(update.norm() ** 2 for update in exact.values())
    missed = sum(approximate[path].minus(update).norm() ** 2 for path, update in exact.items())
    missed += sum(update.norm() ** 2 for path, update in approximate.items() if path not in exact)
    if not wanted:
        return math.inf if missed else 0.0
    return math.sqrt(missed / wanted)
