"""Where the methods of one seed begin: their modules at one size, and which of them are the same."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.blending import SPACES
from headstart.blending.ensemble import blend_note
from headstart.blending.start import PlannedStart, Start
from headstart.comparing.methods.contract import Begun, Draw
from headstart.comparing.methods.parse import Compared
from headstart.comparing.sizes import at_size
from headstart.kinds import AnyModule, LoraModule, Module
from headstart.units import Results

__all__ = ["Beginning", "at_equal_rank", "begin_all", "common_rank", "same_start_notes", "size_notes", "starts_rows"]


@dataclass(frozen=True)
class Beginning:
    """One method of one seed: the module that it begins from, and how it was blended, if it was.

    `same_as`: the label of an earlier method of this seed that begins from the very same module, else empty.
    """

    compared: Compared
    seed: int
    module: Module
    start: Start | None
    digest: str
    same_as: str = ""

    @property
    def label(self) -> str:
        """The method's label."""
        return self.compared.label


def common_rank(modules: Sequence[AnyModule], *, asked: int | None) -> int | None:
    """The rank that methods are compared at: the requested one, else the largest in the hub; `None` without LoRA."""
    ranks = [module.card.rank for module in modules if issubclass(module.family, LoraModule)]
    known = [rank for rank in ranks if rank is not None]
    return (asked or max(known)) if known else None


def at_equal_rank(compared: Compared, rank: int | None) -> Compared:
    """The method with a blend of that rank: "svd", which cuts the sum to the rank, takes the place of "exact".

    A method that names its own rank keeps it.
    """
    blend = compared.blend
    if rank is None or blend is None or blend.space == "auto":
        return compared
    space = "svd" if blend.space == "exact" else blend.space
    if "rank" not in SPACES[space].reads:
        return compared
    cut = blend.change(space=space, rank=blend.rank or rank)
    return Compared(compared.label, compared.method, cut)


def begin_all(
    draws: Sequence[Draw], methods: Sequence[Compared], *, run: Callable[..., Results]
) -> list[list[Beginning]]:
    """The starts of every method on each draw, in order, all on the pool's layers and at its rank.

    A method that names a rank has that one.

    `run` runs units in this process, which has everything loaded: a worker would take longer to start than to merge.
    The merges of all draws are one graph.
    """
    running = [replace(draw, run=run) for draw in draws]
    begun = [[compared.method.begin(draw, compared.blend) for compared in methods] for draw in running]
    found = run([each.unit for row in begun for each in row if isinstance(each, PlannedStart)])
    return [
        _at_size([_begun(each, found) for each in row], methods, draw) for draw, row in zip(draws, begun, strict=True)
    ]


def _begun(begun: Begun | PlannedStart, found: Results) -> Begun:
    if isinstance(begun, Begun):
        return begun
    start = begun.start(found)
    return Begun(start.module, start)


def _at_size(begun: Sequence[Begun], methods: Sequence[Compared], draw: Draw) -> list[Beginning]:
    """The starts of one draw at their sizes; `same_as` is set where two have equal contents."""
    found: list[Beginning] = []
    first: dict[str, str] = {}
    for compared, each in zip(methods, begun, strict=True):
        told = compared.blend.rank if compared.blend is not None else None
        rank = None if draw.pool.rank is None else told or draw.pool.rank
        module = at_size(each.module, rank, like=None if rank is None else draw.pool.shape, seed=draw.seed)
        digest = module.digest()
        found.append(Beginning(compared, draw.seed, module, each.start, digest, first.get(digest, "")))
        first.setdefault(digest, compared.label)
    return found


def starts_rows(beginnings: Sequence[Beginning]) -> list[dict[str, Any]]:
    """One row per start: how it was made and how many parameters it tunes; what is undefined is NaN or empty."""
    rows = []
    for begun in beginnings:
        card, start = begun.module.card, begun.start
        merged = None if start is None else start.merged
        rows.append(
            {
                "method": begun.label, "seed": begun.seed, "made_by": begun.compared.method.name,
                "rank": _number(card.rank), "parameters": card.parameters,
                "effective": math.nan if merged is None else merged.effective,
                "temperature": _number(None if start is None else start.temperature),
                "space": "" if merged is None else merged.space,
                "error": _number(card.merge_error), "same_as": begun.same_as, "digest": begun.digest,
                "note": card.notes if start is None else blend_note(start),
            }
        )  # fmt: skip
    return rows


def same_start_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for every two methods that begin from the same module, with the seeds."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["same_as"]:
            pairs.setdefault((row["method"], row["same_as"]), []).append(str(row["seed"]))
    return [
        f"{method} begins from the very same module as {other} in seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(seeds)}: it was tuned once, and its numbers are the same."
        for (method, other), seeds in pairs.items()
    ]


def size_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence if methods tune unequal numbers of parameters, as where each keeps its own rank and layers.

    >>> size_notes([{"method": "scratch", "parameters": 40}, {"method": "ensemble", "parameters": 90}])[0][:88]
    'The methods tune unequal numbers of parameters: 40 (scratch), 90 (ensemble). A differenc'
    """
    sizes: dict[int, dict[str, None]] = {}
    for row in rows:
        sizes.setdefault(row["parameters"], {})[row["method"]] = None
    if len(sizes) < 2:
        return []
    told = ", ".join(f"{size:,} ({', '.join(methods)})" for size, methods in sorted(sizes.items()))
    note = (
        f"The methods tune unequal numbers of parameters: {told}. A difference between them may be one of size. LoRA "
        "methods have one size unless ranks of their own are asked for (--own-ranks or equal_rank=False, or a method's "
        "rank); of other kinds, compare modules of one shape (--exclude, or Hub.where(exclude=…))."
    )
    return [note]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
