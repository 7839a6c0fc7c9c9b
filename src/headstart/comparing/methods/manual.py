"""The average of a group that somebody picked."""

from headstart.comparing.methods.contract import Blended

__all__ = ["Manual"]


class Manual(Blended):
    """The modules of `group` with the same weight; without a group, those of the task's family."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    rule = "manual"
