"""`headstart compare`."""

import json
import shutil
from typing import Annotated

import typer

from headstart.atomic import refuse_existing
from headstart.cli.ensemble import (
    DensityOption,
    GroupOption,
    IndicatorOption,
    RankToOption,
    RuleOption,
    SpaceOption,
    TemperatureOption,
    TopOption,
)
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
from headstart.cli.rank import ReductionOption

__all__ = ["compare"]


def compare(
    task: TaskArgument,
    hub: HubOption,
    backbone: BackboneOption,
    output: OutputOption,
    kind: KindOption = None,
    seeds: Annotated[int, typer.Option(help="Few-shot draws, each with its own fresh module and order.")] = 3,
    shots: ShotsOption = None,
    rule: RuleOption = "softmax",
    indicator: IndicatorOption = "cosine",
    also: Annotated[list[str] | None, typer.Option("--also", help="Further indicators to show; repeatable.")] = None,
    temperature: TemperatureOption = None,
    top_k: TopOption = None,
    group: GroupOption = None,
    space: SpaceOption = "parameters",
    rank_to: RankToOption = None,
    density: DensityOption = None,
    reduction: ReductionOption = "mean",
    recipe: RecipeOption = "few-shot",
    settings: SetOption = None,
    test_rows: Annotated[int | None, typer.Option(help="Test on at most this many rows of the test split.")] = None,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    metric: MetricOption = None,
    seed: Annotated[
        int, typer.Option(help="Seed of a file's split and of the test rows; the draws' own seeds count from 0.")
    ] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare scratch, average, best single and ensemble on TASK, before and after tuning, and write a report.

    A killed comparison continues with the same command; finished units lie beside the report until it is done.
    """
    refuse_existing(output)
    chosen = load_recipe(recipe, settings)
    opened = open_hub(hub, kind)
    data = load_task(task, metric, seed=seed)
    data = data.take("test", test_rows, seed=seed) if test_rows is not None else data
    model = load_backbone(backbone, device, dtype)
    from headstart.comparing.compare import Blend
    from headstart.comparing.compare import compare as run
    from headstart.reports.console import print_summary
    from headstart.reports.html import write_report

    work = output.with_name(f"{output.name}.units.partial")
    with steps_bar() as show:
        comparison = run(
            data, opened, model, seeds=seeds, shots=shots,
            blend=Blend(
                indicator, temperature, top_k, space, rank_to, reduction, density, rule=rule, group=tuple(group or ())
            ),
            indicators=also or (), recipe=chosen, decoding=decoding, work=work, progress=show,
        )  # fmt: skip
    write_report(comparison, output)
    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print_json({"report": str(output / "report.html"), "comparison": json.loads(comparison.to_json())})
        return
    print_summary(comparison, console())
    print_line(f"Report: {output / 'report.html'}")
