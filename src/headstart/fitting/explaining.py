"""Why a hub's modules were ranked as they were: parts, agreement, a map of tasks, and what single donors know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headstart.architectures import Part
from headstart.backbones import BackboneInput
from headstart.comparing.agreement import agreement, right_alone
from headstart.comparing.methods.contract import Pool
from headstart.embeddings import EmbedUnit
from headstart.embeddings.registry import usual_embedding
from headstart.evaluating.unit import EvaluateUnit
from headstart.indicators import make_indicator
from headstart.indicators.table import WHOLE, ScoreTable
from headstart.kinds import AnyModule
from headstart.ranking.scoring import Scoring
from headstart.tasks import Example, Task
from headstart.tuning.recipes import Recipe
from headstart.units import Content, Results, Unit
from headstart.units.canonical import digest_of

__all__ = ["Explained", "importance_of", "map_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explained:
    """The units behind the explanations of the best modules for a task; made by `plan`.

    `answering`: none on an encoder, where a module of the hub answers through the head of another task.
    """

    modules: Sequence[AnyModule]
    importance: Scoring
    answering: Mapping[str, EvaluateUnit]
    embedding: Mapping[str, EmbedUnit]

    @classmethod
    def plan(
        cls, task: Task, modules: Sequence[AnyModule], pool: Pool, *, recipe: Recipe, seed: int, shown: int, mapped: int
    ) -> "Explained":
        """What explains the first `shown` of `modules`, which are sorted, and maps the first `mapped`."""
        best, backbone = modules[:shown], pool.backbone
        importance = Scoring.plan(task, best, backbone, indicators=[make_indicator("grand")], recipe=recipe, seed=seed)
        rows = (*task.train, *task.dev)
        content = Content(rows, digest_of([task.fingerprint("train"), task.fingerprint("dev")]))
        identity = BackboneInput.of(backbone, recipe.text_format)
        answering = {
            module.name: EvaluateUnit(
                identity, module.load(), content, task.card.metric, "auto", recipe.text_format,
                name=f"{module.name} on the shots",
            )
            for module in (() if backbone.is_encoder else best)
        }  # fmt: skip
        return cls(
            best,
            importance,
            answering,
            {module.name: EmbedUnit(module, usual_embedding(module.kind)) for module in modules[:mapped]},
        )

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [*self.importance.all_units(), *self.answering.values(), *self.embedding.values()]

    def frames(self, found: Results, *, families: Mapping[str, str], weights: Mapping[str, float]) -> dict[str, Any]:
        """The frames "importance", "agreement", "map" and "donors" of a `FitRecord`; what failed is left out."""
        answered = {name: unit.evaluation(found.of(unit)) for name, unit in self.answering.items() if unit.key in found}
        rows: Sequence[Example] = next((each.examples for each in answered.values()), ())
        predictions = {name: each.predictions for name, each in answered.items()}
        vectors = {
            name: np.asarray(unit.vector(found.of(unit)).values, dtype=np.float64)
            for name, unit in self.embedding.items()
            if unit.key in found
        }
        where = map_of(vectors)
        nowhere = (np.nan, np.nan)
        return {
            "importance": importance_of(self.importance.table(found)),
            "agreement": agreement(predictions),
            "donors": right_alone(predictions, [row.outputs for row in rows], [row.input for row in rows]),
            "map": pd.DataFrame(
                [
                    {
                        "module": name,
                        "family": families.get(name, ""),
                        "x": x,
                        "y": y,
                        "weight": weights.get(name, np.nan),
                    }
                    for name, (x, y) in ((name, where.get(name, nowhere)) for name in vectors)
                ],
                columns=["module", "family", "x", "y", "weight"],
            ),
        }  # fmt: skip


def importance_of(table: ScoreTable) -> pd.DataFrame:
    """Modules by parts of the backbone: the columns of `FIT_FRAMES["importance"]`."""
    rows = []
    for row in table.rows.to_dict("records"):
        if row["part"] != WHOLE and not np.isnan(row["value"]):
            part = _part(str(row["part"]))
            rows.append(
                {"module": row["module"], "part": row["part"], "stack": part.stack or "",
                 "block": np.nan if part.block is None else float(part.block), "sublayer": part.sublayer or "",
                 "value": row["value"]}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["module", "part", "stack", "block", "sublayer", "value"])


def _part(name: str) -> Part:
    """The part that `part_name` spelled.

    >>> _part("decoder.3.attention")
    Part(stack='decoder', block=3, sublayer='attention')
    """
    words = name.split(".")
    block = next((int(word) for word in words if word.isdigit()), None)
    stack = words[0] if words[0] in ("encoder", "decoder") else None
    last = words[-1] if words[-1] in ("attention", "cross_attention", "feed_forward") else None
    return Part(stack, block, last)  # type: ignore[arg-type]


def map_of(vectors: Mapping[str, Floats]) -> dict[str, tuple[float, float]]:
    """Points in a plane whose distances are as near as possible to those of the vectors' directions.

    Classical scaling (Torgerson, 1952) of the vectors of length 1: the first two principal components. Vectors of
    other lengths than the commonest (modules of other shapes) cannot be compared, and are left out. Each axis points so
    that its largest coordinate is positive.
    """
    sizes = [len(vector) for vector in vectors.values()]
    usual = max(set(sizes), key=sizes.count, default=0)
    kept = {name: vector for name, vector in vectors.items() if len(vector) == usual and np.linalg.norm(vector) > 0}
    if len(kept) < 3:
        return {}
    units = np.stack([vector / np.linalg.norm(vector) for vector in kept.values()])
    left, sizes_of, _ = np.linalg.svd(units - units.mean(0), full_matrices=False)
    points = left[:, :2] * sizes_of[:2]
    points *= np.sign(points[np.abs(points).argmax(0), [0, 1]] + 1e-300)
    return {name: (float(x), float(y)) for name, (x, y) in zip(kept, points, strict=True)}
