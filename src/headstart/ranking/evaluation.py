"""How good rankings of sources are against their measured transfer, beside what needs no insight at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import ndcg_score

from headstart.errors import SettingError
from headstart.showing import html_table, line, plural
from headstart.statistics.resampling import DRAWS, row_weights

__all__ = ["BASELINES", "RankingEvaluation", "evaluate_ranking", "popularity"]

BASELINES = ("random", "popularity")
"""Rankers that every evaluation has beside those that were given."""
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankingEvaluation:
    """What rankings were worth.

    `by_target`: a row per ranker and target with the number of `sources` and the measures: `rho`, the rank of the truly
    best source; `ndcg`, from 0 to 1; `regret@k`, what the best of the first k lacks to the truly best, in the unit of
    the transfer; `regret@k share`, the same as a share of the truly best (NaN unless that is positive); `spearman`.
    `idle`: targets where no source gains anything, whose NDCG is 1 in any order.
    """

    by_target: pd.DataFrame
    idle: tuple[str, ...]
    draws: int = field(default=DRAWS, repr=False)
    seed: int = field(default=0, repr=False)

    def __repr__(self) -> str:
        return line(type(self).__name__, f"{plural(len(self.rankers), 'ranker')} on {self._targets}")

    def _repr_html_(self) -> str:
        return html_table(self.table(), title=f"Rankings on {self._targets}")

    @property
    def _targets(self) -> str:
        return plural(self.by_target["target"].nunique(), "target")

    @property
    def rankers(self) -> tuple[str, ...]:
        """Their names, the given ones first."""
        return tuple(self.by_target["ranker"].unique())

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(self.by_target.columns[3:])

    def table(self) -> pd.DataFrame:
        """A row per ranker and measure: mean over targets, and the bounds `low` and `high` of its 95 % interval.

        Targets are drawn again with replacement, the same ones for every ranker. A target without a value does not
        count; the interval is NaN for fewer than two targets with one.
        """
        rows = []
        for measure in self.measures:
            values = self._values(measure)
            rows += [
                {"ranker": ranker, "measure": measure, **self._interval(values[ranker].to_numpy())}
                for ranker in self.rankers
            ]
        return pd.DataFrame(rows)

    def mean(self, measure: str) -> pd.Series:
        """The mean over targets of one measure, by ranker."""
        return self.by_target.groupby("ranker", sort=False)[measure].mean()

    def difference(self, one: str, other: str, *, measure: str = "ndcg") -> dict[str, float]:
        """Mean over targets of the measure of `one` less that of `other`, with `low` and `high` as in `table`.

        Raises `SettingError` for an unknown ranker or measure.
        """
        for name, known in ((one, self.rankers), (other, self.rankers), (measure, self.measures)):
            if name not in known:
                raise SettingError(f"'{name}' was not evaluated; choose one of: {', '.join(known)}")
        values = self._values(measure)
        return self._interval((values[one] - values[other]).to_numpy())

    def _values(self, measure: str) -> pd.DataFrame:
        return self.by_target.pivot_table(index="target", columns="ranker", values=measure, dropna=False, sort=False)

    def _interval(self, values: Floats) -> dict[str, float]:
        known = values[~np.isnan(values)]
        if len(known) < 2:
            mean = float(known[0]) if len(known) else np.nan
            return {"mean": mean, "low": np.nan, "high": np.nan}
        drawn = row_weights(np.arange(len(known)), draws=self.draws, seed=self.seed)
        means = np.concatenate([weights @ known for weights in drawn]) / len(known)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return {"mean": float(known.mean()), "low": float(low), "high": float(high)}


def evaluate_ranking(
    predicted: pd.DataFrame | Mapping[str, pd.DataFrame],
    gains: pd.DataFrame,
    *,
    baseline: pd.Series | float = 0.0,
    known: Mapping[str, pd.Series] | None = None,
    families: Mapping[str, str] | None = None,
    ks: Sequence[int] = (1, 3),
    draws: int = DRAWS,
    seed: int = 0,
) -> RankingEvaluation:
    """Measure predicted rankings of sources against their true transfer, averaged over targets.

    ρ is the predicted rank of the truly best source, 1 at best (Zhou et al., 2022, §4.1): sources with equal
    predictions share their average rank, and of several truly best sources the one ranked first counts. NDCG takes
    gains, that is transfer above the baseline, with discount 1/log2(rank + 1); a negative gain counts as 0, because no
    gain can be lost by ranking it low; where no source gains, every order is ideal and NDCG is 1. Equal predictions
    count with the mean over their orders, in NDCG and regret alike.

    Args:
        predicted: scores, rows targets and columns sources, higher is better; or several such tables by name. A source
            without a score (NaN) is ranked behind all others.
        gains: the true transfer in the same layout, higher is better; NaN where a source is no candidate, such as the
            target's own module.
        baseline: what is taken off the transfer to have the gain: a number, or one by target, such as the score from
            scratch; 0 if `gains` are gains already.
        known: further rankers that order the sources alike for every target, by name: one number by source, such as the
            rows that it was tuned on, or its score on its own task.
        families: by target and source, its family: only sources of the target's own family are candidates then, and
            targets without any are left out, as are those without a family (""). `None`: all sources are candidates.
        ks: for which k regret is measured.
        draws: how often targets are drawn for the intervals.
        seed: of these draws.

    Returns:
        The given rankers, those of `known`, "random" (the expected value over all orders) and "popularity", which
        reads the sources' measured transfer to the other targets, those of other families too.

    Raises:
        SettingError: a table lacks a target or source, a target has no candidates, within families no target has any, a
            k is below 1, or a ranking is called as one that every evaluation has.

    >>> gains = pd.DataFrame({"a": [0.2, 0.0], "b": [0.1, 0.3]}, index=["x", "y"])
    >>> found = evaluate_ranking(pd.DataFrame({"a": [1.0, 1.0], "b": [0.0, 0.0]}, index=["x", "y"]), gains)
    >>> found.mean("rho").to_dict()
    {'predicted': 1.5, 'random': 1.5, 'popularity': 2.0}
    """
    tables = {"predicted": predicted} if isinstance(predicted, pd.DataFrame) else dict(predicted)
    above = gains.sub(baseline, axis=0) if isinstance(baseline, pd.Series) else gains - baseline
    others = popularity(above)
    if families is not None:
        gains = _within(gains, families)
        above = above.loc[gains.index].where(gains.notna())
    _check_request([*tables, *(known or {})], ks)
    for name, values in (known or {}).items():
        tables[name] = pd.DataFrame([values] * len(gains), index=gains.index)
    tables["random"] = pd.DataFrame(0.0, index=gains.index, columns=gains.columns)
    tables["popularity"] = others
    wanted = [np.asarray(each, dtype=np.float64) for each in (gains, above)]
    rows = []
    for name, scores in tables.items():
        lines = zip(gains.index, _aligned(scores, gains, name).to_numpy(dtype=np.float64), *wanted, strict=True)
        for target, guess, true, gain in lines:
            rows.append({"ranker": name, "target": target, **_measured(guess, true, gain, ks=ks, target=str(target))})
    idle = tuple(str(target) for target, gain in zip(gains.index, wanted[1], strict=True) if not (gain > 0).any())
    return RankingEvaluation(pd.DataFrame(rows), idle, draws, seed)


def popularity(gains: pd.DataFrame) -> pd.DataFrame:
    """Each source's mean gain on the other targets, in the layout of `gains`; NaN where it has none.

    >>> popularity(pd.DataFrame({"a": [1.0, 2.0, 6.0]}, index=["x", "y", "z"]))["a"].tolist()
    [4.0, 3.5, 1.5]
    """
    counts = gains.notna().sum() - gains.notna()
    found: pd.DataFrame = (gains.sum() - gains.fillna(0.0)) / counts.where(counts > 0)
    return found


def _within(gains: pd.DataFrame, families: Mapping[str, str]) -> pd.DataFrame:
    """The transfer of sources to targets of their family, for targets that have such sources."""
    lacking = [str(name) for name in (*gains.index, *gains.columns) if name not in families]
    if lacking:
        raise SettingError(f"families has no '{lacking[0]}'; add it, with \"\" for what has no family")
    of_target, of_source = ([families[name] for name in names] for names in (gains.index, gains.columns))
    same = [[family == other != "" for other in of_source] for family in of_target]
    kept = gains.where(np.array(same)).dropna(how="all")
    if kept.empty:
        raise SettingError("no target has a source of its own family; rank across all, without families")
    return kept


def _check_request(names: Sequence[str], ks: Sequence[int]) -> None:
    for name in names:
        if name in BASELINES:
            raise SettingError(f"every evaluation has a ranking '{name}' of its own; give yours another name")
    for k in ks:
        if k < 1:
            raise SettingError(f"regret cannot be measured for k={k}; give 1 or more")


def _aligned(scores: pd.DataFrame, gains: pd.DataFrame, name: str) -> pd.DataFrame:
    for what, wanted, given in (("target", gains.index, scores.index), ("source", gains.columns, scores.columns)):
        lacking = [str(each) for each in wanted if each not in given]
        if lacking:
            raise SettingError(
                f"the ranking '{name}' has no {what} '{lacking[0]}'; add it, with NaN for what has no score"
            )
    return scores.reindex(index=gains.index, columns=gains.columns)


def _measured(guess: Floats, true: Floats, gain: Floats, *, ks: Sequence[int], target: str) -> dict[str, float]:
    """The measures of one ranking of one target."""
    there = ~np.isnan(true)
    if not there.any():
        raise SettingError(f"target '{target}' has no source with a measured transfer; leave it out")
    guess, true, gain = guess[there], true[there], gain[there]
    order = rankdata(np.where(np.isnan(guess), -np.inf, guess), method="dense").astype(np.float64)  # and finite
    best = float(true.max())
    regrets = {f"regret@{k}": best - _best_of_first(order, true, k) for k in ks}
    shares = {f"{name} share": value / best if best > 0 else np.nan for name, value in regrets.items()}
    return {
        "sources": len(true),
        "rho": float(rankdata(-order)[true == best].min()),
        "ndcg": _ndcg(order, gain),
        **regrets,
        **shares,
        "spearman": _spearman(order, true),
    }


def _ndcg(order: Floats, gains: Floats) -> float:
    kept = np.maximum(gains, 0.0)
    if len(kept) == 1 or not kept.any():  # scikit-learn refuses the one and gives 0 for the other
        return 1.0
    return float(ndcg_score(kept[None], order[None]))


def _best_of_first(order: Floats, true: Floats, k: int) -> float:
    """The expected best transfer among the first k, over all orders of equal predictions."""
    k = min(k, len(order))
    last = np.sort(order)[-k]
    sure = true[order > last]
    tied = np.sort(true[order == last])[::-1]
    free, least = k - len(sure), sure.max(initial=-np.inf)
    # The j-th best of the tied is the best of `free` drawn ones if the other draws come from those behind it.
    chances = [comb(len(tied) - 1 - j, free - 1) / comb(len(tied), free) for j in range(len(tied))]
    return float(np.dot(chances, np.maximum(tied, least)))


def _spearman(order: Floats, true: Floats) -> float:
    """Spearman's correlation; 0, its expected value, for a ranking that orders nothing; NaN if all transfer equally."""
    if len(true) < 2 or (true == true[0]).all():
        return np.nan
    if (order == order[0]).all():
        return 0.0
    return float(spearmanr(order, true).statistic)
