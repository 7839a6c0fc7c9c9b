"""The average of modules that somebody picked."""

from headstart.comparing.methods.contract import Blended

__all__ = ["Manual"]


class Manual(Blended):
    """The modules in `members` with the same weight; if there are none, those of the task's family."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    rule = "manual"
