"""The race against the full pass, on a hub of hundreds: `python benchmarks/racing.py TASK …`.

A hub of 528 modules is grown on the spot from the demo's 16: perturbed and interpolated ones, always the same, and the
16 of benchmarks/seeds, tuned on the same tasks with another seed. Every module is scored once on a pool of each task's
dev rows; the values are kept in a store, so that a run that was stopped goes on. A trial then draws 500 of the modules
and 30 of the rows, and replays the race on those values, with the code that runs a race: what it decides depends on
nothing else (`tests/test_racing.py` compares the two).
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from headstart.backbones import Backbone, TextFormat, backbone_loaders
from headstart.backbones.load import tokens_of
from headstart.hub import Hub
from headstart.indicators.engine import chosen_indicators
from headstart.indicators.table import ScoreTable
from headstart.kinds import Module
from headstart.ranking.race import Race, run_race
from headstart.ranking.rank import load_modules
from headstart.ranking.retrieve import joined
from headstart.ranking.rounds import by_example, reading_order
from headstart.ranking.scoring import Scoring, scoring_examples
from headstart.tasks import Example, Task
from headstart.tasks.example import seeded_order
from headstart.tuning.recipes import RECIPES
from headstart.units import Store, run

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from fetch import fetch_backbone, fetch_task  # noqa: E402

INDICATORS = ("loss", "cosine", "el2n")
LISTS = ("arrow", "spectral")
SIZES = (0.03, 0.1, 0.3, 1.0)
"""Standard deviations of the noise in a perturbed module, relative to the root mean square of each of its tensors."""
PERTURBED, BETWEEN = 4, 2
"""How many modules are perturbed from each donor at each size, and interpolated between each pair of donors."""
LAYOUT = TextFormat(max_input=64, max_target=16)
TOGETHER = 32
"""Modules that are scored before anything is stored."""
DRAWN = 500
"""Modules of a trial."""


@dataclass(frozen=True)
class Way:
    """A way to rank: how many modules are retrieved, by which list, and how they race."""

    name: str
    race: Race
    retrieve: int | None = None
    by: str = "arrow"


WAYS = (
    Way("--race --budget 0.2", Race(budget=0.2)),
    Way("--race --budget 0.1", Race(budget=0.1)),
    Way("--race", Race()),
    Way("--race --budget 0.2 --winners 16", Race(budget=0.2, winners=16)),
    Way("--retrieve 50 --race", Race(), 50),
    Way("--retrieve 250 --race --budget 0.4", Race(budget=0.4), 250),
    Way("--retrieve 250 --retrieve-by spectral --race --budget 0.4", Race(budget=0.4), 250, "spectral"),
)
"""The first was chosen on another task than those that are reported, health_fact."""


def grown(donors: Sequence[Module], added: Sequence[Module] = ()) -> Iterator[Module]:
    """The donors, perturbed ones, ones between two of them, and those that are added; the same ones every time."""
    yield from donors
    for place, donor in enumerate(donors):
        for step, size in enumerate(SIZES):
            for number in range(PERTURBED):
                generator = torch.Generator().manual_seed(1000 * place + 10 * step + number)
                noisy = {
                    key: value + size * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)
                    for key, value in donor.parameters().items()
                }
                yield renamed(donor.with_parameters(noisy), f"{donor.name}~{size}.{number}")
    draw = random.Random(0)
    for place, left in enumerate(donors):
        for right in donors[place + 1 :]:
            for number in range(BETWEEN):
                share = round(draw.uniform(0.1, 0.9), 2)
                others = right.parameters()
                mixed = {key: (1 - share) * value + share * others[key] for key, value in left.parameters().items()}
                yield renamed(left.with_parameters(mixed), f"{left.name}+{right.name}.{number}")
    for module in added:
        yield renamed(module, f"{module.name}, another seed")


def renamed(module: Module, name: str) -> Module:
    return replace(module, card=module.card.model_copy(update={"name": name}))


@dataclass(frozen=True)
class Pool:
    """What is known of a task: its rows, their tokens, and by indicator the values of the modules (modules, rows)."""

    task: str
    rows: Sequence[Example]
    lengths: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]


def scored(task: Task, modules: Sequence[Module], backbone: Backbone, *, rows: int, store: Path) -> Pool:
    """Every module on a pool of the task's dev rows; what is in the store is not computed again."""
    examples = scoring_examples(task, rows=rows)
    lists, scores = [
        ScoreTable.concat(
            table(task, modules[first : first + size], backbone, indicators=names, examples=examples, store=store)
            for first in range(0, len(modules), size)
        )
        for names, size in ((LISTS, len(modules)), (INDICATORS, TOGETHER))
    ]
    lengths = [tokens_of([example], backbone, LAYOUT) for example in examples]
    values = {name: by_example(found, name) for found in (lists, scores) for name in found.indicators}
    return Pool(task.name, examples, np.array(lengths), values)


def table(
    task: Task,
    modules: Sequence[Module],
    backbone: Backbone,
    *,
    indicators: Sequence[str],
    examples: Sequence[Example],
    store: Path,
) -> ScoreTable:
    scoring = Scoring.plan(
        task, modules, backbone, indicators=chosen_indicators(indicators), recipe=RECIPES["few-shot"],
        text_format=LAYOUT, seed=0, examples=examples,
    )  # fmt: skip
    with Store.opened(store) as kept:
        found = run(scoring.all_units(), store=kept, loaders=backbone_loaders(backbone))
    print(
        f"{task.name}: {modules[0].name} … {modules[-1].name} by {', '.join(indicators)}", file=sys.stderr, flush=True
    )
    return scoring.table(found)


def trial(pool: Pool, way: Way, indicator: str, *, rows: int, seed: int) -> dict[str, Any]:
    """One race on a draw of modules and rows, beside the full pass over the same."""
    modules = np.random.default_rng(seed).permutation(len(pool.values[indicator]))[:DRAWN]
    drawn = seeded_order(pool.rows, purpose="racing", seed=seed)[:rows]
    order = np.array(drawn)[reading_order([pool.rows[index] for index in drawn], seed=seed)]
    lengths, values = pool.lengths[order], pool.values[indicator][np.ix_(modules, order)]
    there, base = np.arange(len(modules)), 0
    if way.retrieve is not None:
        hints = pool.values[way.by][np.ix_(modules, order)].mean(axis=1)
        there, base = np.array(sorted(joined({way.by: hints.tolist()})[: way.retrieve])), int(lengths.sum())
    racing = values[there]
    raced = run_race(
        lambda places, read: racing[places, read], modules=len(there), rows=rows, race=way.race, costs=lengths
    )
    assert raced.best is not None
    means = values.mean(axis=1)
    best, winner = int(means.argmax()), int(there[raced.best])
    error = values[best].std(ddof=1) / np.sqrt(rows)
    held = np.setdiff1d(np.arange(len(pool.rows)), drawn)
    loss = -pool.values["loss"][np.ix_(modules, held)].mean(axis=1)
    return {
        "task": pool.task, "indicator": indicator, "way": way.name, "seed": seed, "same": winner == best,
        "tied": means[winner] >= means[best] - way.race.tie * error, "retrieved": best in there,
        "errors_below": (means[best] - means[winner]) / error, "regret": loss[winner] - loss[best],
        "best_4": len({*means.argsort()[-4:]} & {*there[list(raced.winners)]}) / 4,
        "tokens": base + sum(int(lengths[:read].sum()) for read in raced.rows),
        "full": len(modules) * int(lengths.sum()),
    }  # fmt: skip


def summary(trials: pd.DataFrame) -> dict[str, Any]:
    """What the trials of one way say."""
    differ = trials[~trials["same"]]
    return {
        "trials": len(trials),
        "same_top1_rate": round(float(trials["same"].mean()), 3),
        "same_or_tied_rate": round(float((trials["same"] | trials["tied"]).mean()), 3),
        "of_best_4": round(float(trials["best_4"].mean()), 3),
        "token_share": round(float((trials["tokens"] / trials["full"]).mean()), 4),
        "most_token_share": round(float((trials["tokens"] / trials["full"]).max()), 4),
        "best_retrieved_rate": round(float(trials["retrieved"].mean()), 3),
        "mean_regret": round(float(trials["regret"].mean()), 4),
        "regret_where_it_differs": round(float(differ["regret"].mean()), 4) if len(differ) else None,
        "worst_regret": round(float(trials["regret"].max()), 4),
    }


def report(trials: pd.DataFrame) -> dict[str, Any]:
    """The first way over all tasks and indicators, then every way by task and indicator."""
    parts = trials.groupby(["way", "task", "indicator"], sort=False)
    return {
        "way": WAYS[0].name,
        **summary(trials[trials["way"] == WAYS[0].name]),
        "tasks": sorted(set(trials["task"])),
        "by_way": {str(way): summary(found) for way, found in trials.groupby("way", sort=False)},
        "by_task": [dict(zip(("way", "task", "indicator"), key, strict=True)) | summary(part) for key, part in parts],
    }


def options(description: str) -> argparse.Namespace:
    """The options of a benchmark on the grown hub."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tasks", nargs="*", type=Path, help="tasks to find modules for (sst2)")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="where fetched data lies (.cache)")
    parser.add_argument("--hub", type=Path, default=ROOT / "demo" / "hub", help="the donors (demo/hub)")
    parser.add_argument(
        "--others", type=Path, default=ROOT / "benchmarks" / "seeds",
        help="modules of other seeds, which the hub holds as they are (benchmarks/seeds)",
    )  # fmt: skip
    parser.add_argument("--store", type=Path, help="keeps the values of the full pass (a temporary folder)")
    parser.add_argument("--pool", type=int, default=40, help="dev rows of the full pass")
    parser.add_argument("--rows", type=int, default=30, help="rows of a trial")
    parser.add_argument("--trials", type=int, default=100, help="of each task, indicator and way")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser.parse_args()


def prepared(asked: argparse.Namespace) -> tuple[Backbone, list[Module], list[Module], list[Task]]:
    """The backbone, the donors, all modules of the grown hub and the tasks that are asked for."""
    backbone = Backbone.load(fetch_backbone(asked.cache), device=asked.device)
    donors = [each.load() for each in load_modules(Hub.open(asked.hub), backbone)[0]]
    others = [each.load() for each in load_modules(Hub.open(asked.others), backbone)[0]]
    tasks = [Task.load(path) for path in asked.tasks or [fetch_task(asked.cache, "sst2")]]
    return backbone, donors, list(grown(donors, others)), tasks


def main() -> None:
    asked = options("Race a hub of 528 modules, and compare with the full pass.")
    backbone, _, modules, tasks = prepared(asked)
    with tempfile.TemporaryDirectory(prefix="racing-") as folder:
        store = asked.store or Path(folder)
        pools = [scored(task, modules, backbone, rows=asked.pool, store=store) for task in tasks]
    trials = pd.DataFrame(
        trial(pool, way, indicator, rows=asked.rows, seed=seed)
        for pool in pools
        for way in WAYS
        for indicator in INDICATORS
        for seed in range(asked.trials)
    )
    found = {"modules": len(modules)} | report(trials)
    if not asked.json:
        print(pd.DataFrame(found["by_task"]).to_string(index=False))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
