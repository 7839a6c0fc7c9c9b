"""What each module of a hub is worth as a start: `python benchmarks/transfer.py TASK … --hub HUB -o table.parquet`.

For every target task and seed, a few-shot draw is tuned from every module of the hub, from scratch, from a random
module of the hub's norms and from the plain average, and all are tested before and after. Each test is read twice: with
the likelihoods of options as they are, and calibrated. What is in the store is not computed again, so that a run that
was killed, or whose hub has grown, goes on; the table is written anew, whole, after every target.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.special import log_softmax

from headstart.backbones import Backbone, BackboneInput, backbone_loaders
from headstart.blending import Blend
from headstart.comparing.methods.contract import Begun, Draw, Method, Pool
from headstart.comparing.methods.parse import Compared, parse_methods
from headstart.comparing.starting import Beginning, at_equal_rank, begin_all, common_rank
from headstart.comparing.trials import rank_draws
from headstart.errors import HeadstartError, SettingError
from headstart.evaluating.calibration import calibrate
from headstart.evaluating.choice import CalibrationChoice
from headstart.evaluating.evaluation import Evaluation
from headstart.evaluating.unit import EvaluateUnit
from headstart.events import Event, Note, Progress
from headstart.kinds import Module, load_module
from headstart.tasks import Task
from headstart.tuning.recipes import RECIPES, Recipe
from headstart.tuning.tune import text_format_of
from headstart.tuning.unit import TuneUnit
from headstart.units import Content, Results, Store, Unit, run

BASELINES = ("scratch", "random", "average")
BLEND = "blend_"
"""How the names of blends begin in the table, so that they are told from modules."""
KEY = ["target", "source", "seed", "step", "calibration"]
"""What names a row of the table; a row that is measured again takes the place of the older one."""


@dataclass(frozen=True)
class Protocol:
    """What is done to every start; numbers of different protocols are not comparable, so a table holds only one.

    `shots`: rows per class, four times as many without classes. `dev`: rows of the dev draw that are read, to choose
    between the start and the tuned state by their loss and to choose a calibration. `rows`: test rows.
    """

    shots: int = 16
    steps: int = 12
    dev: int = 16
    rows: int = 72
    max_input: int = 128

    @property
    def recipe(self) -> Recipe:
        """The recipe "quick", with one test on the dev rows before the first step and one after the last."""
        return RECIPES["quick"].change(
            max_steps=self.steps, eval_every=self.steps, max_input=self.max_input, max_target=16, max_dev=None,
            select="loss",
        )  # fmt: skip

    def drawn(self, task: Task, seed: int) -> Task:
        """One seed's rows. The test rows are the same for all seeds."""
        return task.few_shot(k=self.shots, seed=seed).take("dev", self.dev, seed=seed).take("test", self.rows)

    def __str__(self) -> str:
        return (
            f"{self.shots} shots, {self.steps} steps of {self.recipe.batch_size}, {self.dev} dev and {self.rows} test "
            f"rows, inputs of {self.max_input} tokens"
        )


@dataclass(frozen=True, eq=False)
class Given(Method):
    """A start that is one of the hub's modules, as it is."""

    module: Module
    name = "module"
    source = "the table of transfer"

    def begin(self, draw: Draw, blend: Blend | None) -> Begun:
        """The module without its task head."""
        del draw, blend
        return Begun(self.module.with_head(None))


@dataclass(frozen=True, eq=False)
class Trial:
    """One start of one seed: tested, tuned, and tested again; `calibrating` chooses the calibration of each test."""

    begun: Beginning
    tuning: TuneUnit
    tests: tuple[EvaluateUnit, EvaluateUnit]
    calibrating: tuple[CalibrationChoice, CalibrationChoice]

    @classmethod
    def plan(cls, begun: Beginning, draw: Task, backbone: Backbone, recipe: Recipe) -> "Trial":
        """The units of one start."""
        own = recipe.laid_out_as(begun.module.card.text_format)
        layout = text_format_of(own)
        identity = BackboneInput.of(backbone, layout)
        name = f"{draw.name}, seed {begun.seed}, {begun.label}"
        tuning = TuneUnit.of(draw, identity, start=begun.module, recipe=own, seed=begun.seed, name=name)
        rows = Content(draw.test, draw.fingerprint("test"))
        before, after = (
            EvaluateUnit(identity, module, rows, draw.card.metric, "auto", layout, name=name)
            for module in (begun.module, tuning)
        )
        seen = replace(draw, splits={"dev": draw.dev})  # reading the train rows as well would cost as much as the test
        choices = tuple(CalibrationChoice.plan(each, seen, backbone, method="auto") for each in (before, after))
        return cls(begun, tuning, (before, after), (choices[0], choices[1]))

    def units(self) -> list[Unit]:
        """Everything that is to be run."""
        return [self.tuning, *self.tests, *(unit for choice in self.calibrating for unit in choice.units)]

    def rows(self, found: Results, *, steps: int) -> list[dict[str, Any]]:
        """Four rows of the table: before and after, plain and calibrated."""
        tuned = found.of(self.tuning)
        made = []
        for step, test, choice in zip((0, steps), self.tests, self.calibrating, strict=True):
            plain = test.evaluation(found.of(test))
            for calibration, read in (("none", plain), ("auto", calibrate(plain, choice.made(found)))):
                made.append(
                    {
                        "source": self.begun.label, "seed": self.begun.seed, "step": step, "calibration": calibration,
                        "score": read.score, "loss": read.loss, "choice_loss": choice_loss(read),
                        "rows": len(read.predictions), "metric": read.metric, "chosen": read.calibration.method,
                        "best_step": tuned.facts["best_step"] if step else 0, "digest": self.begun.digest,
                        "seconds": tuned.seconds if step else 0.0,
                    }
                )  # fmt: skip
        return made


def choice_loss(read: Evaluation) -> float:
    """Mean over rows of −log of the share of the right option among the options, as calibrated; NaN for open answers.

    Unlike the loss of the target it does not fall by putting the answers' format above all other texts.
    """
    if not read.scores:
        return math.nan
    found = []
    for scores, options, lengths, row in zip(read.scores, read.options, read.lengths, read.examples, strict=True):
        shares = log_softmax(read.calibration.adjusted(scores, options, lengths))
        found.append(-max(share for share, option in zip(shares, options, strict=True) if option in row.outputs))
    return math.fsum(found) / len(found)


def module_folders(given: Iterable[Path]) -> list[Path]:
    """The folders of modules among those given and directly below them, by name; those without a card are left out."""
    found = {}
    for folder in given:
        inside = [folder] if (folder / "headstart.json").exists() else sorted(folder.iterdir())
        found.update({each.name: each for each in inside if (each / "headstart.json").exists() and each.name[0] != "."})
    return [found[name] for name in sorted(found)]


def measure(
    task: Task,
    modules: Sequence[Module],
    backbone: Backbone,
    *,
    protocol: Protocol,
    baselines: Sequence[str],
    alone: bool,
    seeds: int,
    running: Callable[..., Results],
) -> pd.DataFrame:
    """The rows of one target; modules that were tuned on this very task are left out, with the average then as well.

    `alone`: whether every module is measured by itself.
    """
    others = [module for module in modules if module.card.task != task.name]
    rank = common_rank(others, asked=None)
    pool = Pool(tuple(others), backbone, rank)
    methods = [at_equal_rank(each, rank) for each in parse_methods(baselines, Blend())] if baselines else []
    scored = [each.blend.indicator for each in methods if each.blend is not None and each.needs_scores]
    methods += [Compared(module.name, Given(module), None) for module in others] if alone else []
    tasks = [protocol.drawn(task, seed) for seed in range(seeds)]
    indicators = {"mean": tuple(dict.fromkeys(scored))}
    ranked = rank_draws(tasks, [pool] * seeds, indicators=indicators, recipe=protocol.recipe, run=running)
    draws = [Draw(drawn, seed, pool, own.ranking) for seed, (drawn, own) in enumerate(zip(tasks, ranked, strict=True))]
    begun = begin_all(draws, methods, run=running)
    trials = [
        Trial.plan(each, draw.task, backbone, protocol.recipe)
        for draw, row in zip(draws, begun, strict=True)
        for each in row
    ]
    found = running([unit for trial in trials for unit in trial.units()])
    rows = [row for trial in trials for row in trial.rows(found, steps=protocol.steps)]
    return pd.DataFrame(rows).assign(target=task.name, protocol=str(protocol))


def joined(path: Path, fresh: pd.DataFrame) -> pd.DataFrame:
    """The table at `path` with the fresh rows in place of older ones of the same key; refuses another protocol's."""
    if not path.exists():
        return fresh
    before = pd.read_parquet(path)
    others = set(before["protocol"]) - set(fresh["protocol"])
    if others:
        raise SettingError(f"{path} was measured otherwise ({others.pop()}); repeat those settings, or name another -o")
    return pd.concat([before, fresh], ignore_index=True).drop_duplicates(KEY, keep="last", ignore_index=True)


def write(path: Path, table: pd.DataFrame) -> None:
    """Write the whole table beside `path`, and rename it into place."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(staged)
    staged.replace(path)


class Teller:
    """Prints notes, and how far the work is at most once in ten seconds."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        now = time.monotonic()
        if isinstance(event, Progress) and now - self.last > 10:
            self.last = now
            print(f"{event.what}: {event.done} of {event.total} {event.note}", file=sys.stderr, flush=True)
        elif isinstance(event, Note):
            print(event.text, file=sys.stderr, flush=True)


def table(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure every target in turn and write the table; returns what the JSON line says."""
    protocol = Protocol(asked.shots, asked.steps, asked.dev, asked.rows, asked.max_input)
    backbone = Backbone.load(asked.backbone, device=asked.device, dtype=asked.dtype)
    modules = [load_module(folder) for folder in module_folders(asked.hub)]
    baselines = [name for name in asked.baselines.split(",") if name] + (asked.blend or [])
    store, listener = Store(asked.store), Teller()
    began, rows, failed = time.monotonic(), 0, {}
    computed: dict[str, int] = {}

    def running(units: Sequence[Unit], **how: Any) -> Results:
        found = run(units, store=store, loaders=backbone_loaders(backbone), listener=listener, **how)
        for kind, count in found.tally.computed.items():
            computed[kind] = computed.get(kind, 0) + count
        return found

    for folder in asked.tasks:
        try:
            fresh = measure(
                Task.load(folder), modules, backbone,
                protocol=protocol, baselines=baselines, alone=not asked.blends_only, seeds=asked.seeds, running=running,
            )  # fmt: skip
            whole = joined(asked.output, fresh)
        except HeadstartError as error:
            if asked.strict:
                raise
            failed[folder.name] = str(error)
            continue
        write(asked.output, whole)
        rows = len(whole)
        print(f"{folder.name}: {len(fresh)} rows after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return {
        "modules": len(modules), "targets": len(asked.tasks) - len(failed), "rows": rows, "computed": computed,
        "failed": failed, "protocol": str(protocol), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    usual = Protocol()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", type=Path, help="target tasks' folders or files, measured in this order")
    parser.add_argument("--hub", nargs="+", type=Path, required=True, help="modules' folders, or folders of these")
    parser.add_argument("--backbone", type=Path, required=True, help="the frozen model's folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the table, a Parquet file; rows are joined")
    parser.add_argument("--store", type=Path, required=True, help="where results of units are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=usual.shots, help="rows per class; times 4 without classes")
    parser.add_argument("--steps", type=int, default=usual.steps, help="updates of 8 rows")
    parser.add_argument("--dev", type=int, default=usual.dev, help="dev rows, to choose a state and a calibration")
    parser.add_argument("--rows", type=int, default=usual.rows, help="test rows")
    parser.add_argument("--max-input", type=int, default=usual.max_input, help="tokens of an input")
    parser.add_argument("--baselines", default=",".join(BASELINES), help="further starts; empty for none")
    parser.add_argument(
        "--blend", action="append", help=f"a blend, as a method of compare whose label begins with {BLEND}; repeatable"
    )
    parser.add_argument("--blends-only", action="store_true", help="leave the modules by themselves out")
    parser.add_argument("--threads", type=int, help="of matrix products; default: as torch decides")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--strict", action="store_true", help="stop at a target that fails")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    asked = parsed(words)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    found = table(asked)
    print(json.dumps(found) if asked.json else "\n".join(f"{key:10} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
