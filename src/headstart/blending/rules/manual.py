"""The average of a group that somebody picked."""

from collections.abc import Sequence

from headstart.blending.rules.contract import Candidate, Rule, RuleOptions
from headstart.blending.weights import shared
from headstart.errors import MergeError, SettingError

__all__ = ["Manual"]


class Manual(Rule):
    """The same weight for every module of a group: those named, or those whose family is the new task's."""

    name = "manual"
    source = "Lv et al., 2023, §3.1"
    needs_scores = False
    reads = frozenset({"group"})

    def check(self, options: RuleOptions) -> None:
        """As for every rule; there must be a group or a family."""
        super().check(options)
        if not options.group and not options.family:
            raise SettingError(
                "rule 'manual' has no group: the task states no family; name modules as the group, "
                "or state a family on the task's card"
            )

    def weights(self, candidates: Sequence[Candidate], options: RuleOptions) -> tuple[float, ...]:
        """1/n for the n modules of the group."""
        group = options.group or _family(candidates, options.family)
        names = {candidate.name for candidate in candidates}
        missing = next((name for name in group if name not in names), None)
        if missing is not None:
            raise MergeError(
                f"'{missing}' of the group is not among the modules that can take part; correct the name, "
                "or leave it out"
            )
        return shared([index for index, candidate in enumerate(candidates) if candidate.name in group], len(candidates))


def _family(candidates: Sequence[Candidate], family: str) -> tuple[str, ...]:
    group = tuple(candidate.name for candidate in candidates if candidate.merges and candidate.family == family)
    if not group:
        stated = sorted({candidate.family for candidate in candidates if candidate.merges} - {""})
        raise MergeError(
            f"no module is of the task's family '{family}' (their families: {', '.join(stated) or 'none stated'}); "
            "name modules as the group"
        )
    return group
