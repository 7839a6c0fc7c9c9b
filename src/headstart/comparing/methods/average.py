"""The plain average."""

from headstart.comparing.methods.contract import Blended

__all__ = ["Average"]


class Average(Blended):
    """All modules with the same weight."""

    name = "average"
    source = "Lv et al., 2023, §3.1"
    rule = "uniform"
