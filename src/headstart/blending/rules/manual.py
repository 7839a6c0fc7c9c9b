"""The average of modules that somebody picked."""

from collections.abc import Sequence

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Candidate, Request, Rule, Weighed
from headstart.blending.weights import Weights, shared
from headstart.errors import MergeError, SettingError

__all__ = ["Manual"]


class Manual(Rule):
    """The same weight for every member: the named modules, or those of the new task's family."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    reads = frozenset({"members"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, there must be members or a family."""
        super().check(blend, family=family)
        if not blend.members and not family:
            raise SettingError(
                "rule 'manual' has no members: the task states no family; name the members, "
                "or state a family on the task's card"
            )

    def weigh(self, request: Request) -> Weighed:
        """1/n for the n members."""
        candidates = request.candidates
        members = request.blend.members or _family(candidates, request.family)
        names = {candidate.name for candidate in candidates}
        missing = next((name for name in members if name not in names), None)
        if missing is not None:
            raise MergeError(f"'{missing}' is no module that can take part; correct the name, or leave it out")
        chosen = [index for index, candidate in enumerate(candidates) if candidate.name in members]
        return Weighed(Weights(modules=shared(chosen, len(candidates))))


def _family(candidates: Sequence[Candidate], family: str) -> tuple[str, ...]:
    members = tuple(candidate.name for candidate in candidates if candidate.merges and candidate.family == family)
    if not members:
        stated = sorted({candidate.family for candidate in candidates if candidate.merges} - {""})
        raise MergeError(
            f"no module is of the task's family '{family}' (their families: {', '.join(stated) or 'none stated'}); "
            "name the members"
        )
    return members
