"""From scratch."""

from headstart.blending import Blend
from headstart.comparing.methods.contract import Begun, Draw, Method

__all__ = ["Scratch"]


class Scratch(Method):
    """An untuned module, drawn anew for every seed as its kind initializes one; see `Pool.shape`."""

    name = "scratch"
    source = "Lv et al., 2023, §3.1"

    def begin(self, draw: Draw, blend: Blend | None) -> Begun:
        """See the class."""
        del blend
        return Begun(draw.pool.shape.untuned(draw.pool.backbone, seed=draw.seed))
