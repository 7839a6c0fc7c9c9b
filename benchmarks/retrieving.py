"""What a cheap list keeps of a hub of hundreds, before any race: `python benchmarks/retrieving.py TASK …`.

The hub, the pools of rows and the draws are those of `racing.py`; each list is made of all modules, by one indicator or
by several whose ranks are joined. A reference module is tuned once on each task, for the lists that compare with it.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from headstart.backbones import Backbone, backbone_loaders
from headstart.indicators.similarity import Similarity
from headstart.kinds import Module
from headstart.ranking.race import Race
from headstart.ranking.rank import reference_unit
from headstart.ranking.retrieve import joined
from headstart.tasks import Task
from headstart.tasks.example import seeded_order
from headstart.tuning.recipes import RECIPES
from headstart.units import Store, run

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from benchmarks.racing import DRAWN, INDICATORS, LAYOUT, LISTS, Pool, options, prepared, scored  # noqa: E402

KEPT = (50, 100, 250)
EMBEDDINGS = ("tupate", "flat", "canonical", "gram")
"""`pooled` averages over virtual tokens, which LoRA modules do not have."""
RECIPE = RECIPES["quick"].change(
    max_input=LAYOUT.max_input, max_target=LAYOUT.max_target, max_dev=32, eval_every=24, patience=2
)
"""Of the reference module: as `fit` tunes, on inputs as long as those that are scored."""
JOINED = {
    "arrow + tupate": ("arrow", "tupate"),
    "arrow + tupate, centred": ("arrow", "tupate, centred"),
    "arrow + canonical, centred": ("arrow", "canonical, centred"),
    "tupate, flat, canonical, all centred": ("tupate, centred", "flat, centred", "canonical, centred"),
    "arrow + spectral": ("arrow", "spectral"),
    "tupate + gram": ("tupate", "gram"),
    "arrow + gram": ("arrow", "gram"),
}


def compared(task: Task, modules: Sequence[Module], backbone: Backbone, store: Path) -> dict[str, NDArray[np.float64]]:
    """By list, the similarity of every module with the reference module, (modules,)."""
    unit = reference_unit(task, backbone, like=modules, recipe=RECIPE, seed=0)
    with Store.opened(store) as kept:
        reference = unit.tuned(run([unit], store=kept, loaders=backbone_loaders(backbone)).of(unit)).module
    print(f"{task.name}: a reference module is tuned", file=sys.stderr, flush=True)
    found = {}
    for embedding in EMBEDDINGS:
        for centre in (False, True):
            values = Similarity(embedding, centre).from_modules(modules, reference)
            found[f"{embedding}, centred" if centre else embedding] = np.array(
                [value if isinstance(value, float) else np.nan for value in values]
            )
        print(f"{task.name}: modules by {embedding}", file=sys.stderr, flush=True)
    return found


def trials(pool: Pool, beside: dict[str, NDArray[np.float64]], *, rows: int, count: int) -> pd.DataFrame:
    """Of every draw and list, whether the best by the full pass, or one within a tie, is among the first."""
    found = []
    for seed in range(count):
        modules = np.random.default_rng(seed).permutation(len(pool.values["loss"]))[:DRAWN]
        drawn = np.array(seeded_order(pool.rows, purpose="racing", seed=seed)[:rows])
        hints = {name: pool.values[name][np.ix_(modules, drawn)].mean(axis=1).tolist() for name in LISTS}
        hints |= {name: values[modules].tolist() for name, values in beside.items()}
        orders = {name: joined({name: values}) for name, values in hints.items()}
        orders |= {name: joined({each: hints[each] for each in parts}) for name, parts in JOINED.items()}
        for indicator in INDICATORS:
            values = pool.values[indicator][np.ix_(modules, drawn)]
            means = values.mean(axis=1)
            best = int(means.argmax())
            tie = Race().tie * values[best].std(ddof=1) / np.sqrt(rows)
            near = set(np.flatnonzero(means >= means[best] - tie).tolist())
            for name, order in orders.items():
                row = {"task": pool.task, "indicator": indicator, "list": name, "seed": seed}
                row |= {f"best@{kept}": best in order[:kept] for kept in KEPT}
                row |= {f"tied@{kept}": bool(near & set(order[:kept])) for kept in KEPT}
                found.append(row)
    return pd.DataFrame(found)


def correlations(pool: Pool, beside: dict[str, NDArray[np.float64]], donors: int) -> list[dict[str, Any]]:
    """Spearman's rho of each list with each indicator, of the donors alone and of all modules."""
    lists = {name: pool.values[name].mean(axis=1) for name in LISTS} | beside
    lists |= {
        name: -np.mean([stats.rankdata(-lists[each]) for each in parts], axis=0) for name, parts in JOINED.items()
    }
    means = {one: pool.values[one].mean(axis=1) for one in INDICATORS}
    return [
        {"task": pool.task, "list": name, "of": of}
        | {one: round(float(stats.spearmanr(own[:end], values[:end])[0]), 3) for one, values in means.items()}
        for name, own in lists.items()
        for of, end in (("donors", donors), ("all", len(own)))
    ]  # fmt: skip


def main() -> None:
    asked = options("What cheap lists keep of a hub of 528 modules.")
    backbone, donors, modules, tasks = prepared(asked)
    frames, rho = [], []
    with tempfile.TemporaryDirectory(prefix="retrieving-") as folder:
        store = asked.store or Path(folder)
        for task in tasks:
            beside = compared(task, modules, backbone, store)
            pool = scored(task, modules, backbone, rows=asked.pool, store=store)
            frames.append(trials(pool, beside, rows=asked.rows, count=asked.trials))
            rho += correlations(pool, beside, len(donors))
    every = pd.concat(frames)
    shown = [name for name in map(str, every) if name.startswith(("best@", "tied@"))]
    shares = every.groupby(["list", "task"], sort=False)[shown].mean().round(3).reset_index()
    together = every.groupby("list", sort=False)[shown].mean().round(3).reset_index()
    if asked.json:
        print(json.dumps({"trials": len(every) // every["list"].nunique(), "lists": together.to_dict("records"),
                          "by_task": shares.to_dict("records"), "spearman": rho}))  # fmt: skip
        return
    for frame in (together, shares, pd.DataFrame(rho)):
        print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
