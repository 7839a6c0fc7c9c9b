"""The average of a group that somebody picked."""

from collections.abc import Sequence

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Candidate, Request, Rule, Weighed
from headstart.blending.weights import Weights, shared
from headstart.errors import MergeError, SettingError

__all__ = ["Manual"]


class Manual(Rule):
    """The same weight for every module of a group: the named modules, or those of the new task's family."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    reads = frozenset({"group"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, there must be a group or a family."""
        super().check(blend, family=family)
        if not blend.group and not family:
            raise SettingError(
                "rule 'manual' has no group: the task states no family; name modules as the group, "
                "or state a family on the task's card"
            )

    def weigh(self, request: Request) -> Weighed:
        """1/n for the n modules of the group."""
        candidates = request.candidates
        group = request.blend.group or _family(candidates, request.family)
        names = {candidate.name for candidate in candidates}
        missing = next((name for name in group if name not in names), None)
        if missing is not None:
            raise MergeError(
                f"'{missing}' of the group is not among the modules that can take part; correct the name, "
                "or leave it out"
            )
        chosen = [index for index, candidate in enumerate(candidates) if candidate.name in group]
        return Weighed(Weights(modules=shared(chosen, len(candidates))))


def _family(candidates: Sequence[Candidate], family: str) -> tuple[str, ...]:
    group = tuple(candidate.name for candidate in candidates if candidate.merges and candidate.family == family)
    if not group:
        stated = sorted({candidate.family for candidate in candidates if candidate.merges} - {""})
        raise MergeError(
            f"no module is of the task's family '{family}' (their families: {', '.join(stated) or 'none stated'}); "
            "name modules as the group"
        )
    return group
