"""Merging as a unit of work: the same modules are merged with the same weights in the same space only once."""

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
    """One weighted sum of modules. Names, licences and the like, of the modules and of the sum, do not count.

    `backbone` is `None` if it does not matter, as in most spaces. Made by `of`.
    """

    type: ClassVar[str] = "merge"
    uncounted: ClassVar[frozenset[str]] = frozenset({"name"})

    plan: MergePlan
    backbone: BackboneInput | None
    name: str

    @classmethod
    def of(cls, plan: MergePlan, *, backbone: BackboneInput | None = None, name: str = "merged") -> Self:
        """The unit that computes the sum; the backbone counts only if changes are measured from its parameters."""
        return cls(plan, backbone if plan.needs_origin else None, name)

    @property
    def label(self) -> str:
        """How many modules are merged into which one."""
        count = len(self.plan.modules)
        return f"merging {count} module{'s' * (count > 1)} into {self.name}"

    def compute(self, context: Context) -> Result:
        """Compute the sum; its card, in the store, names the modules as they are called now."""
        summed = self.plan.summed(None if self.backbone is None else context.resource(RESOURCE))
        merged = self.plan.merged(summed, name=self.name)
        facts = {
            "space": merged.space, "weights": list(summed.weights), "effective": merged.effective,
            "error": merged.error,
        }  # fmt: skip
        return Result(facts, module=kept_module(merged.module, self, context), device="cpu")

    def merged(self, result: Result) -> Merged:
        """What `merge` would have returned, with the names and licences of this request's modules."""
        assert result.module is not None
        module = load_module(result.module)
        return self.plan.merged(Summed(module, tuple(result.facts["weights"]), result.facts["error"]), name=self.name)
