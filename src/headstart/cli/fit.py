"""`headstart fit`."""

import json
import shlex
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.ensemble import BlendOptions
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
from headstart.fitting.defaults import DEFAULTS
from headstart.showing import capitalized

if TYPE_CHECKING:
    from headstart.blending import Blend
    from headstart.tasks import Task

__all__ = ["fit"]


STEPS, INPUT, FOLDS = 16, 128, 3
"""What a dry run advises to come down to, in steps, in tokens of an input, and in folds."""

READ = 1000
"""Of so many rows a dry run looks for the longest input."""


@dataclass(frozen=True)
class FittedTask(TaskOptions):
    """The task that a module is fitted to."""

    family: Annotated[str | None, typer.Option(help="Family to use instead of the task card's.")] = None

    def load(self) -> "Task":
        """The task, with a few-shot draw if requested."""
        return self.drawn(self.whole(family=self.family))


@dataclass(frozen=True)
class FitRecipe(RecipeOptions):
    """How every method is tuned: quickly, because the guard tunes several on every fold."""

    recipe: Annotated[str, typer.Option(help="Named recipe: {recipes}.")] = DEFAULTS.recipe


def shorter(steps: int, longest: int, *, starts: int, folds: int) -> str:
    """What makes a fit of so many steps, starts and folds shorter, whose longest input has so many tokens; "" if none.

    >>> shorter(48, 36, starts=3, folds=5)
    'To make it shorter: fewer steps (--set max_steps=16), fewer starts (--start ensemble), fewer folds (--folds 3). \
What is found then holds for so many steps, fewer folds show less.'
    """
    ways = {
        f"fewer steps (--set max_steps={STEPS})": steps > STEPS,
        f"shorter inputs (--set max_input={INPUT}; the longest has {longest} tokens)": longest > INPUT,
        "fewer starts (--start ensemble)": starts > 1,
        f"fewer folds (--folds {FOLDS})": folds > FOLDS,
    }
    prices = {"what is found then holds for so many steps": steps > STEPS, "fewer folds show less": folds > FOLDS}
    told, cost = (", ".join(way for way, helps in each.items() if helps) for each in (ways, prices))
    return f"To make it shorter: {told}.{f' {capitalized(cost)}.' if cost else ''}" if told else ""


def _blend_of(options: BlendOptions) -> "Blend":
    """The default blend of a fit with what the options change; another rule takes over none of its settings."""
    usual, asked = BlendOptions().load(), options.load()
    if asked.rule != usual.rule:
        return asked
    changed = {name: value for name, value in asked.model_dump().items() if value != getattr(usual, name)}
    return DEFAULTS.blend.change(**changed)


@command
def fit(
    task: FittedTask,
    hub: HubOptions,
    backbone: BackboneOptions,
    blend: BlendOptions,
    recipe: FitRecipe,
    work: WorkOptions,
    result: ResultOptions,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="Start that may be used; repeatable, as --method of compare; default: average, best_single, ensemble."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Into how many parts the examples are cut, to be held out in turn.")
    ] = DEFAULTS.folds,
    held_out: Annotated[
        int, typer.Option(help="Answer at most this many of them, drawn at random.")
    ] = DEFAULTS.held_out,
    name: Annotated[str | None, typer.Option(help="Name on the module's card; default: the folder's.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the tuned module, for its card.")] = "",  # noqa: A002
    retrieve: Annotated[
        int | None,
        typer.Option(
            help="Of a larger hub, retrieve this many modules by a short tuning; "
            f"default: {DEFAULTS.retrieved} of more than {DEFAULTS.all_raced:,}, else all."
        ),
    ] = None,
    test_rows: Annotated[
        int, typer.Option(help="Answer at most this many rows of the test split.")
    ] = DEFAULTS.test_rows,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    calibration: CalibrationOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Make a tuned module for TASK, begun from a hub's modules if that is shown to help, else from scratch.

    The modules are ranked and blended, a guard holds examples out to find whether a start is better than scratch and
    than a random module, and the chosen one is tuned on all rows of train, its state chosen on those of dev. The folder
    holds the module, and a page that says what was found (report.html). A second run only reads what the first one left
    in the store.
    """
    from headstart.comparing.methods.naming import require_methods

    output = result.folder()
    require_methods(start or ())  # before the backbone, which takes long to load
    chosen, opened, data = recipe.load(), hub.open(), task.load()
    blended = _blend_of(blend)
    model = backbone.load(opened)
    from headstart.fitting.fit import fit as run
    from headstart.reports.fit_console import print_fit
    from headstart.reports.html import write_report

    call = partial(
        run, data, opened, model, starts=start or DEFAULTS.starts, blend=blended, folds=folds, held_out=held_out,
        recipe=chosen, name=name or output.name, license=license, decoding=decoding, calibration=calibration,
        retrieve=retrieve, test_rows=test_rows, seed=task.seed, store=work.store,
    )  # fmt: skip
    if result.dry_run:
        forecast = show_forecast(call, as_json=as_json)
        if not as_json and any(each.compute for each in forecast.expected):
            rows = [row for each in ("train", "dev") for row in data.splits.get(each, ())][:READ]
            longest = max((len(model.tokenizer(row.input)["input_ids"]) for row in rows), default=0)
            longest = min(longest, chosen.max_input)
            print_line(shorter(chosen.max_steps, longest, starts=len(start or DEFAULTS.starts), folds=folds))
        return
    with listening(f"fitting to {data.name}") as listener:
        units = UnitCount(listener)
        fitted = call(engine=work.engine, progress=units)
    record = replace(fitted.record, settings={**fitted.record.settings, "command": command_line()})
    fitted = replace(fitted, record=record)
    write_report(fitted, output)
    if as_json:
        print_json({"module": str(output), "fit": json.loads(record.to_json()), "units": units.to_json()})
        return
    print_fit(record, console())
    print_line(f"Module: {output}   Page: {output / 'report.html'}")
    print_line(f"It answers new rows: {shlex.join(['headstart', 'predict', str(output), 'new-rows.csv'])}")
    units.say()
