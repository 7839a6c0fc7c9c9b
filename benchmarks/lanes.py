"""Tuning 8 modules in one pass against tuning them one by one: `python benchmarks/lanes.py`.

SmolLM2-135M, LoRA on `q_proj` and `v_proj`, batches of 8 rows of SST-2 with 32 to 64 tokens, AdamW, clipping; every
lane has its own seed and rows. Both sides make the same updates in turns, so that a change of the machine's speed
affects both; the ratio is the median over the turns. `max_abs_diff` is the largest difference, in float32, between
any parameter and that of the lane alone after some updates.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from benchmarks.machine import machine_kind, synchronized  # noqa: E402
from fetch import fetch_backbone, fetch_task  # noqa: E402
from headstart.backbones import Backbone, TextFormat  # noqa: E402
from headstart.tasks import Task  # noqa: E402
from headstart.tuning.lane import Lane  # noqa: E402
from headstart.tuning.pack import Pack  # noqa: E402
from headstart.tuning.recipes import RECIPES  # noqa: E402
from headstart.tuning.run import Run  # noqa: E402

SHORTEST, LONGEST = 32, 64
RECIPE = RECIPES["quick"].change(warmup_steps=0, targets=("q_proj", "v_proj"))


def task_of_like_lengths(backbone: Backbone, task: Task, *, rows: int) -> Task:
    """The first rows whose number of tokens, including the target, is within the bounds."""
    pairs = [(row.input, row.target) for row in task.train[: 40 * rows]]
    items = backbone.encode(pairs, TextFormat())
    fitting = [
        row
        for row, item in zip(task.train, items, strict=False)
        if SHORTEST <= len(item.prompt) + len(item.target) <= LONGEST
    ]
    return replace(task, splits={"train": tuple(fitting[:rows]), "dev": task.dev[:1]})


def runs_of(backbone: Backbone, task: Task, count: int) -> list[Run]:
    runs = [Run(Lane(task, recipe=RECIPE, seed=seed), backbone) for seed in range(count)]
    for run in runs:
        run.begin()
    return runs


def packs_of(runs: Sequence[Run], width: int, backbone: Backbone) -> list[Pack]:
    return [Pack(runs[start : start + width], backbone) for start in range(0, len(runs), width)]


def seconds_of_a_turn(packs: Sequence[Pack], device: torch.device) -> float:
    """The time of one update of every lane."""
    began = synchronized(device)
    for pack in packs:
        pack.find_gradients()
        pack.step()
    return synchronized(device) - began


def speed_ratios(backbone: Backbone, task: Task, *, lanes: int, turns: int) -> tuple[list[float], list[float]]:
    """For every turn: steps per second together divided by those one by one, and the seconds of the turn together."""
    sides = [packs_of(runs_of(backbone, task, lanes), width, backbone) for width in (lanes, 1)]
    ratios, seconds = [], []
    for turn in range(turns + 1):
        taken = [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            taken[side] = seconds_of_a_turn(sides[side], backbone.device)
        if turn:  # the first turn warms up
            ratios.append(taken[1] / taken[0])
            print(f"turn {turn}: {taken[0]:.2f} s together, {taken[1]:.2f} s one by one", file=sys.stderr)
            seconds.append(taken[0])
    return ratios, seconds


def difference(backbone: Backbone, task: Task, *, lanes: int, steps: int) -> float:
    """The largest difference of any parameter between lanes together and alone, after `steps` updates."""
    together, alone = (runs_of(backbone, task, lanes) for _ in range(2))
    for packs in (packs_of(together, lanes, backbone), packs_of(alone, 1, backbone)):
        for _ in range(steps):
            seconds_of_a_turn(packs, backbone.device)
    return max(
        float((one.values[key] - other.values[key]).abs().max())
        for one, other in zip(together, alone, strict=True)
        for key in one.values
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="updates before parameters are compared; 0 leaves it out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    source, whole = fetch_backbone(asked.cache), Task.load(fetch_task(asked.cache, "sst2"))
    backbone = Backbone.load(source, device=asked.device)
    task = task_of_like_lengths(backbone, whole, rows=256)
    ratios, seconds = speed_ratios(backbone, task, lanes=asked.lanes, turns=asked.turns)
    results = {
        f"ratio_{asked.lanes}": round(statistics.median(ratios), 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "max_abs_diff": None,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "steps_per_second": float(f"{asked.lanes / statistics.median(seconds):.3g}"),
        "rows": len(task.train),
    }
    if asked.steps:
        exact = Backbone.load(source, device=asked.device, dtype="float32")
        found = difference(exact, task, lanes=asked.lanes, steps=asked.steps)
        results |= {"max_abs_diff": float(f"{found:.3g}"), "max_abs_diff_after": asked.steps}
    if not asked.json:
        print(machine_kind())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
