"""`headstart rank`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.families import legend
from headstart.cli.forecast import DryRunOption, show_forecast
from headstart.cli.narrowing import NarrowingOptions, spent_note
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    HubOptions,
    RecipeOptions,
    TaskOptions,
    WorkOptions,
    command,
)
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import UnitCount, listening
from headstart.indicators.registry import require_named
from headstart.showing import plural
from headstart.specs import Spec

if TYPE_CHECKING:
    from headstart.ranking.rank import Ranking
    from headstart.records import ModuleCard

__all__ = ["ReductionOption", "print_gaps", "rank"]

ReductionOption = Annotated[str, typer.Option(help="Over the target tokens: mean or sum.")]


EXPLAINED = 4
"""A table of so many indicators at most says what each of them is."""


@command
def rank(
    task: TaskOptions,
    hub: HubOptions,
    backbone: BackboneOptions,
    recipe: RecipeOptions,
    narrowing: NarrowingOptions,
    work: WorkOptions,
    indicators: Annotated[
        list[str] | None,
        typer.Option("--indicator", "-i", help="{indicators}; several: loss,cosine; for a part: grand:block=3."),
    ] = None,
    reduction: ReductionOption = "mean",
    rows: Annotated[int | None, typer.Option(help="Dev rows to score on; default 30 with classes, else 50.")] = None,
    dry_run: DryRunOption = False,
    as_json: AsJson = False,
) -> None:
    """Score every module of a hub for TASK by the indicators asked for, in one pass; higher is better.

    From a large hub, --retrieve takes the modules that are worth a pass; --race stops reading those that cannot win.
    """
    chosen, narrowed, opened, data = recipe.load(), narrowing.chosen(), hub.open(), task.load()
    asked = indicators or ["cosine"]
    require_named(asked)  # before the backbone, which takes long to load
    model = backbone.load(opened)
    from headstart.ranking.rank import rank as run

    call = partial(
        run, data, opened, model, indicators=asked, reduction=reduction, rows=rows, recipe=chosen,
        bare=True, seed=task.seed, store=work.store, **narrowed,
    )  # fmt: skip
    if dry_run:
        show_forecast(call, as_json=as_json)
        return
    with listening(f"ranking for {data.name}") as listener:
        units = UnitCount(listener)
        ranking = call(engine=work.engine, progress=units)
    if as_json:
        print_json({"task": data.name, "reduction": reduction, **_facts(ranking), "units": units.to_json()})
        return
    _show(ranking, task=data.name, reduction=reduction, there=len(data.dev))
    if ranking.reference is not None:
        print_line(reference_note(ranking.reference.card, through_head=model.is_encoder))
    print_gaps(ranking)
    units.say()


def _facts(ranking: "Ranking") -> dict[str, Any]:
    """The ranking as JSON data."""
    found, spent = ranking.scores, ranking.tokens
    return {
        "examples": found.examples, "tokens": found.tokens, "modules": ranking.frame().to_dict("records"),
        "bare": dict(ranking.bare), "refused": [vars(module) for module in ranking.refused], "reasons": found.reasons,
        **({} if spent is None else {"spent": vars(spent) | {"share": spent.share}}),
    }  # fmt: skip


def _show(ranking: "Ranking", *, task: str, reduction: str, there: int) -> None:
    """Print the modules that were scored, and what it took where not all were; `there`: all dev rows."""
    from headstart.ranking.rounds import RETRIEVED_OUT
    from headstart.reports.cells import MEANS, number_text
    from headstart.reports.console import print_table

    frame, found = ranking.frame(), ranking.scores
    title = (
        f"{task}: {plural(len(frame), 'module')} on {plural(found.examples, 'dev row')}"
        f"{f' of {there:,} (--rows)' if there > found.examples else ''}, {reduction} over "
        f"{plural(found.tokens, 'target token')}"
    )
    shown = frame.drop(columns=["task", "license"])
    if ranking.tokens is not None:
        shown = shown[shown["stage"] != RETRIEVED_OUT]
    print_table(shown, console(), title=title)
    if ranking.bare:
        values = ", ".join(f"{name} {number_text(value, digits=3)}" for name, value in ranking.bare.items())
        print_line(f"The bare backbone, to compare with: {values}.")
    names = [*dict.fromkeys(Spec.parse(each).name for each in found.values)]
    if len(names) <= EXPLAINED:
        for line in legend("indicators", names):
            print_line(line)
        for name in names:
            if name in MEANS:
                print_line(f"In {name}, {MEANS[name]}.")
    print_line(
        (
            "Higher is better."
            if ranking.tokens is not None
            else f"Higher is better; sorted by {next(iter(found.values))}."
        )
        + " What each is: headstart list indicators." * (len(names) > EXPLAINED)
    )
    if ranking.tokens is not None:
        out = len(frame) - len(shown)
        if out:
            were, them = ("was", "it") if out == 1 else ("were", "them")
            print_line(f"{plural(out, 'other module')} {were} not retrieved, and not scored; --json names {them}.")
        print_line(spent_note(ranking))


def reference_note(card: "ModuleCard", *, through_head: bool) -> str:
    """One line on the reference module: how good it is, which limits what comparisons with it are worth."""
    score = "no score" if card.score is None else f"{card.score:.4f}"
    what = "Every module answered through the task head of" if through_head else "Compared with"
    return f"{what} a reference module tuned on the task: dev {card.metric} {score}."


def print_gaps(ranking: "Ranking") -> None:
    """Report on standard error which modules took no part or have no value, and why."""
    for module in ranking.refused:
        print_line(f"refused {module.name}: {module.reason}", error=True)
    unread = {name for name, each in zip(ranking.scores.names, ranking.standings, strict=False) if not each.rows}
    for indicator, reasons in ranking.scores.reasons.items():
        for name, reason in reasons.items():
            if name in unread:
                continue
            print_line(f"no {indicator} of {name}: {reason}", error=True)
