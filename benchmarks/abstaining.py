"""How often the guard uses a start from hubs that hold much and from hubs that hold little, on real tasks.

    python benchmarks/abstaining.py TASK … --hub all=HUB --hub unlike=FOLDER,FOLDER --backbone B --store S -o table

For every target, seed and hub: a few-shot draw, the guard of `fit` with its default starts, and its verdict, tuned as
in `benchmarks/transfer.py`, which measures what each start is truly worth. What is in the store is not computed again;
the table is written anew, whole, after every verdict. A hub called "noise" has random numbers in place of its modules'
own, tensor by tensor of the same norm: it holds nothing, so that every start used from it is one too many.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # scripts, which are not part of the package
from benchmarks.transfer import Protocol, Teller, module_folders, write  # noqa: E402
from headstart.backbones import Backbone  # noqa: E402
from headstart.fitting.guard import guard  # noqa: E402
from headstart.fitting.verdict import Verdict  # noqa: E402
from headstart.kinds import Module, load_module  # noqa: E402
from headstart.tasks import Task  # noqa: E402

NOISE = "noise"


def noise(module: Module, seed: int) -> Module:
    """Random numbers in place of the module's own, tensor by tensor of the same norm."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, value in module.load().parameters().items():
        drawn = torch.randn(value.shape, generator=generator)
        made[name] = (drawn * (value.float().norm() / drawn.norm())).to(value.dtype)
    return module.with_parameters(made)


def row(verdict: Verdict, **named: Any) -> dict[str, Any]:
    """One line of the table."""
    losses = {f"loss_{method}": loss for method, loss in verdict.table.set_index("method")["loss"].items()}
    return named | losses | {
        "choice": verdict.choice, "method": verdict.method, "leader": verdict.leader, "gain": verdict.gain,
        "low": verdict.low, "high": verdict.high, "held_out": verdict.rows, "sentence": verdict.sentence,
    }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For every target and hub: in how many draws a start was used, and the mean gain of the start that led."""
    used = table.assign(used=table["choice"] == "use").groupby(["target", "hub"], sort=False)
    return used.agg(draws=("used", "size"), used=("used", "sum"), gain=("gain", "mean")).reset_index()


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    usual = Protocol()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", type=Path, help="target tasks' folders or files")
    parser.add_argument("--hub", action="append", required=True, metavar="NAME=FOLDER,…", help="repeatable")
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="where results of units are kept")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a Parquet file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them, to go on where a table ended")
    parser.add_argument("--shots", type=int, default=usual.shots, help="rows per class of train and of dev")
    parser.add_argument("--steps", type=int, default=usual.steps, help="updates of 8 rows")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Guard every target, seed and hub, and print the summary."""
    asked = parsed(words)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    backbone = Backbone.load(asked.backbone, device="cpu", dtype=asked.dtype)
    hubs = {
        name: [load_module(each) for each in module_folders(Path(folder) for folder in folders.split(","))]
        for name, _, folders in (one.partition("=") for one in asked.hub)
    }
    if NOISE in hubs:
        hubs[NOISE] = [noise(module, seed) for seed, module in enumerate(hubs[NOISE])]
    rows: list[dict[str, Any]] = []
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        for folder in asked.tasks:
            task = Task.load(folder)
            for name, modules in hubs.items():
                began = time.monotonic()
                others = [module for module in modules if module.card.task != task.name]
                verdict = guard(
                    task.few_shot(k=asked.shots, seed=seed), others, backbone,
                    recipe=Protocol(steps=asked.steps).recipe, seed=seed, store=asked.store, progress=Teller(),
                )  # fmt: skip
                rows.append(row(verdict, target=task.name, hub=name, seed=seed, modules=len(others)))
                write(asked.output, pd.DataFrame(rows))
                took = f"{time.monotonic() - began:6.0f} s"
                print(f"{took}  {task.name}, {name}, seed {seed}: {verdict.sentence}", flush=True)
    print(summary(pd.DataFrame(rows)).to_string(index=False))


if __name__ == "__main__":
    main()
