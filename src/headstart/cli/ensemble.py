"""`headstart ensemble`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from headstart.atomic import refuse_existing
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    HubOptions,
    Options,
    OutputOption,
    RecipeOptions,
    TaskOptions,
    command,
)
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import listening, phased
from headstart.cli.rank import ReductionOption, print_gaps

__all__ = ["BlendOptions", "ensemble"]

LEAST_SHOWN = 0.0001


@dataclass(frozen=True)
class BlendOptions(Options):
    """How a hub becomes a start: whose weights, and which sum."""

    rule: Annotated[str, typer.Option(help="softmax (papers), uniform, top_k, best_single, manual.")] = "softmax"
    indicator: Annotated[str, typer.Option("--indicator", "-i", help="Whose scores set the weights.")] = "cosine"
    temperature: Annotated[float | None, typer.Option(help="Softmax temperature τ; default: the indicator's own.")] = (
        None
    )
    top_k: Annotated[int | None, typer.Option("--top-k", help="Blend only the k best modules: softmax, top_k.")] = None
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Module that rule manual averages, repeatable; default: the task's family."),
    ] = None
    space: Annotated[
        str, typer.Option(help="parameters (papers), exact (ΔW kept), svd (cut to --rank), ties, dare.")
    ] = "parameters"
    rank_to: Annotated[
        int | None, typer.Option("--rank", help="Rank that space svd cuts to; default: the modules' own.")
    ] = None
    density: Annotated[
        float | None, typer.Option(help="Share of each module's numbers that ties and dare keep; default: a half.")
    ] = None
    reduction: ReductionOption = "mean"


@command
def ensemble(
    task: TaskOptions,
    hub: HubOptions,
    backbone: BackboneOptions,
    blend: BlendOptions,
    recipe: RecipeOptions,
    output: OutputOption,
    as_json: AsJson = False,
) -> None:
    """Blend a hub into a start for TASK, by default Σ softmax(S_i / τ) O_i, and save it as a PEFT folder."""
    refuse_existing(output)
    chosen, opened, data = recipe.load(), hub.open(), task.load()
    model = backbone.load()
    from headstart.blending.ensemble import blend_note, weight_table
    from headstart.blending.ensemble import ensemble as run
    from headstart.kinds import save_module

    settings = {**vars(blend), "group": blend.group or ()}
    with listening(f"blending for {data.name}") as listener:
        start = run(
            data, opened, model, **settings, recipe=chosen, seed=task.seed, name=output.name,
            progress=phased(listener),
        )  # fmt: skip
    saved = save_module(start.module, output)
    frame = weight_table(start)
    if as_json:
        print_json(
            {
                "card": saved.card.model_dump(mode="json"), "rule": start.rule, "indicator": start.indicator,
                "temperature": start.temperature, "space": start.merged.space, "effective": start.merged.effective,
                "error": start.merged.error, "refused": [vars(module) for module in start.ranking.refused],
            }
        )  # fmt: skip
        return
    from headstart.reports.console import print_table

    shown = frame[frame["weight"] >= LEAST_SHOWN].drop(columns=["task", "license"])
    out = int((frame["weight"] == 0).sum())
    less = len(frame) - len(shown) - out
    rest = f"; {less} more weigh less than {LEAST_SHOWN} each" if less else ""
    rest += f"; {out} take no part" if out else ""
    print_table(shown, console(), title=f"{data.name}: what the start is made of{rest}")
    print_line(f"{blend_note(start)}. Saved {output}.")
    print_gaps(start.ranking)
