"""TIES in Core Space: trim, elect a sign, average what agrees, on the cores."""

from collections.abc import Sequence

from torch import Tensor

from headstart.blending.spaces.bases import Cores
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.core_space import Core
from headstart.blending.spaces.ties import agreed

__all__ = ["CoreTies"]


class CoreTies(Core):
    """As space "ties", on the numbers of the cores instead of those of A and B (Panariello et al., 2025)."""

    name = "core_ties"
    source = "Yadav et al., 2023, §4, in the space of Panariello et al., 2025"
    linear = False
    reads = frozenset({"rank", "density"})

    def combined(self, cores: Cores, shares: Sequence[float], options: Options) -> Tensor:
        """The mean over the cores whose sign was elected, number by number."""
        return agreed(lambda number: cores.parts[number].matrix(), shares, options.kept)
