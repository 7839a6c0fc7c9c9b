"""The average of modules that somebody picked, or their sum with weights that somebody chose."""

import difflib
from collections.abc import Sequence

from headstart.blending.blend import Blend
from headstart.blending.rules.contract import Candidate, Request, Rule, Weighed
from headstart.blending.weights import Weights, shared
from headstart.errors import MergeError, SettingError

__all__ = ["Manual"]


class Manual(Rule):
    """The same weight for every member, the named modules or those of the new task's family; or the stated weights."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    reads = frozenset({"members", "weights"})

    def check(self, blend: Blend, *, family: str = "") -> None:
        """As for every rule; besides, there must be members or a family."""
        super().check(blend, family=family)
        if not blend.members and not family:
            raise SettingError(
                "rule 'manual' has no members: the task states no family; name the members, "
                "or state a family on the task's card"
            )
        if blend.weights and len(blend.weights) != len(blend.members):
            raise SettingError(
                f"{len(blend.weights)} weights are given for {len(blend.members)} members; name the members, "
                "each with one weight"
            )

    def weigh(self, request: Request) -> Weighed:
        """1/n for the n members, or the weight stated for each."""
        candidates = request.candidates
        members = request.blend.members or _family(candidates, request.family)
        names = {candidate.name for candidate in candidates}
        missing = next((name for name in members if name not in names), None)
        if missing is not None:
            near = difflib.get_close_matches(missing, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "correct the name, or leave it out"
            raise MergeError(f"'{missing}' is no module that can take part; {hint}")
        if request.blend.weights:
            stated = dict(zip(members, request.blend.weights, strict=True))
            return Weighed(Weights(modules=tuple(stated.get(candidate.name, 0.0) for candidate in candidates)))
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
