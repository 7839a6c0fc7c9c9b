"""`headstart ensemble`."""

from typing import Annotated

import typer

from headstart.atomic import refuse_existing
from headstart.cli.options import (
    AsJson,
    BackboneOption,
    DeviceOption,
    DtypeOption,
    HubOption,
    KindOption,
    MetricOption,
    OutputOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ShotsOption,
    TaskArgument,
    console,
    load_backbone,
    load_recipe,
    load_task,
    open_hub,
    print_json,
    print_line,
    steps_bar,
)
from headstart.cli.rank import ReductionOption, print_gaps

__all__ = [
    "DensityOption",
    "GroupOption",
    "IndicatorOption",
    "RankToOption",
    "RuleOption",
    "SpaceOption",
    "TemperatureOption",
    "TopOption",
    "ensemble",
]

RuleOption = Annotated[str, typer.Option(help="softmax (papers), uniform, top_k, best_single, manual.")]
GroupOption = Annotated[
    list[str] | None,
    typer.Option("--group", help="Module that rule manual averages, repeatable; default: all of the task's family."),
]
IndicatorOption = Annotated[str, typer.Option("--indicator", "-i", help="Whose scores set the weights.")]
DensityOption = Annotated[
    float | None, typer.Option(help="Share of each module's numbers that ties and dare keep; default: a half.")
]
TemperatureOption = Annotated[float | None, typer.Option(help="Softmax temperature τ; default: the indicator's own.")]
TopOption = Annotated[int | None, typer.Option("--top-k", help="Blend only the k best modules: softmax, top_k.")]
SpaceOption = Annotated[
    str, typer.Option(help="parameters (papers), exact (ΔW kept), svd (cut to --rank), ties, dare.")
]
RankToOption = Annotated[
    int | None, typer.Option("--rank", help="Rank that space svd cuts to; default: the modules' own.")
]

LEAST_SHOWN = 0.0001


def ensemble(
    task: TaskArgument,
    hub: HubOption,
    backbone: BackboneOption,
    output: OutputOption,
    kind: KindOption = None,
    rule: RuleOption = "softmax",
    indicator: IndicatorOption = "cosine",
    temperature: TemperatureOption = None,
    top_k: TopOption = None,
    group: GroupOption = None,
    space: SpaceOption = "parameters",
    rank_to: RankToOption = None,
    density: DensityOption = None,
    reduction: ReductionOption = "mean",
    shots: ShotsOption = None,
    recipe: RecipeOption = "few-shot",
    settings: SetOption = None,
    metric: MetricOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Blend a hub into a start for TASK, by default Σ softmax(S_i / τ) O_i, and save it as a PEFT folder."""
    refuse_existing(output)
    chosen = load_recipe(recipe, settings)
    opened = open_hub(hub, kind)
    data = load_task(task, metric, seed=seed)
    data = data.few_shot(k=shots, seed=seed) if shots is not None else data
    model = load_backbone(backbone, device, dtype)
    from headstart.blending.ensemble import blend_note, weight_table
    from headstart.blending.ensemble import ensemble as run
    from headstart.kinds import save_module

    with steps_bar() as show:
        start = run(
            data, opened, model, rule=rule, indicator=indicator, temperature=temperature, top_k=top_k,
            group=group or (), space=space, rank_to=rank_to, density=density, reduction=reduction, recipe=chosen,
            seed=seed, name=output.name, progress=show,
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
