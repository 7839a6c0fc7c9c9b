"""`headstart ensemble`."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.forecast import show_forecast
from headstart.cli.narrowing import NarrowingOptions, spent_note
from headstart.cli.options import (
    AsJson,
    BackboneOptions,
    HubOptions,
    Options,
    RecipeOptions,
    ResultOptions,
    TaskOptions,
    WorkOptions,
    command,
)
from headstart.cli.output import console, print_json, print_line
from headstart.cli.progress import UnitCount, listening
from headstart.cli.rank import ReductionOption
from headstart.errors import SettingError
from headstart.indicators.registry import require_named

if TYPE_CHECKING:
    from headstart.blending import Blend

__all__ = ["BlendOptions", "ensemble"]

LEAST_SHOWN = 0.0001


@dataclass(frozen=True)
class BlendOptions(Options):
    """How a hub becomes a start: which weights, and which sum."""

    rule: Annotated[str, typer.Option(help="{rules}; the papers use softmax.")] = "softmax"
    indicator: Annotated[
        str,
        typer.Option(
            "--indicator", "-i", help="Indicator whose scores set the weights; see `headstart list indicators`."
        ),
    ] = "cosine"
    temperature: Annotated[
        float | None,
        typer.Option(help="Softmax temperature τ; default: chosen to give the effective number of modules."),
    ] = None
    effective: Annotated[
        float | None,
        typer.Option(
            help="Effective number of modules, 1/Σw², that τ is chosen to give; default: √n of n modules, at most 4."
        ),
    ] = None
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Blend only the k best modules (rules softmax and top_k).")
    ] = None
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member",
            help="A module that the rule manual averages; repeatable; default: the modules of the task's family.",
        ),
    ] = None
    scale: Annotated[
        str | None,
        typer.Option(
            help="What the blend is multiplied by: a number, or held_out (chosen on held-out loss); default: 1."
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="Where held-out rows come from: train or dev, by which scores are read; default: train."),
    ] = None
    signed: Annotated[
        bool | None, typer.Option("--signed", help="Let the weights of the rule gradient have any sign and sum.")
    ] = None
    l1: Annotated[
        float | None,
        typer.Option(help="Weight of the L1 norm in the rules gradient (signed) and nevergrad; default: 0.05."),
    ] = None
    groups: Annotated[
        int | None,
        typer.Option(
            help="Groups of layers to which the rule gradient gives separate weights; default: one, all layers."
        ),
    ] = None
    space: Annotated[
        str,
        typer.Option(
            help="{spaces}; the papers use parameters, exact keeps ΔW, svd cuts it to --rank, core and "
            "its rules merge in bases that modules share, and auto takes parameters where shapes are equal and no "
            "--rank is given, else svd."
        ),
    ] = "auto"
    rank: Annotated[
        int | None,
        typer.Option(help="Rank that svd and the core spaces cut to; default: the largest rank of the modules."),
    ] = None
    density: Annotated[
        float | None,
        typer.Option(help="Share of each module's numbers that ties, core_ties and dare keep; default: half."),
    ] = None
    reduction: ReductionOption = "mean"

    def load(self) -> "Blend":
        """The requested blend. Raises `SettingError` for an unknown rule, space or indicator, without importing it."""
        from headstart.blending import RULES, SPACES, Blend

        fields = vars(self) | {"members": tuple(self.member or ())}
        blend = Blend(**{name: value for name, value in fields.items() if name != "member"})
        RULES.require(blend.rule)
        SPACES.require(blend.space)
        if "," not in blend.indicator:  # that one is needed is said where it is read
            require_named([blend.indicator])
        return blend

    def of_file(self, path: Path) -> "Blend":
        """The blend that a recipe file states. Raises `SettingError` for options beside it."""
        from headstart.blending.given import read_recipe_file

        for field in fields(self):
            if getattr(self, field.name) != field.default:
                name = field.name.replace("_", "-")
                raise SettingError(f"--recipe-file says how the modules are blended; leave out it or --{name}")
        return read_recipe_file(path)


@command
def ensemble(
    task: TaskOptions,
    hub: HubOptions,
    backbone: BackboneOptions,
    blend: BlendOptions,
    recipe: RecipeOptions,
    narrowing: NarrowingOptions,
    work: WorkOptions,
    result: ResultOptions,
    recipe_file: Annotated[
        Path | None,
        typer.Option("--recipe-file", help="YAML file of modules and weights, modules: {paws: 0.7, qqp: 0.3}."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Blend a hub's modules into a start for TASK, by default Σ softmax(S_i / τ) O_i, and save it as a PEFT folder."""
    output = result.folder()
    from headstart.ranking.race import BLENDED

    narrowed = narrowing.chosen(winners=BLENDED)
    chosen, opened, data = recipe.load(), hub.open(), task.load()
    asked = blend.load() if recipe_file is None else blend.of_file(recipe_file)
    from headstart.blending import require_blendable

    require_blendable(asked, opened, family=data.card.family)
    model = backbone.load(opened)
    from headstart.blending.ensemble import blend_note, weight_table
    from headstart.blending.ensemble import ensemble as run
    from headstart.kinds import save_module

    call = partial(
        run, data, opened, model, blend=asked, recipe=chosen, seed=task.seed, name=output.name, store=work.store,
        **narrowed,
    )  # fmt: skip
    if result.dry_run:
        show_forecast(call, as_json=as_json)
        return
    with listening(f"blending for {data.name}") as listener:
        units = UnitCount(listener)
        start = call(engine=work.engine, progress=units)
    saved = save_module(start.module, output)
    frame = weight_table(start)
    if as_json:
        print_json(
            {
                "card": saved.card.model_dump(mode="json"), "rule": start.rule, "indicator": start.indicator,
                "temperature": start.temperature, "space": start.merged.space, "scale": start.merged.scale,
                "effective": start.merged.effective, "error": start.merged.error,
                "refused": [vars(module) for module in start.left_out], "units": units.to_json(),
            }
        )  # fmt: skip
        return
    from headstart.reports.console import print_table

    shown = frame[frame["weight"].abs() >= LEAST_SHOWN].drop(columns=["task", "license"])
    none = int((frame["weight"] == 0).sum())
    less = len(frame) - len(shown) - none
    rest = f"; {less} more {'weighs' if less == 1 else 'each weigh'} less than {LEAST_SHOWN}" if less else ""
    rest += f"; {none} {'has' if none == 1 else 'have'} no weight" if none else ""
    print_table(shown, console(), title=f"{data.name}: what the start is made of{rest}")
    print_line(f"{blend_note(start)}. Saved {output}.")
    stages = dict(zip(start.ranking.scores.names, start.ranking.stage, strict=True))
    for module in start.left_out:
        if stages.get(module.name, "").startswith(("left in round", "retrieved out")):
            continue  # there are hundreds, and the table counts them
        print_line(f"takes no part: {module.name}: {module.reason}", error=True)
    if start.ranking.tokens is not None:
        print_line(spent_note(start.ranking))
    units.say()
