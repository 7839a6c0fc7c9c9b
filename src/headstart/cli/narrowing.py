"""The options of commands that score a hub: how it is narrowed down before every row is read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import Options
from headstart.errors import SettingError

if TYPE_CHECKING:
    from headstart.ranking.rank import Ranking

__all__ = ["NarrowingOptions", "spent_note"]

OF = {"retrieve_by": "retrieve", "join": "retrieve", "confidence": "race", "budget": "race", "winners": "race"}
"""Which option each of the others is about."""


@dataclass(frozen=True)
class NarrowingOptions(Options):
    """Which modules are retrieved, and whether they race."""

    retrieve: Annotated[
        int | None,
        typer.Option(help="Score only the first N modules by cheap lists; default: all."),
    ] = None
    retrieve_by: Annotated[
        list[str] | None,
        typer.Option(
            "--retrieve-by",
            help="Indicator that makes such a list; repeatable; default: similarity:embedding=gram for LoRA, else "
            "tupate, for which a reference module is tuned; or arrow, for a task without a train split.",
        ),
    ] = None
    join: Annotated[
        str | None, typer.Option(help="How ranks in several lists are joined: mean_rank (the default) or best_rank.")
    ] = None
    race: Annotated[
        bool, typer.Option("--race", help="Read the rows in growing rounds; modules that cannot win leave.")
    ] = False
    confidence: Annotated[
        float | None,
        typer.Option(help="Of --race: how sure it must be that the winner is the best, or tied; default 0.95."),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            help="Of --race: at most this share of what reading all rows with all racing modules takes, such as 0.2, "
            "however unsure that is."
        ),
    ] = None
    winners: Annotated[
        int | None,
        typer.Option(
            help="Of --race: how many of the best modules are wanted; several read all rows; default 1, and 16 for "
            "a blend."
        ),
    ] = None

    def chosen(self, *, winners: int = 1) -> dict[str, Any]:
        """`retrieve` and `race`, as the library takes them; `winners`, if the user says nothing.

        Raises `SettingError` for an option without its own.
        """
        from headstart.ranking.race import Race  # here: SciPy takes half a second
        from headstart.ranking.retrieve import Retrieval

        for name, needed in OF.items():
            if getattr(self, name) not in (None, []) and not getattr(self, needed):
                spelled = name.replace("_", "-")
                value = " N" if needed == "retrieve" else ""
                raise SettingError(f"--{spelled} is about --{needed}; add --{needed}{value}, or leave out --{spelled}")
        lists = {"by": tuple(self.retrieve_by or ()), "join": self.join}
        wanted = winners if self.winners is None else self.winners
        ways = {"confidence": self.confidence, "budget": self.budget, "winners": wanted}
        return {
            "retrieve": None if self.retrieve is None else Retrieval(self.retrieve, **_given(lists)),
            "race": Race(**_given(ways)) if self.race else False,
        }


def spent_note(ranking: "Ranking") -> str:
    """One line: how many tokens the backbone read, beside those of the full pass."""
    assert ranking.tokens is not None
    spent = ranking.tokens
    if not spent.full:
        return f"The backbone reads {spent.computed:,} tokens for this."
    return (
        f"The backbone reads {spent.computed:,} tokens for this, {spent.share:.1%} of the {spent.full:,} "
        "of the full pass."
    )


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
