"""Core Space: lossless bases, every rule against a naive float64 reference, and what no rule may depend on."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from headstart.blending import merge
from headstart.blending.spaces.bases import Cores, leading, polar
from headstart.kinds import LoraModule
from headstart.kinds.lora import Factors
from small_hub import filled

SPACES = ("core", "core_ties", "core_tsv", "core_iso")
SHAPES = {"layers.0.q": (14, 12, 2), "layers.1.q": (13, 16, 2)}
WEIGHTS = (0.5, 0.2, 0.3)
MODULES = [filled(SHAPES, seed=seed, scaling=0.5 + seed, name=f"m{seed}") for seed in range(3)]


def update(factor: Factors) -> Tensor:
    return factor.scaling * (factor.b.double() @ factor.a.double())


def updates(module: object) -> dict[str, Tensor]:
    assert isinstance(module, LoraModule)
    return {path: update(factor) for path, factor in module.factors.items()}


def cut(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def naive_iso(matrices: Sequence[Tensor], rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(sum(w * m for w, m in zip(WEIGHTS, matrices, strict=True)), full_matrices=False)
    return s[:rank].mean() * (u[:, :rank] @ v[:rank])


def naive_tsv(matrices: Sequence[Tensor], rank: int) -> Tensor:
    """The three modules have 6 directions, and each keeps 6 / 3 = 2: all it has."""
    u, s, v = [], [], []
    for weight, matrix in zip(WEIGHTS, matrices, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        u.append(left[:, :2])
        s.append(weight * values[:2])
        v.append(right[:2].T)
    whitened = []
    for side in (u, v):
        p, _, q = torch.linalg.svd(torch.cat(side, 1), full_matrices=False)
        whitened.append(p @ q)
    return cut(whitened[0] @ torch.cat(s).diag() @ whitened[1].T, rank)


def naive_ties(matrices: Sequence[Tensor], rank: int) -> Tensor:
    """Number by number, in the principal axes of the stacked square roots; half of each module's numbers stay."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for matrix in matrices:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        sides[0].append(u[:, :2] * s[:2].sqrt())
        sides[1].append(v[:2].T * s[:2].sqrt())
    left, right = (torch.linalg.svd(torch.cat(side, 1), full_matrices=False)[0] for side in sides)
    cores = [left.T @ matrix @ right for matrix in matrices]
    kept = []
    for core in cores:
        edge = core.abs().flatten().sort(descending=True).values[core.numel() // 2 - 1]
        kept.append(torch.where(core.abs() >= edge, core, 0.0))
    merged = torch.zeros_like(cores[0])
    for row in range(merged.shape[0]):
        for column in range(merged.shape[1]):
            values = [float(core[row, column]) for core in kept]
            total = sum(w * value for w, value in zip(WEIGHTS, values, strict=True))
            agreeing = [(w, value) for w, value in zip(WEIGHTS, values, strict=True) if value * total > 0]
            mass = sum(w for w, _ in agreeing)
            merged[row, column] = sum(w * value for w, value in agreeing) / mass if mass else 0.0
    return cut(left @ merged @ right.T, rank)


def naive_mean(matrices: Sequence[Tensor], rank: int) -> Tensor:
    return cut(sum(w * m for w, m in zip(WEIGHTS, matrices, strict=True)), rank)  # type: ignore[arg-type]


NAIVE = {"core": naive_mean, "core_ties": naive_ties, "core_tsv": naive_tsv, "core_iso": naive_iso}


@pytest.mark.parametrize("rank", [2, 3, 6])
@pytest.mark.parametrize("space", SPACES)
def test_every_rule_is_what_its_paper_says(space: str, rank: int) -> None:
    merged = merge(MODULES, WEIGHTS, space=space, rank=rank)
    for path in SHAPES:
        wanted = NAIVE[space]([updates(module)[path] for module in MODULES], rank)
        torch.testing.assert_close(updates(merged.module)[path], wanted, rtol=1e-5, atol=1e-5)
    assert merged.module.card.rank == rank
    exact = {path: sum(w * updates(m)[path] for w, m in zip(WEIGHTS, MODULES, strict=True)) for path in SHAPES}
    missed = sum(float((updates(merged.module)[path] - exact[path]).pow(2).sum()) for path in SHAPES)
    whole = sum(float(value.pow(2).sum()) for value in exact.values() if isinstance(value, Tensor))
    assert merged.error == pytest.approx((missed / whole) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("shape", [(14, 12), (5, 12), (14, 4), (3, 3)])
def test_the_bases_lose_nothing(shape: tuple[int, int]) -> None:
    """Ranks and scalings differ, one scaling is negative, one module is 0, one is another's twin."""
    factors = [filled({"x": (*shape, rank)}, seed=rank, scaling=rank - 1.5).factors["x"] for rank in (1, 2, 3)]
    factors += [factors[1], factors[0]._replace(b=torch.zeros_like(factors[0].b))]
    cores = Cores.of(factors)
    for basis in filter(lambda side: side is not None, (cores.left, cores.right)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    for factor, part in zip(factors, cores.parts, strict=True):
        torch.testing.assert_close(cores.outside(part).matrix(), update(factor), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rank", [None, 2])
def test_one_module_is_itself(space: str, rank: int | None) -> None:
    merged = merge(MODULES[:2], (1.0, 0.0), space=space, rank=rank)
    for path, value in updates(merged.module).items():
        torch.testing.assert_close(value, updates(MODULES[0])[path], rtol=1e-5, atol=1e-6)
    assert merged.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_order_and_factors_change_nothing(space: str) -> None:
    turned = []
    for seed, module in enumerate(MODULES):
        mix = torch.randn(2, 2, generator=torch.Generator().manual_seed(9 + seed), dtype=torch.float64)
        factors = {
            path: f._replace(a=(mix @ f.a.double()).float(), b=(f.b.double() @ mix.inverse()).float())
            for path, f in module.factors.items()
        }
        turned.append(LoraModule.build(factors, name=module.name, backbone=None))
    plain = updates(merge(MODULES, WEIGHTS, space=space, rank=4).module)
    other = updates(merge(turned[::-1], WEIGHTS[::-1], space=space, rank=4).module)
    for path, value in plain.items():
        torch.testing.assert_close(value, other[path], rtol=1e-4, atol=1e-4)


def test_the_mean_is_the_svd_of_the_exact_sum_where_ranks_and_layers_differ() -> None:
    odd = filled({"layers.1.q": (13, 16, 5), "head": (4, 3, 1)}, seed=7, name="odd")
    modules = [*MODULES, odd]
    weights = (0.4, 0.2, 0.3, 0.1)
    plain, core = (merge(modules, weights, space=space, rank=4) for space in ("svd", "core"))
    for path, value in updates(plain.module).items():
        torch.testing.assert_close(updates(core.module)[path], value, rtol=1e-5, atol=1e-5)
    assert core.error == pytest.approx(plain.error, abs=1e-6)
    for space in SPACES:  # the head is one module's alone: its update times its weight
        alone = updates(merge(modules, weights, space=space, rank=4).module)["head"]
        torch.testing.assert_close(alone, 0.1 * updates(odd)["head"], rtol=1e-5, atol=1e-6)


def test_leading_triplets_and_polar_factors() -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one in (matrix, matrix.T):
        torch.testing.assert_close(leading(one, 3).matrix(), cut(one, 3))
        torch.testing.assert_close(leading(one, 9).matrix(), one)
    assert float(leading(torch.zeros(3, 4, dtype=torch.float64), 2).matrix().abs().max()) == 0
    # Two equal columns share one direction: (u u) becomes (u u) / √2, and a column of zeros stays.
    u = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    found = polar(torch.cat([u, u, 0 * u], 1))
    torch.testing.assert_close(found, torch.cat([u, u, 0 * u], 1) / 5 / 2**0.5)
