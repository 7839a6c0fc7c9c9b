"""Which indicator finds the start that is truly best: `python benchmarks/transfer_tables.py predict|show …`.

`predict` scores the modules of a hub for each target by every indicator, on the draws that `benchmarks/transfer.py`
tuned on, with the seconds that it took; `show` holds the scores against the measured transfer and prints Markdown.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # scripts, which are not part of the package
from benchmarks.transfer import BASELINES, BLEND, Protocol, module_folders, write  # noqa: E402
from headstart.backbones import Backbone, backbone_loaders  # noqa: E402
from headstart.embeddings import embed, make_embedding  # noqa: E402
from headstart.errors import HeadstartError, SettingError  # noqa: E402
from headstart.events import Event, UnitEvent  # noqa: E402
from headstart.kinds import Module, load_module  # noqa: E402
from headstart.ranking.evaluation import RankingEvaluation, evaluate_ranking  # noqa: E402
from headstart.ranking.rank import rank  # noqa: E402
from headstart.ranking.scoring import reference_unit  # noqa: E402
from headstart.tasks import Task  # noqa: E402
from headstart.units import Store, run  # noqa: E402

INDICATORS = (
    "loss", "cosine", "el2n", "entropy", "kl", "option_accuracy", "grand", "hidden_cosine", "knn", "h_score", "logme",
    "arrow", "spectral", "weight_cosine", "tupate", "similarity:centre=true", "similarity:embedding=flat",
    "similarity:embedding=flat,centre=true", "similarity:embedding=canonical",
    "similarity:embedding=canonical,centre=true",
)  # fmt: skip
"""All but those that tune every module, `euclidean` and `performance`, which cost as much as the answer."""
OF_ROWS = ("data_size", "textemb", "taskemb")
"""Embeddings of rows or cards: what no hub has of its modules' tasks, but this study does."""
READINGS = {
    "score": ("score", 1.0, "points of the task's metric"),
    "loss": ("loss", -1.0, "nats per target token"),
    "choice": ("choice_loss", -1.0, "nats per row, of the right option among the options"),
}
"""What a start can be worth: the column, its direction, and its unit."""


class Seconds:
    """Adds up how long the units of one ranking took, whenever they were computed."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, UnitEvent) and event.state in ("computed", "reused"):
            self.total += event.seconds or 0.0


@dataclass(frozen=True, eq=False)
class Predicting:
    """The modules of a hub, scored for draws of targets; `own`: where the rows of the modules' own tasks lie."""

    modules: Sequence[Module]
    backbone: Backbone
    protocol: Protocol
    store: Store
    own: Path | None

    def scores(self, task: Task, *, method: str, seed: int) -> pd.DataFrame:
        """A method's scores for one draw of a target; where it has none, NaN."""
        others = [module for module in self.modules if module.card.task != task.name]
        draw, clock = self.protocol.drawn(task, seed), Seconds()
        of = self._of_rows if method in OF_ROWS else self._ranked
        values = of(draw, others, method, seed=seed, clock=clock)
        return pd.DataFrame({"source": [module.name for module in others], "value": values}).assign(
            target=task.name, seed=seed, method=method, seconds=clock.total
        )

    def _ranked(self, draw: Task, modules: Sequence[Module], method: str, *, seed: int, clock: Seconds) -> list[float]:
        """By an indicator."""
        ranking = rank(
            draw, modules, self.backbone, indicators=(method,), recipe=self.protocol.recipe, seed=seed,
            store=self.store, progress=clock,
        )  # fmt: skip
        scores = next(iter(ranking.scores.values.values()))
        by = dict(zip((module.name for module in ranking.modules), scores, strict=True))
        return [by.get(module.name, math.nan) for module in modules]

    def _of_rows(self, draw: Task, modules: Sequence[Module], method: str, *, seed: int, clock: Seconds) -> list[float]:
        """By the similarity of an embedding of rows, or of a card, between the draw and the modules' own tasks."""
        if self.own is None:
            raise SettingError(f"{method} reads the modules' own tasks; give --own FOLDER")
        tuning = reference_unit(draw, self.backbone, like=modules, recipe=self.protocol.recipe, seed=seed)
        found = run([tuning], store=self.store, loaders=backbone_loaders(self.backbone), listener=clock)
        given: dict[str, Any] = {"backbone": self.backbone, "store": self.store, "progress": clock}
        query = embed(tuning.tuned(found.of(tuning)).module, method, task=draw, **given)
        vectors = [embed(one, method, task=Task.load(self.own / one.card.task), **given) for one in modules]
        stacked = np.stack([vector.values for vector in vectors])
        return [float(value) for value in make_embedding(method).similarities(query.values, stacked)]


def predict(asked: argparse.Namespace) -> None:
    """Score every target's draws by every method, and write the table after each target; a method may fail."""
    predicting = Predicting(
        [load_module(folder) for folder in module_folders(asked.hub)],
        Backbone.load(asked.backbone, device="cpu", dtype=asked.dtype),
        Protocol(asked.shots, asked.steps, asked.dev, asked.rows, asked.max_input),
        Store(asked.store),
        asked.own,
    )
    found: list[pd.DataFrame] = []
    for folder in asked.tasks:
        task = Task.load(folder)
        for method in [*asked.indicators.split(";"), *(OF_ROWS if asked.own else ())]:
            for seed in range(asked.seeds):
                try:
                    found.append(predicting.scores(task, method=method, seed=seed))
                except HeadstartError as error:
                    print(f"no {method} for {task.name}: {error}", file=sys.stderr, flush=True)
                    break
        if found:
            write(asked.output, pd.concat(found, ignore_index=True))
        print(f"{task.name}: done", file=sys.stderr, flush=True)


def measured(table: pd.DataFrame, column: str, *, calibration: str, step: int | None = None) -> pd.DataFrame:
    """One column of the table: a row per target and seed, a column per source; `step` as in `gains`."""
    kept = table[
        (table["calibration"] == calibration) & (table["step"] == (table["step"].max() if step is None else step))
    ]
    return kept.pivot_table(index=["target", "seed"], columns="source", values=column, sort=False)


def gains(table: pd.DataFrame, *, reading: str, calibration: str, step: int | None = None) -> pd.DataFrame:
    """What every source gives a target over scratch, mean over seeds; rows targets. `step`: 0 before the tuning.

    A target whose value is missing, such as the choice loss of open answers, is left out.
    """
    column, sign, _ = READINGS[reading]
    wide = measured(table, column, calibration=calibration, step=step)
    over = sign * wide.sub(wide["scratch"], axis=0)
    return over.groupby(level="target", sort=False).mean().dropna(how="all")


def joined(scores: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The mean over several methods of a module's rank by each, 1 the best, as the scores of one more method.

    Ranks, because the values of different methods have no unit in common.
    """
    means = scores[scores["method"].isin(methods)].groupby(["method", "target", "source"], sort=False)["value"].mean()
    ranks = means.groupby(level=["method", "target"], sort=False).rank(pct=True)
    mean = ranks.groupby(level=["target", "source"], sort=False).mean().rename("value").reset_index()
    return mean.assign(method=" + ".join(methods), seed=0, seconds=math.nan)


def evaluated(table: pd.DataFrame, scores: pd.DataFrame, *, reading: str, calibration: str) -> RankingEvaluation:
    """Every indicator against the gains of the tuned modules, and what a module gives before any tuning as another."""
    whole = gains(table, reading=reading, calibration=calibration)
    true = whole[[name for name in map(str, whole) if not _no_module(name)]]
    shared = [name for name in true.index if name in set(scores["target"])]
    true = true.loc[shared, [name for name in true if name in set(scores["source"])]].dropna(how="all")
    means = scores.groupby(["method", "target", "source"], sort=False)["value"].mean()
    tables = {
        str(method): means[method].unstack().reindex(index=true.index, columns=true.columns)
        for method in scores["method"].unique()
    }
    before = gains(table, reading=reading, calibration=calibration, step=0)
    tables["untuned test (oracle)"] = before.reindex(index=true.index, columns=true.columns)
    return evaluate_ranking(tables, true)


def show(asked: argparse.Namespace) -> None:
    """Print the tables of docs/transfer.md."""
    table = pd.read_parquet(asked.table)
    scores = pd.concat([pd.read_parquet(path) for path in asked.predicted], ignore_index=True)
    if asked.targets:
        table, scores = (each[each["target"].isin(asked.targets.split(","))] for each in (table, scores))
    if asked.draws is not None:
        scores = scores[scores["seed"] < asked.draws]
    scores = pd.concat([scores, *(joined(scores, each.split("+")) for each in asked.join)], ignore_index=True)
    seconds = scores.drop_duplicates(["method", "target", "seed"]).groupby("method")["seconds"].mean()
    print(f"{table['target'].nunique()} targets, {table['source'].nunique()} starts; {table['protocol'].iloc[0]}.\n")
    for reading in asked.readings.split(","):
        for calibration in ("none", "auto"):
            print(f"### {READINGS[reading][2]}, calibration {calibration}\n")
            print(markdown(evaluated(table, scores, reading=reading, calibration=calibration), seconds), "\n")
            whole = gains(table, reading=reading, calibration=calibration)
            print(worth(whole), "\n")
            print(matrix(whole), "\n")
            print(overall(whole, over=asked.over), "\n")


def markdown(found: RankingEvaluation, seconds: pd.Series) -> str:
    """A line per ranker: ρ, NDCG with its interval, regret in the reading's unit, Spearman, seconds per target."""
    bounds = {(row["ranker"], row["measure"]): row for row in found.table().to_dict("records")}
    lines = [
        "| ranked by | ρ | NDCG (95 %) | regret@1 | regret@3 | Spearman | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(found.rankers, key=lambda name: -found.mean("ndcg")[name]):
        rho, ndcg, one, three, spearman = (
            bounds[name, measure]["mean"] for measure in ("rho", "ndcg", "regret@1", "regret@3", "spearman")
        )
        low, high = (100 * bounds[name, "ndcg"][side] for side in ("low", "high"))
        cost = f"{seconds[name]:.1f}" if name in seconds else "–"
        lines.append(
            f"| {name} | {rho:.2f} | {100 * ndcg:.1f} ({low:.1f}–{high:.1f}) | {one:.3f} | {three:.3f} | "
            f"{spearman:.2f} | {cost} |"
        )
    return "\n".join(lines)


def worth(whole: pd.DataFrame) -> str:
    """A line per target: what the best module, the mean module, and the baselines give over scratch."""
    beside = [name for name in map(str, whole) if _no_module(name)]
    modules = whole.drop(columns=beside)
    others = [name for name in beside if name != "scratch"]
    lines = [
        f"| target | best module | its gain | mean module | {' | '.join([*others, 'modules above scratch'])} |",
        f"|---|---|{'---:|' * (3 + len(others))}",
    ]
    for target, row in whole.iterrows():
        own = modules.loc[str(target)].dropna()
        cells = [f"{own.max():.3f}", f"{own.mean():.3f}", *(f"{row[name]:.3f}" for name in others)]
        lines.append(f"| {target} | {own.idxmax()} | {' | '.join(cells)} | {int(np.sum(own > 0))} of {len(own)} |")
    return "\n".join(lines)


def _no_module(name: str) -> bool:
    return name in BASELINES or name.startswith(BLEND)


def overall(whole: pd.DataFrame, *, over: str = "scratch") -> str:
    """The mean gain over another start of all that were tuned on every target, with Student's interval over targets.

    Gains are paired by target; one of less than a billionth is rounding, and none.
    """
    lines = [f"| start | mean gain (95 % over targets) | targets above {over} |", "|---|---:|---:|"]
    paired = whole.sub(whole[over], axis=0).round(9)
    for source, own in paired.drop(columns=["scratch", over], errors="ignore").dropna(axis=1).items():
        lines.append(f"| {source} | {_interval(own)} | {int((own > 0).sum())} of {len(own)} |")
    return "\n".join(lines)


def _interval(own: pd.Series) -> str:
    """The mean over targets with a value, with Student's interval."""
    own = own.dropna()
    half = float(stdtrit(len(own) - 1, 0.975)) * own.std() / math.sqrt(len(own))
    return f"{own.mean():.3f} ({own.mean() - half:.3f} to {own.mean() + half:.3f})"


def pairs(asked: argparse.Namespace) -> None:
    """Print what modules give in one table more than those of the same names in another."""
    first, second = (pd.read_parquet(path) for path in (asked.first, asked.second))
    for reading in READINGS:
        print(f"### {READINGS[reading][2]}, calibration auto\n")
        before, after = (gains(each, reading=reading, calibration="auto") for each in (first, second))
        print(differences(before, after), "\n")
        column = READINGS[reading][0]
        one, other = (measured(each, column, calibration="auto")["scratch"] for each in (first, second))
        moved = (other - one).dropna()
        print(f"scratch itself, {column}: {moved.mean():+.3f} from table to table, {moved.std():.3f} a single draw\n")


def differences(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """A line per source in both: its gain over scratch before and after, and the difference; then the mean source.

    Gains are paired by target, and each is over the scratch of its own table. What one lacks is left out of both.
    """
    sources = [name for name in map(str, after) if name in before and not _no_module(name)]
    targets = [name for name in after.index if name in before.index]
    lines = [
        "| start | gain before | after | difference (95 % over targets) | targets above |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, kept in [*((source, [source]) for source in sources), ("mean", sources)]:
        both = before.loc[targets, kept].notna() & after.loc[targets, kept].notna()
        old, new = (each.loc[targets, kept].where(both).mean(axis=1).dropna() for each in (before, after))
        more = (new - old).round(9)
        cells = [f"{old.mean():.3f}", f"{new.mean():.3f}", _interval(more), f"{int((more > 0).sum())} of {len(more)}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def matrix(whole: pd.DataFrame) -> str:
    """A line per source, the best mean over targets first: its gain over scratch on each target, and the mean."""
    means = whole.mean().drop("scratch").sort_values(ascending=False)
    lines = [f"| start | {' | '.join(map(str, whole.index))} | mean |", f"|---|{'---:|' * (len(whole) + 1)}"]
    for source, mean in means.items():
        cells = ["–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−") for value in whole[source]]
        lines.append(f"| {source} | {' | '.join(cells)} | {mean:+.3f} |".replace("-0.", "−0."))
    return "\n".join(lines)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    usual = Protocol()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    making = verbs.add_parser("predict", help="score modules by every indicator")
    making.set_defaults(run=predict)
    making.add_argument("tasks", nargs="+", type=Path)
    making.add_argument("--hub", nargs="+", type=Path, required=True)
    making.add_argument("--backbone", type=Path, required=True)
    making.add_argument("-o", "--output", type=Path, required=True, help="a Parquet file")
    making.add_argument("--store", type=Path, required=True)
    making.add_argument("--indicators", default=";".join(INDICATORS), help="specs, separated by semicolons")
    making.add_argument("--own", type=Path, help="folder of the modules' own tasks, for the embeddings of rows")
    making.add_argument("--seeds", type=int, default=1)
    making.add_argument("--threads", type=int, default=2)
    making.add_argument("--dtype", default="bfloat16")
    for name in ("shots", "steps", "dev", "rows", "max_input"):
        making.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(usual, name))
    showing = verbs.add_parser("show", help="print the tables")
    showing.set_defaults(run=show)
    showing.add_argument("table", type=Path, help="what benchmarks/transfer.py wrote")
    showing.add_argument("predicted", nargs="+", type=Path, help="what predict, or transfer_limited.py, wrote")
    showing.add_argument("--join", nargs="*", default=[], help="methods whose ranks are averaged, as loss+logme")
    showing.add_argument("--targets", help="only these, separated by commas")
    showing.add_argument("--draws", type=int, help="only the scores of the first so many draws of a target")
    showing.add_argument("--readings", default="score,choice")
    showing.add_argument("--over", default="scratch", help="which start the mean gains are over (scratch)")
    pairing = verbs.add_parser("pairs", help="compare what modules of the same names give in two tables")
    pairing.set_defaults(run=pairs)
    pairing.add_argument("first", type=Path, help="what benchmarks/transfer.py wrote")
    pairing.add_argument("second", type=Path, help="the same of other modules of these names")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    asked = parsed(words)
    if getattr(asked, "threads", None):
        torch.set_num_threads(asked.threads)
    asked.run(asked)


if __name__ == "__main__":
    main()
