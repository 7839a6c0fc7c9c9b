"""`headstart search`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.forecast import DryRunOption, show_forecast
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    HubOptions,
    ReadingOptions,
    RecipeOptions,
    WorkOptions,
    command,
)
from headstart.cli.output import print_json, print_line, print_rows
from headstart.cli.progress import UnitCount, listening

if TYPE_CHECKING:
    from headstart.ranking.search import SearchResult

__all__ = ["search"]

SHOWN = 5
"""How many of the modules that are left out are named one by one."""


@command
def search(
    reading: ReadingOptions,
    hub: HubOptions,
    recipe: RecipeOptions,
    work: WorkOptions,
    backbone: BackboneOptions,
    task: Annotated[
        str | None, typer.Argument(help="Task as for `headstart rank`; its own module is tuned for up to 200 steps.")
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="In place of TASK: a module of the hub by its name, or a folder.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="In place of TASK: words, which are compared with those of the cards.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option("--embedding", "-e", help="{embeddings}; default: gram for LoRA, else tupate.")
    ] = None,
    centre: Annotated[bool, typer.Option("--centre", help="Subtract the mean of the hub's vectors first.")] = False,
    family: Annotated[str | None, typer.Option("--family", help="Only modules of this family of tasks.")] = None,
    license_id: Annotated[str | None, typer.Option("--license", help="Only modules under this licence.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many modules at most.")] = 20,
    near: Annotated[
        float, typer.Option("--near", help="Cosine from which on modules are listed as one; 1 lists each by itself.")
    ] = 0.98,
    index: Annotated[
        str, typer.Option("--index", help="exact (one matrix), or lancedb (approximate, for very large hubs).")
    ] = "exact",
    dry_run: DryRunOption = False,
    as_json: AsJson = False,
) -> None:
    """Find the modules of a hub whose tasks are most similar to TASK, to a module (--like) or to words (--text)."""
    from headstart.ranking.search import search as run

    chosen, opened = "few-shot" if task is None else recipe.load(), hub.open()
    data = None if task is None else reading.drawn(reading.read(task))
    asked: dict[str, Any] = {"like": like, "text": text, "family": family, "license": license_id}
    model = None if data is None else backbone.load(opened)
    call = partial(
        run, data, opened, model, **asked, embedding=embedding, centre=centre, limit=limit, near=near, index=index,
        recipe=chosen, seed=reading.seed, store=work.store,
    )  # fmt: skip
    if dry_run:
        show_forecast(call, as_json=as_json)
        return
    with listening("searching") as listener:
        units = UnitCount(listener)
        found = call(engine=work.engine, progress=units)
    if as_json:
        print_json(
            {
                "query": found.query, "method": found.method, "near": found.near, "compared": len(found.modules),
                "modules": found.rows(), "left_out": [vars(one) for one in found.left_out], "units": units.to_json(),
            }
        )  # fmt: skip
        return
    _show(found)
    units.say()


def _show(found: "SearchResult") -> None:
    print_line(found.title)
    rows = [{**row, "similarity": f"{row['similarity']:.4f}", "like": ", ".join(row["like"])} for row in found.rows()]
    names = ("module", "similarity", "kind", "task", "family", "license", "like")
    columns = [name for name in names if any(row[name] for row in rows)]
    print_rows(rows, columns, whole=("similarity",))
    for one in found.left_out[:SHOWN]:
        print_line(f"left out {one.name}: {one.reason}", error=True)
    if len(found.left_out) > SHOWN:
        print_line(f"{len(found.left_out) - SHOWN} more were left out; --json names them", error=True)
