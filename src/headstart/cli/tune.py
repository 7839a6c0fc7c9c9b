"""`headstart tune`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.forecast import show_forecast
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    CalibrationOption,
    RecipeOptions,
    ResultOptions,
    TaskOptions,
    WorkOptions,
    command,
)
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import UnitCount, listening

if TYPE_CHECKING:
    from headstart.tasks import Task

__all__ = ["tune"]


@dataclass(frozen=True)
class TunedTask(TaskOptions):
    """The task that a module is tuned on."""

    train_rows: Annotated[int | None, typer.Option(help="Tune on at most this many training rows.")] = None
    family: Annotated[str | None, typer.Option(help="Family to use instead of the task card's.")] = None

    def load(self) -> "Task":
        """The task, drawn and cut to size."""
        task = self.drawn(self.whole(family=self.family))
        return task if self.train_rows is None else task.take("train", self.train_rows, seed=self.seed)


@command
def tune(
    task: TunedTask,
    backbone: BackboneOptions,
    recipe: RecipeOptions,
    work: WorkOptions,
    result: ResultOptions,
    start: Annotated[Path | None, typer.Option(help="PEFT folder to begin from instead of random values.")] = None,
    name: Annotated[str | None, typer.Option(help="Name on the module's card; default: the folder's.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the tuned module, for its card.")] = "",  # noqa: A002
    calibration: CalibrationOption = "auto",
    tracker: Annotated[str | None, typer.Option(help="accelerate tracker: tensorboard, wandb …")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a module on TASK and save the best state as a PEFT folder. A killed run continues with the same command."""
    output = result.folder()
    chosen, data = recipe.load(start=start), task.load()
    from headstart.formats import read_module

    begin = read_module(start.expanduser()) if start else None  # before torch, so that a mistake is told at once
    model = backbone.load(begin)
    from headstart.kinds import save_module
    from headstart.tuning.tune import tune as run

    call = partial(
        run, data, model, start=begin, recipe=chosen, seed=task.seed, name=name or output.name, license=license,
        calibration=calibration, tracker=tracker, store=work.store,
    )  # fmt: skip
    if result.dry_run:
        show_forecast(call, as_json=as_json)
        return
    with listening(f"tuning on {data.name}") as listener:
        units = UnitCount(listener)
        tuned = call(engine=work.engine, progress=units)
    saved = save_module(tuned.module, output)
    if as_json:
        curve = [vars(point) for point in tuned.curve]
        card = saved.card.model_dump(mode="json")
        print_json({"module": card, "curve": curve, "notes": tuned.notes, "units": units.to_json()})
        return
    import pandas as pd

    from headstart.reports.console import print_table

    frame = pd.DataFrame([vars(point) for point in tuned.curve])
    print_table(frame, console(), title=f"Tuning on {data.name}")
    for note in (*tuned.notes, *filter(None, [tuned.advice])):
        print_line(note)
    made = saved.card.calibration
    calibrated = ""
    if made and made.method != "none" and saved.card.score is not None:
        calibrated = f", {saved.card.score:.4f} with the calibration it was saved with ({made.method})"
    print_line(
        f"Saved {output}: dev {data.card.metric} {tuned.best.dev_score:.4f} at step {tuned.best.step}{calibrated}; "
        f"dev loss {tuned.best.dev_loss:.4f}; {tuned.seconds:.0f} s on {model.device} in "
        f"{str(model.dtype).removeprefix('torch.')}."
    )
    units.say()
