"""The tables of a report, each computed from a comparison as a DataFrame; nothing here draws or lays out."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pydantic import BaseModel

from headstart.comparing.comparison import FRAMES, SCRATCH, STAGES, Comparison
from headstart.comparing.effects import effects, mean_scores
from headstart.comparing.samples import main_metric, seed_scores
from headstart.reports.intervals import Estimate, estimate

__all__ = [
    "chosen_indicator",
    "curve_table",
    "effective_modules",
    "flat_settings",
    "main_metric",
    "missing_table",
    "ranking_table",
    "seed_scores",
    "settings_table",
    "starts_table",
    "summary",
]


ENOUGH_TESTS = 4
"""How many states of a tuning have to be tested on the dev rows, the untuned one among them, to speak of a step."""


def chosen_indicator(comparison: Comparison) -> str | None:
    """The indicator that set the weights, or `None` if the ranking has no column for it."""
    name = comparison.settings.get("indicator")
    return str(name) if name in comparison.indicators else None


def summary(comparison: Comparison) -> pd.DataFrame:
    """One row per method.

    `zero_shot` and `tuned` (mean test score) and `zero_shot_gain` and `tuned_gain` (mean difference to scratch on the
    same seeds) have four columns each: the mean, `_interval` (half-width of the 95 % interval, over rows and, from 6
    seeds on, over seeds), `_seeds`, and `_reason` (why something is missing). `steps_to_scratch` is the first step at
    which the method's dev score is at least the best that scratch reaches on that seed: the median over seeds, where a
    seed that never gets there counts as later than any step. `steps_to_scratch_seeds` is how many seeds get there, of
    `curve_seeds`. Where scratch was tested fewer than `ENOUGH_TESTS` times on the dev rows, no step is named: nobody
    looked in between.
    """
    arrival = _arrival_steps(comparison)
    means, gains = mean_scores(comparison), effects(comparison)
    against = gains[gains["other"] == SCRATCH].rename(columns={"difference": "score"})
    rows = []
    for method in comparison.methods:
        row: dict[str, Any] = {"method": method}
        for stage in STAGES:
            name = stage.replace("-", "_")
            row |= _estimated(name, means, method, stage)
            row |= _estimated(f"{name}_gain", against, method, stage)
        rows.append(row | _steps_columns(arrival[arrival["method"] == method]))
    return pd.DataFrame(rows)


def ranking_table(comparison: Comparison) -> pd.DataFrame:
    """One row per module: task, family, license, mean weight, the mean of each indicator, and in how many seeds.

    Sorted by the chosen indicator, highest first (by weight if there is none), then by name; missing values last.
    """
    ranking = comparison.ranking
    numbers = ["weight", *comparison.indicators]
    facts = [column for column in FRAMES["ranking"] if column not in {"seed", "module", "weight"}]
    grouped = ranking.astype(dict.fromkeys(numbers, "float64")).groupby("module", sort=True)
    table = grouped[facts].first().join(grouped[numbers].mean()).join(grouped["seed"].nunique().rename("seeds"))
    by = chosen_indicator(comparison) or "weight"
    return table.reset_index().sort_values(by, ascending=False, kind="stable", ignore_index=True)


def starts_table(comparison: Comparison) -> pd.DataFrame:
    """What every method begins from, one row each, over the seeds.

    Columns: method; rank and parameters ("4", or "4 to 8" if seeds differ; rank is missing for kinds without one);
    modules, the mean effective number of a blend; space; error, the mean ΔW error; and same_as, the methods that begin
    from the very same module, with the number of seeds ("best_single (2 of 3 seeds)"). `tokens` and `backward` are the
    tokens read on the way to the tuned module and those that gradients go back through, means over seeds ("84,210").
    """
    starts, rows, means = comparison.starts, [], _mean_tokens(comparison)
    for method in dict.fromkeys([label for label in comparison.methods if label in set(starts["method"])]):
        own = starts[starts["method"] == method]
        same = own["same_as"][own["same_as"] != ""].value_counts()
        rows.append(
            {
                "method": method, "rank": _range(own["rank"]), "parameters": _range(own["parameters"]),
                "modules": own["effective"].astype("float64").mean(),
                "space": ", ".join(dict.fromkeys(filter(None, own["space"]))),
                "error": own["error"].astype("float64").mean(), **means.get(method, {}),
                "same_as": ", ".join(f"{other} ({count} of {len(own)} seeds)" for other, count in same.items()),
            }
        )  # fmt: skip
    columns = ["method", "rank", "parameters", "modules", "space", "error", "tokens", "backward", "same_as"]
    return pd.DataFrame(rows, columns=columns)


def _mean_tokens(comparison: Comparison) -> dict[str, dict[str, str]]:
    """By method, the tokens on the way to its tuned module; nothing where they are not known."""
    tuned = comparison.scores[comparison.scores["stage"] == "tuned"]
    means = tuned.groupby("method")[["forward_tokens", "backward_tokens"]].mean().dropna()
    return {
        str(method): {"tokens": f"{row['forward_tokens']:,.0f}", "backward": f"{row['backward_tokens']:,.0f}"}
        for method, row in means.iterrows()
    }


def missing_table(comparison: Comparison) -> pd.DataFrame:
    """The modules without a value of an indicator: columns indicator, module, reason, seeds."""
    grouped = comparison.missing.groupby(["indicator", "module", "reason"], sort=False)["seed"]
    return grouped.nunique().rename("seeds").reset_index()


def effective_modules(comparison: Comparison) -> pd.DataFrame:
    """1/Σw², the effective number of modules in the ranking's blend, by seed; NaN without weights.

    Columns: seed, effective.
    """
    squares = comparison.ranking.assign(square=comparison.ranking["weight"].astype("float64") ** 2)
    total = squares.groupby("seed")["square"].sum()
    return (1.0 / total.where(total > 0)).rename("effective").reset_index()


def curve_table(comparison: Comparison) -> pd.DataFrame:
    """Mean dev score and dev loss of each method at each evaluated step, with `_interval`, `_seeds` and `_reason`.

    `complete` says whether all of the method's seeds are in the row's dev score; if one stopped earlier, the mean is
    over fewer seeds and does not continue the line before it.
    """
    rows = []
    for method in comparison.methods:
        own = comparison.curves[comparison.curves["method"] == method]
        seeds = own["seed"].nunique()
        for step, here in own.groupby("step"):
            row: dict[str, Any] = {"method": method, "step": step}
            score, loss = (estimate(here[name].astype("float64").tolist()) for name in ("dev_score", "dev_loss"))
            row |= _columns("dev_score", score) | _columns("dev_loss", loss)
            rows.append(row | {"complete": score.seeds == seeds})
    columns = ["method", "step", *_names("dev_score"), *_names("dev_loss"), "complete"]
    return pd.DataFrame(rows, columns=columns)


def settings_table(comparison: Comparison) -> pd.DataFrame:
    """The settings as rows (setting, value); a nested setting is named with dots, a missing value is `None`."""
    return flat_settings(comparison.settings)


def flat_settings(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Settings as rows (setting, value); see `settings_table`."""
    rows = list(_flat("", settings))
    return pd.DataFrame({"setting": [name for name, _ in rows], "value": pd.Series([v for _, v in rows], dtype=object)})


def _range(values: "pd.Series[Any]") -> str | None:
    known = sorted(values.dropna().unique())
    if not known:
        return None
    return f"{known[0]:,.0f}" if len(known) == 1 else f"{known[0]:,.0f} to {known[-1]:,.0f}"


def _names(name: str) -> list[str]:
    return [name, f"{name}_interval", f"{name}_seeds", f"{name}_reason"]


def _columns(name: str, found: Estimate) -> dict[str, Any]:
    return dict(zip(_names(name), (found.mean, found.interval, found.seeds, found.reason), strict=True))


def _estimated(name: str, table: pd.DataFrame, method: str, stage: str) -> dict[str, Any]:
    """The columns of a mean that has been estimated, or of scratch against itself."""
    for row in table[(table["method"] == method) & (table["stage"] == stage)].to_dict("records"):
        half = (row["high"] - row["low"]) / 2
        return dict(zip(_names(name), (row["score"], half, row["seeds"], row["reason"]), strict=True))
    reason = f"{SCRATCH} is what the others are compared with" if method == SCRATCH else f"{SCRATCH} was not run"
    return dict(zip(_names(name), (math.nan, math.nan, 0, reason), strict=True))


def _arrival_steps(comparison: Comparison) -> pd.DataFrame:
    """Per (method, seed): the first step at which dev_score ≥ scratch's best of that seed; infinite if never.

    NaN on seeds on which scratch was tested too rarely.
    """
    curves = comparison.curves.astype({"dev_score": "float64"}).dropna(subset=["dev_score"])
    of_scratch = curves[curves["method"] == SCRATCH].groupby("seed")["dev_score"]
    goals, tests = of_scratch.max().to_dict(), of_scratch.size().to_dict()
    rows = []
    for (method, seed), own in curves.groupby(["method", "seed"]):
        if seed in goals:
            there = own.loc[own["dev_score"] >= goals[seed], "step"]
            first = float(there.min()) if len(there) else math.inf
            rows.append({"method": method, "seed": seed, "step": first if tests[seed] >= ENOUGH_TESTS else math.nan})
    return pd.DataFrame(rows, columns=["method", "seed", "step"])


def _steps_columns(arrival: pd.DataFrame) -> dict[str, Any]:
    seen, arrival = len(arrival), arrival.dropna(subset=["step"])
    reached = int((arrival["step"] < math.inf).sum())
    median = float(arrival["step"].median()) if len(arrival) else math.nan
    reason = ""
    if seen and not len(arrival):
        reason = f"scratch was tested fewer than {ENOUGH_TESTS} times while it was tuned, too rarely to name a step"
    elif not len(arrival):
        reason = "no learning curve on a seed for which scratch has one"
    elif median == math.inf:
        median, reason = math.nan, f"{reached or 'none'} of {len(arrival)} seeds got there"
    return {
        "steps_to_scratch": median,
        "steps_to_scratch_seeds": reached,
        "curve_seeds": len(arrival),
        "steps_to_scratch_reason": reason,
    }


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    elif prefix:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
