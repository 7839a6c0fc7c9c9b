"""What `fit` does where nothing is said, in one place: a study may change it, and nothing else has to be changed."""

from dataclasses import dataclass, field

from headstart.blending import Blend
from headstart.ranking.race import BLENDED, Race

__all__ = ["DEFAULTS", "Defaults"]


@dataclass(frozen=True)
class Defaults:
    """The defaults of `fit`.

    Attributes:
        blend: how modules are weighed and merged into the start called "ensemble".
        starts: what the guard lets compete with scratch and the random module, as methods of `compare`.
        folds: into how many parts the shots are cut; every part is held out once.
        held_out: at most so many held-out rows are answered, over all folds.
        recipe: how every method is tuned, and what is saved.
        all_scored: the largest hub of which every module is scored on every row; the modules of a larger one race.
        race: how. A fifth of the tokens found the full pass's best module in 98.3 % of 600 races between 500 modules.
            Nothing is retrieved before the race: the best of the lists that were measured had that module among its
            first 100 in 75 % of the trials, and the cheapest in 3 % (docs/racing.md). A race reads two or three rows
            with every module, which is bearable up to some thousands.
        retrieve_by: the lists of `retrieve`, where that is asked for. They do not see how well a module answers, or the
            rows that the guard holds out would have a part in choosing the modules.
        shown: how many of the best modules are explained: their parts, and what they answer.
        mapped: how many of the best modules are on the map of tasks.
        shown_rows: how many predictions of the saved module are kept.
        test_rows: at most so many rows of the test split are answered.
    """

    blend: Blend = field(default_factory=Blend)
    starts: tuple[str, ...] = ("average", "best_single", "ensemble")
    folds: int = 4
    held_out: int = 256
    recipe: str = "quick"
    all_scored: int = 50
    race: Race = field(default_factory=lambda: Race(budget=0.2, winners=BLENDED))
    retrieve_by: tuple[str, ...] = ("arrow",)
    shown: int = 6
    mapped: int = 200
    shown_rows: int = 10
    test_rows: int = 200


DEFAULTS = Defaults()
"""The defaults that `fit` and `headstart fit` have."""
