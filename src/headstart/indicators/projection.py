"""The algebra of projection indicators: updates of many modules at one layer, and activations projected onto them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headstart.kinds.updates import LowRank, Scaling, Update

__all__ = ["lengths", "onto", "own_basis", "right_vectors", "sizes"]


def sizes(updates: Sequence[Update]) -> Tensor:
    """‖ΔW‖_F of each of N updates of equal shapes, (N,), float64."""
    if isinstance(updates[0], Scaling):
        return _changes(updates).square().sum(1).sqrt()
    down, up = _factors(updates)
    return ((up.mT @ up) * (down @ down.mT)).sum((1, 2)).clamp(min=0).sqrt()


def right_vectors(updates: Sequence[Update]) -> Tensor:
    """The top right singular vector of each of N updates other than 0, (N, D), float32; its sign means nothing.

    ΔWᵀΔW = AᵀGA with G = BᵀB, and a vector of its range is v = Aᵀc. With G = RᵀR, the equation GAAᵀc = λc becomes the
    symmetric R·AAᵀ·Rᵀ·y = λy with c = Rᵀy: an (r, r) eigenproblem, and ΔW is never formed. Of diag(d), v is the axis
    with the largest |d|.
    """
    if isinstance(updates[0], Scaling):
        change = _changes(updates)
        return torch.nn.functional.one_hot(change.abs().argmax(1), change.shape[1]).float()
    down, up = _factors(updates)
    root = _root(up)
    _, vectors = torch.linalg.eigh(root @ (down @ down.mT) @ root.mT)
    top = (down.mT @ (root.mT @ vectors[:, :, -1:])).squeeze(2)
    return torch.nn.functional.normalize(top, dim=1).float()


def own_basis(updates: Sequence[Update]) -> Tensor:
    """For each of N updates other than 0, rows P with ‖Px‖ = ‖ΔWx‖ / ‖ΔW‖_F for every x, (N, r, D), float32.

    With ΔW = UΣVᵀ, ‖ΔWx‖ = ‖ΣVᵀx‖: the columns of U are orthonormal and do not matter. The same holds of P = RA, where
    RᵀR = BᵀB. Of diag(d), P is diag(d) itself and comes as its diagonal, (N, D).
    """
    scale = 1 / sizes(updates)
    if isinstance(updates[0], Scaling):
        return (_changes(updates) * scale.unsqueeze(1)).float()
    down, up = _factors(updates)
    return (_root(up) @ down * scale.view(-1, 1, 1)).float()


def onto(rows: Tensor, activations: Tensor) -> Tensor:
    """The products of M activations with K `rows` (K, D): (M, K). Activations are (M, D), or ids (M,) for one-hot."""
    return activations.float() @ rows.mT if activations.is_floating_point() else rows[:, activations].mT


def lengths(activations: Tensor) -> Tensor:
    """‖x‖ of M activations, (M,); 1 for ids."""
    if not activations.is_floating_point():
        return torch.ones(len(activations), device=activations.device)
    return activations.float().square().sum(1).sqrt()


def _changes(updates: Sequence[Update]) -> Tensor:
    return torch.stack([update.change for update in updates if isinstance(update, Scaling)]).double()


def _factors(updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
    """A (N, r, in) and B (N, out, r), float64."""
    low = [update for update in updates if isinstance(update, LowRank)]
    return torch.stack([one.down for one in low]).double(), torch.stack([one.up for one in low]).double()


def _root(up: Tensor) -> Tensor:
    """R with RᵀR = BᵀB, (N, r, r): the triangular factor of B = QR; B itself where it is wider than tall."""
    return torch.linalg.qr(up, mode="r").R if up.shape[1] >= up.shape[2] else up
