"""What embeddings that need more than one kept state say of the study's targets: early, curve_gradient, 3e.

`python benchmarks/transfer_limited.py TASK … --limited FOLDER --backbone B --store STORE -o limited.parquet`

The sources are short modules of three kinds, `FOLDER/KIND/TASK`, that benchmarks/limited.sh tuned on the tasks of the
study's modules; for every draw of a target, a module of each kind is tuned in the same way. The table has the columns
of `benchmarks/transfer_tables.py predict`, and its `show` takes it beside that one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # scripts, which are not part of the package
from benchmarks.transfer import Protocol, write  # noqa: E402
from headstart.backbones import Backbone  # noqa: E402
from headstart.embeddings import embed, make_embedding  # noqa: E402
from headstart.kinds import Module, fresh_module, load_module  # noqa: E402
from headstart.tasks import Task  # noqa: E402
from headstart.tuning.recipes import RECIPES, Recipe  # noqa: E402
from headstart.tuning.tune import tune  # noqa: E402

CENTRED = ", centred"
"""How a method's name ends that subtracts the sources' mean first."""

LEARNING_RATES = {"lora": 1e-3, "ia3": 1e-2, "prefix": 1e-2}
"""By kind, as in benchmarks/limited.sh."""

METHODS = {
    "tupate (short)": ("tupate", "lora"),
    "tupate (short, ia3)": ("tupate", "ia3"),
    "tupate (short, prefix)": ("tupate", "prefix"),
    "gram (short)": ("gram", "lora"),
    "early": ("early", "lora"),
    "curve_gradient": ("curve_gradient", "lora"),
    "3e": ("3e", "lora"),
    f"tupate (short){CENTRED}": ("tupate", "lora"),
    f"early{CENTRED}": ("early", "lora"),
    f"3e{CENTRED}": ("3e", "lora"),
}
"""What the table calls them: the embedding, and the kind of the module that is embedded."""

Kinds = Mapping[str, Module]


def recipe_of(kind: str) -> Recipe:
    """The recipe of benchmarks/limited.sh."""
    return RECIPES["quick"].change(
        kind=kind, lr=LEARNING_RATES[kind], max_steps=64, eval_every=8, early_steps=6, max_input=128, select="loss",
        max_dev=32,
    )  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """One task's modules by kind, and the seconds that each took."""

    modules: Kinds
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, draw: Task, backbone: Backbone, *, kinds: Sequence[str], seed: int, own: bool, store: Path) -> "Tuned":
        """The modules of a draw of a target, begun as the sources were or, with `own`, from values of its own."""
        found = {}
        for kind in kinds:
            recipe = recipe_of(kind)
            # The sources began with seed 0, so that with seed 0 nothing has to be given.
            start = None if own or seed == 0 else fresh_module(kind, backbone, recipe.shape, name=draw.name, seed=0)
            found[kind] = tune(draw, backbone, recipe=recipe, start=start, seed=seed, calibration="none", store=store)
        return cls(
            {kind: each.module for kind, each in found.items()}, {kind: each.seconds for kind, each in found.items()}
        )

    @classmethod
    def read(cls, folder: Path, task: str, *, kinds: Sequence[str]) -> "Tuned":
        """Those that benchmarks/limited.sh tuned on a task."""
        return cls({kind: load_module(folder / kind / task) for kind in kinds}, {})

    def embedded(self, method: str) -> np.ndarray:
        """The embedding that a row of `METHODS` names."""
        embedding, kind = METHODS[method]
        others = [module for name, module in self.modules.items() if name != kind] if embedding == "3e" else []
        return embed(self.modules[kind], embedding, others=others, store=False).values

    def cost(self, method: str) -> float:
        """The seconds of tuning that its embedding needs."""
        embedding, kind = METHODS[method]
        return sum(self.seconds.values()) if embedding == "3e" else self.seconds[kind]


def similarities(target: Tuned, sources: Mapping[str, Tuned], method: str) -> pd.DataFrame:
    """A line per source."""
    vectors = np.stack([source.embedded(method) for source in sources.values()])
    mean = vectors.mean(0) * method.endswith(CENTRED)
    values = make_embedding(METHODS[method][0]).similarities(target.embedded(method) - mean, vectors - mean)
    return pd.DataFrame({"source": list(sources), "value": values}).assign(method=method, seconds=target.cost(method))


def main(words: Sequence[str] | None = None) -> None:
    asked = parsed(words)
    torch.set_num_threads(asked.threads)
    backbone, kinds = Backbone.load(asked.backbone, device="cpu", dtype="bfloat16"), asked.kinds.split(",")
    names = sorted(set.intersection(*({each.name for each in (asked.limited / kind).iterdir()} for kind in kinds)))
    sources = {name: Tuned.read(asked.limited, name, kinds=kinds) for name in names}
    methods = [
        name for name, (method, kind) in METHODS.items() if kind in kinds and (method != "3e" or len(kinds) == 3)
    ]
    found: list[pd.DataFrame] = []
    for folder in asked.tasks:
        task = Task.load(folder)
        for seed in range(int(asked.own_start), asked.seeds):  # seed 0 is that of the sources
            draw = Protocol(asked.shots, dev=asked.dev, rows=asked.rows).drawn(task, seed)
            target = Tuned.of(draw, backbone, kinds=kinds, seed=seed, own=asked.own_start, store=asked.store)
            found += [similarities(target, sources, name).assign(target=task.name, seed=seed) for name in methods]
        write(asked.output, pd.concat(found, ignore_index=True))
        print(f"{task.name}: {len(sources)} sources, {len(methods)} methods", file=sys.stderr, flush=True)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", type=Path)
    parser.add_argument("--limited", type=Path, required=True, help="folder of KIND/TASK")
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a Parquet file")
    parser.add_argument("--kinds", default=",".join(LEARNING_RATES), help="fewer leave 3e out")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own-start", action="store_true", help="begin each draw from random values of its own")
    for name in ("shots", "dev", "rows"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Protocol(), name), help="as in transfer.py")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
