"""What a hub lacks for a task: its nearest family, and how relevant its best module is beside the bare backbone."""

import math

from headstart.ranking.rank import Ranking

__all__ = ["lacking"]


def lacking(ranking: Ranking, indicator: str | None, bare: float) -> str:
    """A sentence or two on the hub's best module by `indicator`, which the bare backbone has a value `bare` of.

    `bare` is NaN where it has none; `indicator` is `None` where nothing was scored.
    """
    if indicator is None or indicator not in ranking.scores.values:
        return "The modules were not scored; name an indicator to know which of them is nearest."
    values = ranking.scores.values[indicator]
    if all(map(math.isnan, values)):
        return f"No module of the hub has a value of {indicator} for this task."
    best = ranking.scores.best(indicator)
    module, value = ranking.modules[best], values[best]
    of = module.card.family or (f"the task {module.card.task}" if module.card.task else "")
    said = (
        f"By {indicator}, the nearest that the hub has is {module.name}{f' ({of})' if of else ''} with {_text(value)}"
    )
    if math.isnan(bare):
        return f"{said}."
    better = "no more than" if value <= bare else "beside"
    return f"{said}, {better} the {_text(bare)} of the bare backbone."


def _text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
