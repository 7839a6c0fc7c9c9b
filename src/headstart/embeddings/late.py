"""The parameters with the best dev score."""

from headstart.embeddings.tupate import Tupate

__all__ = ["Late"]


class Late(Tupate):
    """`tupate` of the state with the best dev score: what a tuned module holds, so the same as `tupate`."""

    name = "late"
    source = "Zhou et al., 2022, §4.3"
