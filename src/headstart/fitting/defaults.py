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
        all_raced: the largest hub whose modules all race. A race reads two or three rows with every module, which
            takes long with thousands; and the best of the lists that were measured had the best of 500 modules among
            its first 100 in 86 % of the trials, and among its first 50 in 69 % (docs/racing.md).
        retrieved: of a larger hub, so many modules take part.
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
    all_raced: int = 2000
    retrieved: int = 500
    shown: int = 6
    mapped: int = 200
    shown_rows: int = 10
    test_rows: int = 200


DEFAULTS = Defaults()
"""The defaults that `fit` and `headstart fit` have."""
