"""`headstart compare`."""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.ensemble import BlendOptions
from headstart.cli.following import following
from headstart.cli.forecast import show_forecast
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    CalibrationOption,
    HubOptions,
    RecipeOptions,
    ResultOptions,
    TaskOptions,
    WorkOptions,
    command,
)
from headstart.cli.output import command_line, console, print_json, print_line
from headstart.cli.progress import UnitCount, listening
from headstart.indicators.registry import require_named

if TYPE_CHECKING:
    from headstart.comparing.decision import Decision
    from headstart.tasks import Task

__all__ = ["compare"]


@dataclass(frozen=True)
class ComparedTask(TaskOptions):
    """The task of a comparison, which draws its few-shot rows itself, once per seed."""

    seed: Annotated[
        int,
        typer.Option(
            help="Seed for splitting a file and choosing test rows; the draws have seeds of their own, from 0."
        ),
    ] = 0
    test_rows: Annotated[int | None, typer.Option(help="Test on at most this many rows of the test split.")] = None

    def cut(self, task: "Task") -> "Task":
        """The task with its test split cut to size."""
        return task if self.test_rows is None else task.take("test", self.test_rows, seed=self.seed)


@command
def compare(
    context: typer.Context,
    task: ComparedTask,
    hub: HubOptions,
    backbone: BackboneOptions,
    blend: BlendOptions,
    recipe: RecipeOptions,
    work: WorkOptions,
    result: ResultOptions,
    seeds: Annotated[
        int, typer.Option(help="Number of few-shot draws, each with its own fresh module and order of rows.")
    ] = 3,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method to compare; repeatable: {methods}, or a rule with settings, such as "
            "'mine=softmax:indicator=loss,temperature=0.1'; default: all but manual.",
        ),
    ] = None,
    own_ranks: Annotated[
        bool,
        typer.Option("--own-ranks", help="Let every start keep its own rank and layers; default: all get the same."),
    ] = False,
    also: Annotated[list[str] | None, typer.Option("--also", help="Further indicators to show: loss,el2n.")] = None,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    calibration: CalibrationOption = "auto",
    keep: Annotated[
        str | None,
        typer.Option(help="Save tuned modules in the folder modules of the report: best (by dev score) or all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways to start on TASK, before and after tuning, and write a report.

    A killed comparison continues with the same command: what is finished is kept in the store.
    """
    output = result.folder()
    chosen, opened, whole = recipe.load(), hub.open(), task.whole()
    data = task.cut(whole)
    blended = blend.load()
    from headstart.comparing.methods.naming import require_methods

    require_methods(method or ())
    require_named(also or ())  # before the backbone, which takes long to load
    model = backbone.load(opened)
    from headstart.comparing.compare import compare as run
    from headstart.comparing.comparison import DEFAULT_METHODS
    from headstart.comparing.decision import decide
    from headstart.reports.console import print_summary
    from headstart.reports.html import write_report

    call = partial(
        run, data, opened, model, methods=method or DEFAULT_METHODS, seeds=seeds, shots=task.shots, blend=blended,
        equal_rank=not own_ranks, indicators=also or (), recipe=chosen, decoding=decoding, calibration=calibration,
        keep=keep, store=work.store,
    )  # fmt: skip
    if result.dry_run:
        show_forecast(call, as_json=as_json)
        return
    with listening(f"comparing on {data.name}") as listener:
        units = UnitCount(listener)
        comparison = call(engine=work.engine, progress=units)
    told = {"command": command_line(), "test_rows_there": len(whole.test)}
    comparison = replace(comparison, settings=comparison.settings | told)
    decision = decide(comparison)
    after = next_command(context, decision, rows=len(whole.test))
    comparison = replace(comparison, settings=comparison.settings | {"next": after})
    write_report(comparison, output)
    if as_json:
        print_json(
            {
                "report": str(output / "report.html"), "decision": asdict(decision),
                "comparison": json.loads(comparison.to_json()), "units": units.to_json(),
            }
        )  # fmt: skip
        return
    print_summary(comparison, console())
    if after:
        print_line(f"What to type now: {after}")
    print_line(f"Report: {output / 'report.html'}")
    if comparison.modules:
        print_line(f"Modules: {', '.join(str(output / 'modules' / name) for name in comparison.modules)}")
    units.say()


def next_command(context: typer.Context, decision: "Decision", *, rows: int) -> str:
    """The command to type next: to use the start on all rows, to tune a fresh module, or to know more; "" if none.

    `rows`: how many test rows there are.
    """
    if decision.choice == "use":
        return following(context, "fit", "--start", decision.method, "-o", "my-module", without={"--shots", "--output"})
    if decision.choice == "fresh":
        return following(context, "tune", "-o", "my-module", without={"--shots", "--output"})
    possible = {"--seeds": decision.seeds_needed, "--test-rows": decision.rows_needed}
    for option, needed in possible.items():
        if not math.isnan(needed) and (option == "--seeds" or needed <= rows):
            return following(
                context, "compare", option, f"{needed:.0f}", "-o", "my-report", without={option, "--output"}
            )
    return ""
