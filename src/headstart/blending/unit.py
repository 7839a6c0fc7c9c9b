"""Merging as a unit of work: equal modules, weights and space are merged once."""

from dataclasses import dataclass
from typing import ClassVar, Self

from headstart.backbones import BackboneInput
from headstart.backbones.source import RESOURCE
from headstart.blending.merging import Merged, MergePlan, Summed
from headstart.kinds import load_module
from headstart.kinds.unit import kept_module
from headstart.units import Context, Result, Unit

__all__ = ["MergeUnit"]


@dataclass(frozen=True, eq=False)
class MergeUnit(Unit):
    """One weighted sum of modules. What modules and sum are called, licensed and so on does not count.

    `backbone` is `None` where it does not matter, which is in most spaces. Made by `of`.
    """

    type: ClassVar[str] = "merge"
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})

    plan: MergePlan
    backbone: BackboneInput | None
    name: str

    @classmethod
    def of(cls, plan: MergePlan, *, backbone: BackboneInput | None = None, name: str = "merged") -> Self:
        """The unit that takes the sum; of the backbone only where changes are measured from it."""
        return cls(plan, backbone if plan.needs_origin else None, name)

    @property
    def label(self) -> str:
        """How many are merged into what."""
        count = len(self.plan.modules)
        return f"merging {count} module{'s' * (count > 1)} into {self.name}"

    def compute(self, context: Context) -> Result:
        """Take the sum; its card, in the store, names the modules as they are called now."""
        summed = self.plan.summed(None if self.backbone is None else context.resource(RESOURCE))
        merged = self.plan.merged(summed, name=self.name)
        facts = {
            "space": merged.space, "weights": list(summed.weights), "effective": merged.effective,
            "error": merged.error,
        }  # fmt: skip
        return Result(facts, module=kept_module(merged.module, self, context), device="cpu")

    def merged(self, result: Result) -> Merged:
        """What `merge` would have returned, with the names and licences of this request."""
        assert result.module is not None
        module = load_module(result.module)
        return self.plan.merged(Summed(module, tuple(result.facts["weights"]), result.facts["error"]), name=self.name)
