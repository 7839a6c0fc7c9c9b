"""The best module alone."""

from collections.abc import Mapping

from headstart.blending import Blend
from headstart.comparing.methods.contract import Blended

__all__ = ["BestSingle"]


class BestSingle(Blended):
    """The module with the highest score, as it is."""

    name = "best_single"
    source = "Lv et al., 2023, appendix D"
    rule = "best_single"

    def blend(self, base: Blend, changes: Mapping[str, str]) -> Blend | None:
        """One module alone is itself in the space of raw parameters, whatever the others are merged in."""
        return super().blend(base.change(space="parameters", rank=None, density=None), changes)
